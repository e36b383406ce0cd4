"""A session is as long as was asked: within one percent, and never longer, whatever the template adds."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from kvpress_eval.errors import TooShortError
from kvpress_eval.suites import TASKS, build
from kvpress_eval.suites.episode import Episode
from kvpress_eval.suites.fitting import best_sum
from kvpress_eval.suites.prompt import Prompter
from kvpress_eval.suites.session_length import asking

from tests.eval.suites.chat_families import FAMILIES, tokenizer

LENGTH = 12007  # tokens of one byte: an entry of any task is less than a percent
NATURAL = [name for name, task in TASKS.items() if "natural" in task.build]


def longest(prompter: Prompter, asked: Episode) -> int:
    """Tokens of a session whose answers all are as long as they may be."""
    prompt = prompter.prompt(asked)
    most = [turn.max_new_tokens or asked.max_new_tokens for turn in asked.turns]
    for limit, gold in zip(most, prompt.golds, strict=True):
        assert limit >= len(gold), "a gold answer fits its limit"
    return len(prompt.context) + sum(map(len, prompt.questions)) + sum(most)


@pytest.mark.parametrize("task", NATURAL)
def test_every_task_fills_a_length(task: str) -> None:
    prompter = Prompter(tokenizer(FAMILIES["smollm2"]), "natural")
    for session in range(2):
        made = build(asking(prompter, task, LENGTH, 5, 0, session))
        assert 0.99 * LENGTH <= longest(prompter, made) <= LENGTH


@pytest.mark.parametrize("chat", ["on", "off"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_template_fills_a_length(family: str, chat: str) -> None:
    prompter = Prompter(tokenizer(FAMILIES[family]), "natural", chat)
    for turns in (1, 5, 9):
        for task in ("needle", "qa_eng", "ruler_niah_multikey_1"):
            made = build(asking(prompter, task, 5003, turns, 3, 1))
            assert 0.99 * 5003 <= longest(prompter, made) <= 5003, (task, turns)


def test_a_long_template_is_counted_once() -> None:
    """A system message of 3000 tokens takes 3000, not 3000 per turn."""
    family = FAMILIES["chatml, system"]
    long = replace(family, template=family.template.replace("Answer briefly.", "Answer briefly. " * 188))
    prompter = Prompter(tokenizer(long), "natural")
    made = build(asking(prompter, "needle", 6001, 5, 0, 0))
    assert 0.99 * 6001 <= longest(prompter, made) <= 6001
    assert len(prompter.prompt(made).context) > 4000


def test_a_length_that_is_too_short_says_the_least() -> None:
    prompter = Prompter(tokenizer(FAMILIES["smollm2"]), "natural")
    for task in ("many_shot", "needle", "repoqa"):
        with pytest.raises(TooShortError, match=rf"{task}.* with 3 turns needs a length of at least \d+") as caught:
            build(asking(prompter, task, 300, 3, 0, 0))
        error = pickle.loads(pickle.dumps(caught.value))
        assert str(error) == str(caught.value)
        least = error.least
        assert longest(prompter, build(asking(prompter, task, least, 3, 0, 0))) == least
        with pytest.raises(TooShortError):
            build(asking(prompter, task, least - 1, 3, 0, 0))


def test_the_best_sum() -> None:
    assert best_sum([7, 5, 3], 9, 0) == (1, 2) or best_sum([7, 5, 3], 9, 0) == (0,)
    assert best_sum([7, 5, 3], 8, 0) == (1, 2)
    assert best_sum([7, 5, 3], 15, 0) == (0, 1, 2)
    assert best_sum([7, 5, 3], 8, 1) == (0,), "near enough: no later piece is looked at"
    assert best_sum([7, 5, 3], 2, 0) == best_sum([], 2, 0) == best_sum([1], -4, 0) == ()
