"""The choice of slots: exact counts, ties by position, protection, and slots that are not there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kvpress import Press, streaming_llm
from kvpress.evidence.evidence import Evidence
from kvpress.pipeline.budget import budget, protected
from kvpress.policies.h2o import HeavyHitters
from kvpress.recipe.kinds import Even
from kvpress.recipe.recipe import Recipe
from kvpress.storage.block import Block, choose
from tests.helpers import EVICTING, decode, kept, over
from tests.models import left_padded, shared, tokens

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


def test_protected_slots_come_before_infinite_scores() -> None:
    scores = torch.tensor([[[torch.inf, torch.inf, 1.0, -torch.inf]]])
    pos = torch.tensor([[[5, 6, 7, 8]]], dtype=torch.int32)
    protected = torch.tensor([[[False, False, False, True]]])
    for count, wanted in ((1, [3]), (2, [0, 3]), (3, [0, 1, 3])):
        assert choose(scores, pos, torch.tensor([[count]]), protected)[0, 0].nonzero().flatten().tolist() == wanted


def test_where_more_are_protected_than_stay_the_newest_do() -> None:
    pos = torch.tensor([[[9, 0, 4, 2, -1]]], dtype=torch.int32)
    protected = torch.tensor([[[True, True, False, True, False]]])
    for count, wanted in ((1, {9}), (2, {9, 2}), (3, {9, 2, 0}), (4, {9, 2, 0, 4})):
        keep = choose(torch.zeros(1, 1, 5), pos, torch.tensor([[count]]), protected)
        assert {*pos[keep].tolist()} == wanted


@pytest.mark.parametrize(
    ("sinks", "recent", "total", "counts", "wanted"),
    [
        (4, 0.5, 6, None, [0, 1, 2, 3, 18, 19]),  # the share is 3, and the sinks leave 2
        (4, 0.5, 5, None, [0, 1, 2, 3, 19]),
        (4, 0.25, 5, None, [0, 1, 2, 3, 19]),
        (4, 0.1, 5, None, [0, 1, 2, 3, 19]),  # a share that rounds to nothing is still one token
        (4, 0.5, 4, None, [0, 1, 2, 19]),
        (4, 0.5, 1, None, [19]),
        (2, 3, 9, None, [0, 1, 17, 18, 19]),
        (2, 3, 9, 4, [0, 1, 18, 19]),  # a head that got fewer than the average
        (2, 3, 9, 2, [0, 19]),
        (2, 3, 9, 1, [19]),
        (4, 0, 9, None, [0, 1, 2, 3]),  # nothing recent was asked for
        (4, 0, 9, 3, [0, 1, 2]),
        (0, 1.0, 5, None, [15, 16, 17, 18, 19]),
        (0, 0, 5, None, []),
    ],
)
def test_protected_never_exceeds_what_stays(
    sinks: int, recent: int | float, total: int, counts: int | None, wanted: list[int]
) -> None:
    recipe, rank = Recipe(sinks=sinks, recent=recent), torch.arange(20).view(1, 1, 20)
    each = None if counts is None else torch.tensor([[counts]])
    found = protected(recipe, rank, torch.tensor([20]), torch.tensor([total]), each)
    assert found[0, 0].nonzero().flatten().tolist() == wanted


# Sinks and recent tokens together exceed these budgets, or just fill them.
CROWDED: dict[str, dict[str, Any]] = {
    "a tenth": {"keep": 0.1, "recent": 0.5, "sinks": 4},
    "all recent": {"keep": 0.1, "recent": 1.0, "sinks": 4},
    "sinks alone": {"keep": 0.01, "recent": 0.5, "sinks": 5},
    "a count": {"keep": 0.01, "recent": 3, "sinks": 2},
}


@pytest.mark.parametrize("setting", CROWDED)
@over(EVICTING)
def test_the_newest_token_stays_whatever_scores(press: Press, setting: str) -> None:
    """After a padded prompt and at every step after it; a crowded budget is met exactly, sinks before older tokens."""
    model, lengths = shared("llama"), (64, 41)
    ids, mask = left_padded([tokens(1, n)[0] for n in lengths])
    own = CROWDED[setting]
    with press(model) as session:
        cache = session.prefill(ids, mask, compress=False)
        for layer in cache.stores:
            layer.recipe = replace(layer.recipe, **own)
        session.compress(cache)
        recipe = cache.stores[0].recipe
        totals = budget(recipe, torch.tensor(lengths)).tolist()
        for step in range(4):
            for row, length in enumerate(lengths):
                pad = 64 - length
                for heads in kept(cache):
                    for head in heads[row]:
                        ranks = [position - pad for position in head]
                        assert ranks[-1] == length + step - 1
                        assert ranks[: recipe.sinks] == list(range(recipe.sinks))
                        if not step:
                            assert len(ranks) == totals[row]
            decode(model, cache, tokens(2, 1, step), torch.cat([mask, mask.new_ones(2, step)], 1))


def test_the_case_that_lost_its_newest_token() -> None:
    with Press.parse("h2o(keep=0.1, recent=0.5, sinks=4)")(shared("llama")) as session:
        cache = session.prefill(tokens(1, 64))
    assert kept(cache)[0][0] == [[0, 1, 2, 3, 62, 63]] * 2


@pytest.mark.parametrize("spread", ["ada", "ada(mode=floor)", "pyramid", "zigzag(window=4)", "pooled", "zigzag | ada"])
def test_the_newest_token_stays_however_slots_are_spread(spread: str) -> None:
    model, (ids, mask) = shared("llama"), left_padded([tokens(1, 64)[0], tokens(1, 30)[0]])
    for text in ("h2o(keep=0.1, recent=0.5, sinks=4)", "h2o(keep=0.1, recent=0.9)", "snapkv(keep=0.1, window=5)"):
        with Press.parse(f"{spread} | {text}")(model) as session:
            cache = session.prefill(ids, mask)
            assert all(head[-1] == 63 for layer in kept(cache) for heads in layer for head in heads)
            if "h2o" in text:
                decode(model, cache, tokens(2, 3, 1), mask)
                assert all(head[-1] == 66 for layer in kept(cache) for heads in layer for head in heads)


class Starved:
    """All but one slot go to the first head."""

    compares = False

    def __call__(self, total: Tensor, scores: Tensor) -> Tensor:
        return torch.stack([total * 2 - 1, torch.ones_like(total)], 1)


class Infinite(HeavyHitters):
    """Every slot is beyond compare."""

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        return torch.full(block.pos.shape, torch.inf)


@pytest.mark.parametrize("own", [{"heads": Starved()}, {"scorer": Infinite()}], ids=["starved head", "infinite scores"])
def test_the_newest_token_stays_under_methods_of_others(own: dict[str, Any]) -> None:
    model = shared("llama")
    with Press.parse("h2o(keep=8, recent=3, sinks=2)")(model) as session:
        cache = session.prefill(tokens(1, 40), compress=False)
        for layer in cache.stores:
            layer.recipe = replace(layer.recipe, **own)
        session.compress(cache)
        for step in range(4):
            held = kept(cache)
            assert all(head[-1] == 39 + step for layer in held for head in layer[0])
            if "heads" not in own:
                assert {len(head) for layer in held for head in layer[0]} == {8}
                assert all(head[:2] == [0, 1] and head[-3] == 37 + step for layer in held for head in layer[0])
            decode(model, cache, tokens(1, 1, step))


def test_a_window_is_never_empty() -> None:
    """streaming_llm of a prompt whose share is no more than its sinks: they and one more token."""
    model = shared("llama")
    with streaming_llm(keep=0.1, sinks=4)(model) as session:
        cache = session.prefill(tokens(1, 21))
        assert kept(cache)[0][0] == [[0, 1, 2, 3, 20]] * 2
        decode(model, cache, tokens(1, 3))
        assert kept(cache)[2][0] == [[0, 1, 2, 3, 23]] * 2


@pytest.mark.parametrize(
    ("text", "lengths", "wanted"),
    [
        ("streaming_llm(keep=0.1, sinks=4)", [100, 41, 3], [10, 5, 5]),
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
