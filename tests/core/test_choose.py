"""The choice of slots: exact counts, ties by position, protection, and slots that are not there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvpress import Press
from kvpress.block import choose
from kvpress.compact import budget
from kvpress.policies.base import Even

SHAPES = [(1, 1, 1), (1, 3, 7), (2, 2, 33), (3, 1, 65), (2, 5, 130)]


def case(shape: tuple[int, int, int], seed: int, ties: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, shuffled positions with gaps (-1), protected slots that exist, and counts that can be met."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(shape, generator=generator)
    if ties:
        scores = scores.round()
    pos = torch.rand(shape, generator=generator).argsort(-1).int() * 3
    pos[torch.rand(shape, generator=generator) < 0.3] = -1
    protected = (torch.rand(shape, generator=generator) < 0.1) & (pos >= 0)
    there = (pos >= 0).sum(-1)
    least = protected.sum(-1)
    counts = least + ((there - least + 1) * torch.rand(there.shape, generator=generator)).long()
    return scores, pos, protected, counts


def by_hand(scores: Tensor, pos: Tensor, protected: Tensor, count: int) -> set[int]:
    """Sort a Python list: protected first, then the score, then the lower position."""
    slots = [i for i in range(len(pos)) if pos[i] >= 0]
    slots.sort(key=lambda i: (not bool(protected[i]), 0.0 if protected[i] else -float(scores[i]), int(pos[i])))
    return set(slots[:count])


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_a_sorted_list(shape: tuple[int, int, int], seed: int, ties: bool) -> None:
    scores, pos, protected, counts = case(shape, seed, ties)
    keep = choose(scores, pos, counts, protected)
    assert torch.equal(keep.sum(-1), counts)
    assert not (keep & (pos < 0)).any() and keep[protected].all()
    for row in range(shape[0]):
        for head in range(shape[1]):
            wanted = by_hand(scores[row, head], pos[row, head], protected[row, head], int(counts[row, head]))
            assert set(keep[row, head].nonzero().flatten().tolist()) == wanted


@pytest.mark.parametrize("seed", range(3))
def test_order_in_memory_does_not_matter(seed: int) -> None:
    scores, pos, protected, counts = case((2, 3, 41), seed, ties=True)
    keep = choose(scores, pos, counts, protected)
    shuffle = torch.randperm(41, generator=torch.Generator().manual_seed(seed))
    again = choose(scores[..., shuffle], pos[..., shuffle], counts, protected[..., shuffle])
    assert torch.equal(again, keep[..., shuffle])


def test_minus_infinity_and_nan_are_last_but_exist() -> None:
    scores = torch.tensor([[[0.5, -torch.inf, torch.nan, 1.0, 9.0]]])
    pos = torch.tensor([[[0, 1, 2, 3, -1]]], dtype=torch.int32)
    nothing = torch.zeros_like(pos, dtype=torch.bool)
    for count, wanted in ((2, [0, 3]), (3, [0, 1, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3]), (0, [])):
        keep = choose(scores, pos, torch.tensor([[count]]), nothing)
        assert keep[0, 0].nonzero().flatten().tolist() == wanted


def test_half_precision_and_infinite_scores() -> None:
    scores = torch.tensor([[[torch.inf, 2.0, 3.0]]], dtype=torch.float16)
    pos = torch.arange(3, dtype=torch.int32).view(1, 1, 3)
    protected = torch.tensor([[[False, True, False]]])
    keep = choose(scores, pos, torch.tensor([[2]]), protected)
    assert keep[0, 0].tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("text", "lengths", "wanted"),
    [
        ("tova(keep=0.25)", [100, 101, 103, 104, 1], [25, 25, 25, 26, 1]),
        ("tova(compression_ratio=0.667)", [1000], [333]),
        ("tova(keep=0.3)", [10, 1000, 777], [3, 300, 233]),
        ("tova(keep=64)", [100, 10], [64, 64]),  # a short row may still grow to its budget
        ("random(keep=0.25, sinks=4, recent=32)", [1000, 40], [250, 36]),
        ("snapkv(keep=0.1, window=8)", [1000, 40], [100, 8]),
    ],
)
def test_budget_is_exact(text: str, lengths: list[int], wanted: list[int]) -> None:
    assert budget(Press.parse(text).recipe, torch.tensor(lengths)).tolist() == wanted


def test_even_budget_sums_exactly() -> None:
    total = torch.tensor([7, 0, 13])
    counts = Even()(total, torch.zeros(3, 5, 20))
    assert counts.shape == (3, 5) and torch.equal(counts.sum(1), 5 * total)
