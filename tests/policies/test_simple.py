"""Random eviction, sliding windows with sinks, and what the pipeline guarantees to every method."""

from __future__ import annotations

import re

import pytest
import torch

from kvpress import Press, full, random, streaming_llm
from kvpress.policies.random import Random
from tests.helpers import EVICTING, EXACT, decode, forward, gap, kept, over, rollout
from tests.models import left_padded, shared, tokens


@pytest.mark.parametrize("sinks", [0, 1, 4])
def test_streaming_holds_sinks_and_the_last_tokens(sinks: int) -> None:
    model, rows = shared("llama"), [tokens(1, n)[0] for n in (40, 25)]
    ids, mask = left_padded(rows)
    with streaming_llm(keep=12, sinks=sinks, positions="keep")(model) as session:
        cache = session.prefill(ids, mask)
        for step in range(20):
            for held in kept(cache):
                for row, length in enumerate((40, 25)):
                    pad, seen = 40 - length, 40 + step
                    wanted = [*range(pad, pad + sinks), *range(seen - (12 - sinks), seen)]
                    assert held[row] == [wanted] * 2
            mask = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], 1)
            forward(model, tokens(2, 1, step), cache, mask)


def test_random_protects_and_spreads() -> None:
    model = shared("llama")
    with random(keep=0.3, seed=7, sinks=3, recent=8)(model) as session:
        cache = session.prefill(tokens(1, 200))
    chosen: list[int] = []
    for rows in kept(cache):
        for head in rows[0]:
            assert len(head) == 60 and {0, 1, 2, *range(192, 200)} <= set(head)
            chosen += [slot for slot in head if 3 <= slot < 192]
    mean = sum(chosen) / len(chosen)
    assert 85 < mean < 110  # the middle of 3..191
    with random(keep=0.3, seed=7, sinks=3, recent=8)(model) as session:
        after = session.prefill(tokens(1, 200))
        decode(model, after, tokens(1, 9))
        assert kept(after)[0][0][0][-9:] == list(range(200, 209))  # decoded tokens are all kept


def test_random_scores_are_uniform() -> None:
    from kvpress.evidence.evidence import Evidence, Rule
    from kvpress.storage.block import Block

    pos = torch.arange(20_000, dtype=torch.int32).expand(1, 2, -1)
    block = Block(torch.zeros(1, 2, 20_000, 1), torch.zeros(1, 2, 20_000, 1), pos)
    scores = Random(5)(block, Evidence(3, Rule(1.0), pos))
    assert scores.dtype == torch.float32 and scores.min() >= 0 and scores.max() < 1
    histogram = torch.histc(scores, 10, 0, 1)
    assert (histogram / 4000 - 1).abs().max() < 0.08
    assert abs(float(torch.corrcoef(scores[0])[0, 1])) < 0.03
    assert abs(float(torch.corrcoef(torch.stack([scores[0, 0, 1:], scores[0, 0, :-1]]))[0, 1])) < 0.03


@over(EVICTING)
@pytest.mark.parametrize("length", [1, 2, 6, 33, 64])
def test_every_method_keeps_exactly_what_was_asked(press: Press, length: int) -> None:
    model = shared("llama")
    recipe = press.recipe
    least = recipe.sinks + max(1, recipe.recent if isinstance(recipe.recent, int) else 1)
    with press(model) as session:
        cache = session.prefill(tokens(2, length))
    wanted = min(length, max(least, int(0.4 * length + 1e-9)))
    for rows in kept(cache):
        for heads in rows:
            assert all(len(head) == wanted == len(set(head)) and max(head) < length for head in heads)


@over(EVICTING)
def test_keep_all_leaves_every_slot_in_order(press: Press) -> None:
    text = str(press).replace("keep=0.4", "keep=1.0")
    with Press.parse(text)(shared("llama")) as session:
        cache = session.prefill(tokens(1, 33))
        assert all(head == list(range(33)) for rows in kept(cache) for head in rows[0])
        assert not any(layer.held for layer in cache.stores)


def with_keep(press: Press, keep: int | float) -> Press:
    """The press with another number of slots in its eviction part."""
    return Press.parse(re.sub(r"keep=[0-9.]+", f"keep={keep}", str(press)))


DECIDING = {name: text for name, text in EXACT.items() if name != "full"}


@over(DECIDING)
@pytest.mark.parametrize("padded", [False, True], ids=["even", "padded"])
def test_room_for_the_whole_prompt_changes_no_bit(press: Press, padded: bool) -> None:
    """A budget of just the prompt and of more, and keep=1.0: logits of every step are those of the full cache."""
    model, follow, mask = shared("llama"), tokens(2, 6, 1), None
    ids = tokens(2, 33)
    if padded:
        ids, mask = left_padded([ids[0], ids[1, :20]])
    with full()(model) as session:
        wanted, whole = rollout(session, ids, follow, mask)
    for keep, steps in ((33, 1), (39, 6), (400, 6), (1.0, 6)):
        with with_keep(press, keep)(model) as session:
            got, cache = rollout(session, ids, follow[:, :steps], mask)
            same = gap(got, wanted[:, : 1 + steps])
            assert same <= (1e-5 if press.recipe.merge else 0), keep  # a bias takes another kernel
        if steps == 6:
            assert kept(cache) == kept(whole)


@over(DECIDING)
def test_what_is_kept_is_sorted_protected_and_as_reported(press: Press) -> None:
    """In memory, not only as a set: ascending, each once, tokens of the row, sinks and window in it."""
    model, lengths, recipe = shared("llama"), (45, 23, 34), press.recipe
    with press(model) as session:
        cache = session.prefill(*left_padded([tokens(1, n)[0] for n in lengths]))
        report = session.report(cache)
    dropped = 0
    for layer, said in zip(cache.stores, report.layers, strict=True):
        pos, numbers = layer.block().pos, []
        for row, n in enumerate(lengths):
            pad = 45 - n
            for head in pos[row]:
                held = [p - pad for p in head.tolist() if p >= 0]
                assert held == sorted(set(held)) and held[0] >= 0 and held[-1] < n
                recent = recipe.recent if isinstance(recipe.recent, int) else 0
                assert {*range(recipe.sinks), *range(n - recent, n)} <= set(held)
                numbers.append(len(held))
                dropped += n - len(held)
        assert (said.least, said.most) == (min(numbers), max(numbers))
        assert said.slots == pytest.approx(sum(numbers) / len(numbers))
    assert dropped > 0
