"""Knorm against the norm written out, and the sign that is easily wrong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kvpress import Press, knorm
from kvpress.errors import PressSyntaxError
from kvpress.policies.knorm import KeyNorm
from tests.helpers import kept
from tests.models import build, left_padded, shared, tokens
from tests.policies.scoring import LENGTHS, ROUNDED, compare, padded


def by_hand(k: Tensor, v: Tensor) -> list[float]:
    return [-math.sqrt(sum(x * x for x in key)) for key in k.tolist()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_formula(dtype: torch.dtype) -> None:
    assert compare(KeyNorm(), by_hand, *padded(dtype=dtype), ROUNDED) == 3 * sum(LENGTHS)


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


def test_equal_tokens_of_the_first_layer_tie() -> None:
    """RoPE keeps norms up to rounding, and a row of a padded batch rounds otherwise than alone."""
    with knorm(keep=0.5)(shared("llama")) as session:
        first = session.prefill(tokens(1, 12).repeat(1, 5), compress=False).stores[0]
    block = first.block()
    scores = KeyNorm()(block, first.evidence(block))[0].unflatten(-1, (5, 12))
    norms = block.k[0].norm(dim=-1).unflatten(-1, (5, 12))
    assert not torch.equal(norms, norms[:, :1].expand_as(norms))
    assert torch.equal(scores, scores[:, :1].expand_as(scores))


def test_first_layers_stay_whole_as_in_the_paper() -> None:
    model, rows = build("llama", num_hidden_layers=4), [tokens(1, n)[0] for n in (41, 27)]
    with Press.parse("knorm@paper")(model) as session:
        cache = session.prefill(*left_padded(rows))
    with Press.parse("knorm(keep=0.5)")(model) as session:
        plain = session.prefill(*left_padded(rows))
    assert [layer.counts()[:, 0].tolist() for layer in cache.stores] == [[41, 27], [41, 27], [20, 13], [20, 13]]
    assert kept(cache)[2:] == kept(plain)[2:]
    with pytest.raises(PressSyntaxError, match="skip=-1"):
        knorm(skip=-1)
