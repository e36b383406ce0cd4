"""I7: same seed, same result; nothing of one prompt reaches the next; the order of questions does not matter."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from kvpress import Press, PressCache, random
from tests.helpers import ALL, decode, gap, kept, over, rollout
from tests.models import left_padded, shared, tokens


@over(ALL)
def test_twice_the_same_with_another_prompt_in_between(press: Press) -> None:
    model, ids, follow = shared("llama"), tokens(2, 33), tokens(2, 7, 1)
    torch.manual_seed(11)
    with press(model) as session:
        first, cache = rollout(session, ids, follow)
        torch.manual_seed(99)
        torch.rand(5)
        rollout(session, tokens(3, 47, 5), tokens(3, 4, 6))
        second, other = rollout(session, ids, follow)
    with press(model) as session:
        third, _ = rollout(session, ids, follow)
    assert torch.equal(first, second) and torch.equal(first, third)
    assert kept(cache) == kept(other)


@over(ALL)
def test_a_press_does_not_touch_the_random_state(press: Press) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with press(shared("llama")) as session:
        rollout(session, tokens(2, 33), tokens(2, 7, 1))
    assert torch.equal(torch.get_rng_state(), state)


@over(ALL)
@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_next"])
def test_order_of_questions(press: Press, family: str) -> None:
    model, ids = shared(family), tokens(1, 33)
    questions = [tokens(1, length, length) for length in (6, 1, 9)]
    with press(model) as session:
        context = session.prefill(ids)
        answers = []
        for order in itertools.islice(itertools.permutations(range(3)), 0, 6, 2):
            mine = {}
            for number in order:
                fork = context.fork()
                logits = session.prefill(questions[number], cache=fork).next_logits
                assert logits is not None
                mine[number] = torch.cat([logits[:, None], decode(model, fork, tokens(1, 4, number))], 1)
            answers.append(mine)
    for mine in answers[1:]:
        assert all(torch.equal(mine[number], answers[0][number]) for number in range(3))


def test_questions_asked_together_are_those_asked_alone() -> None:
    """One prefix, a batch of forks: fork(rows=3) against three forks."""
    for name, text in ALL.items():
        model, ids, follow = shared("llama"), tokens(1, 33), tokens(3, 8, 2)
        with Press.parse(text)(model) as session:
            context = session.prefill(ids)
            together = decode(model, context.fork(rows=3), follow)
            for row in range(3):
                alone = decode(model, context.fork(), follow[row : row + 1])
                assert gap(together[row : row + 1], alone) < (2e-2 if session.press.recipe.block else 3e-5), name


@over(ALL)
def test_compressed_once_saved_and_asked_many(press: Press, tmp_path: Path) -> None:
    """Padded questions in one batch over a prefix from a file answer as each does alone over the one in memory."""
    model, ids, path = shared("llama"), tokens(1, 41), tmp_path / "prefix.safetensors"
    questions = [tokens(1, length, length)[0] for length in (6, 3, 8)]
    batch, mask = left_padded(questions)
    follow = tokens(3, 7, 2)
    with press(model) as session:
        context = session.prefill(ids)
        context.save(path, model)
        together = session.prefill(batch, mask, cache=PressCache.load(path, model).fork(rows=3))
        assert together.next_logits is not None
        whole = torch.cat([torch.ones(3, 41, dtype=torch.long), mask], 1)
        after = torch.cat([together.next_logits[:, None], decode(model, together, follow, whole)], 1)
        for row, question in enumerate(questions):
            alone = session.prefill(question[None], cache=context.fork())
            assert alone.next_logits is not None
            wanted = torch.cat([alone.next_logits[:, None], decode(model, alone, follow[row : row + 1])], 1)
            assert gap(after[row : row + 1], wanted) < (3e-2 if press.recipe.block else 3e-5)


def test_seeds_of_random_differ_and_layers_and_heads_too() -> None:
    model, ids = shared("llama"), tokens(1, 60)
    sets = []
    for seed in (0, 0, 1):
        with random(keep=0.3, seed=seed, sinks=1, recent=3)(model) as session:
            sets.append(kept(session.prefill(ids)))
    assert sets[0] == sets[1] != sets[2]
    heads = [tuple(head) for rows in sets[0] for head in rows[0]]
    assert len(set(heads)) == len(heads) == 6
