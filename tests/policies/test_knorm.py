"""Knorm against the norm written out, and the sign that is easily wrong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kvpress import knorm
from kvpress.policies.knorm import KeyNorm
from tests.helpers import kept
from tests.models import shared, tokens
from tests.policies.scoring import ROUNDED, compare, padded


def by_hand(k: Tensor, v: Tensor) -> list[float]:
    return [-math.sqrt(sum(x * x for x in key)) for key in k.tolist()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_formula(dtype: torch.dtype) -> None:
    compare(KeyNorm(), by_hand, *padded(dtype=dtype), ROUNDED)


def test_small_keys_stay() -> None:
    model, ids = shared("llama"), torch.arange(2, 42)[None]
    dense = model(ids).past_key_values
    with knorm(keep=10)(model) as session:
        sets = kept(session.prefill(ids))
    for layer, rows in enumerate(sets):
        for head, slots in enumerate(rows[0]):
            norms = by_hand(dense.layers[layer].keys[0, head].double(), torch.empty(0))
            dropped = [-norms[i] for i in range(40) if i not in slots]
            assert max(-norms[i] for i in slots) < min(dropped) * (1 + ROUNDED)


def test_equal_tokens_tie_and_the_earlier_one_stays() -> None:
    """RoPE keeps norms, so in the first layer a repeated token has one norm, up to rounding."""
    with knorm(keep=18)(shared("llama")) as session:
        slots = kept(session.prefill(tokens(1, 12).repeat(1, 3)))[0][0]
    for head in slots:
        for token in range(12):
            held = [at // 12 for at in head if at % 12 == token]
            assert held == list(range(len(held)))
