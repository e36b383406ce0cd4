"""Ada-KV: head budgets by the formula with exact sums, the even and the hard-floor ends of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvpress import Press
from kvpress.policies.ada import AdaptiveHeads
from tests.helpers import kept
from tests.models import left_padded, shared, tokens


def plain_ada(scores: Tensor, total: int, alpha: float) -> list[float]:
    """Head budgets before rounding, from the formula, for one row."""
    heads, n = scores.shape
    best = sorted((-float(scores[h, i]), h, i) for h in range(heads) for i in range(n))[: heads * total]
    counts = [sum(h == head for _, h, _ in best) for head in range(heads)]
    return [(1 - alpha) * count + alpha * total for count in counts]


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0])
def test_ada_against_its_formula(alpha: float) -> None:
    torch.manual_seed(0)
    scores, total = torch.rand(3, 4, 33) ** 3, torch.tensor([5, 11, 20])
    out = AdaptiveHeads(alpha)(total, scores)
    assert out.sum(1).tolist() == (4 * total).tolist()
    for row in range(3):
        wanted = plain_ada(scores[row], int(total[row]), alpha)
        assert all(abs(a - b) < 1 for a, b in zip(out[row].tolist(), wanted, strict=True))
    if alpha == 1:
        assert out.tolist() == total[:, None].expand(3, 4).tolist()


def test_the_floor_variant_keeps_the_best_of_every_head_first() -> None:
    torch.manual_seed(0)
    scores = torch.rand(1, 4, 40)
    scores[:, 0] *= 1e-3
    out = AdaptiveHeads(0.25, "floor")(torch.tensor([12]), scores)[0]
    assert out[0] == 3 and out.sum() == 48


def test_every_head_keeps_a_slot() -> None:
    scores = torch.rand(1, 4, 40)
    scores[:, 2:] = 0
    for mode in ("interpolate", "floor"):
        assert AdaptiveHeads(0.0, mode)(torch.tensor([1]), scores).sum() == 4  # type: ignore[arg-type]
        assert AdaptiveHeads(0.0, mode)(torch.tensor([1]), scores).min() == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5])
def test_sums_are_exact_and_no_head_is_under_its_floor(seed: int, alpha: float) -> None:
    """Eight heads, protected slots at +inf and rows of different lengths; the authors' rounding drifts by up to 4."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(3, 8, 61, generator=generator) ** 6 * torch.rand(3, 8, 1, generator=generator)
    scores[:, :, -4:] = torch.inf
    for row, pad in enumerate((0, 13, 30)):
        scores[row, :, :pad] = -torch.inf
    total = torch.tensor([23, 17, 9])
    for mode in ("interpolate", "floor"):
        out = AdaptiveHeads(alpha, mode)(total, scores)  # type: ignore[arg-type]
        assert out.sum(1).tolist() == (8 * total).tolist()
        assert (out <= torch.tensor([61, 48, 31])[:, None]).all()
        least = (alpha * total.double()).floor().long().clamp(min=1)
        assert (out.amin(1) >= least).all()
        assert len(set(out[0].tolist())) > 1


def test_alpha_one_is_the_press_without_ada() -> None:
    model, (ids, mask) = shared("llama"), left_padded([tokens(1, n)[0] for n in (57, 31, 44)])
    sets = []
    for text in ("ada(alpha=1.0) | ", "", "ada(alpha=0.0) | "):
        with Press.parse(text + "snapkv(keep=0.4, window=5, kernel_size=3)")(model) as session:
            sets.append(kept(session.prefill(ids, mask)))
    assert sets[0] == sets[1] != sets[2]


def test_alpha_nought_keeps_the_best_of_the_layer() -> None:
    """Whatever is dropped in one head scores no more than what is kept in any other."""
    model, ids = shared("llama"), tokens(1, 57)
    press = Press.parse("ada(alpha=0.0) | snapkv(keep=0.4, window=5, kernel_size=3)")
    with press(model) as session:
        cache = session.prefill(ids, compress=False)
        scorer = press.recipe.scorer
        assert scorer is not None
        scores = [scorer(layer.block(), layer.evidence(layer.block()))[0] for layer in cache.stores]
        session.compress(cache)
    for layer, sets in zip(scores, kept(cache), strict=True):
        held = torch.zeros_like(layer, dtype=torch.bool)
        for head, slots in enumerate(sets[0]):
            held[head, slots] = True
        assert layer[:, :52][held[:, :52]].min() >= layer[:, :52][~held[:, :52]].max()
        assert held.sum() == 2 * 22
