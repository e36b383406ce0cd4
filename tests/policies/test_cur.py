"""CurDKV's scores against window shares computed one token at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvpress import Press
from kvpress.policies.cur import ValueGuided
from kvpress.storage.block import Block
from tests.policies.scoring import ROUNDED, assert_order_in_memory_is_nothing, compare, padded


def share(x: Tensor, window: int) -> list[float]:
    energy = [sum(c * c for c in row) for row in x.tolist()]
    out = []
    for i, mine in enumerate(energy):
        near = energy if not window else energy[i // window * window : (i // window + 1) * window]
        out.append(mine / sum(near))
    return out


def by_hand(k: Tensor, v: Tensor, combine: str, window: int) -> list[float]:
    pairs = list(zip(share(k, window), share(v, window), strict=True))
    raw = {
        "product": [a * b for a, b in pairs],
        "mean": [(a + b) / 2 for a, b in pairs],
        "key": [a for a, _ in pairs],
        "value": [b for _, b in pairs],
    }[combine]
    return [x / sum(raw) for x in raw]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [0, 1, 5, 16])
@pytest.mark.parametrize("combine", ["product", "mean", "key", "value"])
def test_formula(combine: str, window: int, dtype: torch.dtype) -> None:
    scorer = ValueGuided(combine, window)  # type: ignore[arg-type]
    compare(scorer, lambda k, v: by_hand(k, v, combine, window), *padded(dtype=dtype), ROUNDED)
    assert_order_in_memory_is_nothing(scorer)


def test_scores_of_a_head_sum_to_one_and_padding_has_none() -> None:
    block, seen = padded()
    scores = ValueGuided()(block, seen)
    assert (scores.sum(-1) - 1).abs().max() < ROUNDED
    assert not scores[~block.valid].any()


def test_projection() -> None:
    block, seen = padded((40, 23), heads=2)
    generator = torch.Generator().manual_seed(2 * 1_000_003 + 1)  # seed 2, layer 1
    g = torch.randn(16, 6, generator=generator).double()
    scorer = ValueGuided("product", 8, sketch=6, seed=2)
    compare(scorer, lambda k, v: by_hand(k @ g, v @ g, "product", 8), block, seen, ROUNDED)
    assert not torch.allclose(scorer(block, seen), ValueGuided("product", 8, sketch=6, seed=3)(block, seen))


def test_many_projections_average_to_none() -> None:
    """|x G|^2 is |x|^2 times the same number for all x, on average: that is what makes it an approximation."""
    block, seen = padded((33,), heads=1)
    mean = torch.stack([ValueGuided("key", 0, 12, seed)(block, seen) for seed in range(400)]).mean(0)
    assert ((mean / ValueGuided("key", 0)(block, seen)) - 1).abs().max() < 0.1


def test_a_window_of_zeros_scores_zero() -> None:
    block, seen = padded((20,), heads=1)
    k = block.k.clone()
    k[:, :, 5:10] = 0
    scores = ValueGuided(window=5)(Block(k, block.v, block.pos), seen)
    assert torch.isfinite(scores).all() and not scores[..., 5:10].any() and scores[..., :5].all()


def test_variant() -> None:
    assert Press.parse("cur@random").recipe.scorer == ValueGuided(sketch=20)
