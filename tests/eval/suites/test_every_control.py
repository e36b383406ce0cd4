"""What scores without the right context: nothing beyond chance, in any task and rendering."""

from __future__ import annotations

import random

import pytest
from kvpress_eval.errors import EpisodeError
from kvpress_eval.metrics import score
from kvpress_eval.suites import TASKS, build
from kvpress_eval.suites.episode import Episode, Request

CASES = [(name, rendering) for name, task in TASKS.items() for rendering in task.build]
SESSIONS = 8


def episode(task: str, rendering: str, session: int) -> Episode:
    """A session with five turns where they fit, else with as many as do."""
    for length, turns in ((1025, 5), (4097, 5), (9001, 4)):
        try:
            count = (lambda s: len(s.split())) if rendering == "dialect" else (lambda s: -(-len(s) // 3))
            return build(Request(task, rendering, length, turns, 0, session, count))
        except EpisodeError:
            continue
    raise AssertionError(f"{task} does not fit 9001 tokens")


@pytest.mark.parametrize(("task", "rendering"), CASES)
def test_nothing_scores_without_the_context(task: str, rendering: str) -> None:
    scorer = "exact" if rendering == "dialect" else "corrected"
    rng = random.Random(7)
    episodes = [episode(task, rendering, session) for session in range(SESSIONS)]
    golds = [turn.answer for e in episodes for turn in e.turns]
    scores: dict[str, list[float]] = {"random": [], "the question itself": [], "swapped context": []}
    for number, here in enumerate(episodes):
        there = episodes[(number + 1) % SESSIONS]
        for turn in here.turns:
            name = turn.task or task
            reference = turn.answer if scorer == "exact" else turn.reference
            others = [gold for gold in golds if gold != turn.answer] or [""]
            scores["random"].append(score(name, rng.choice(others), reference, scorer))
            scores["the question itself"].append(score(name, turn.question, reference, scorer))
            try:
                found = TASKS[task].solve[rendering](there.context, turn.question)
            except (ValueError, LookupError, AssertionError):
                found = ""  # nothing there answers it
            scores["swapped context"].append(score(name, found, reference, scorer))
    chance = max(TASKS[task].chance(rendering, t) for t in (1, 5))
    for control, values in scores.items():
        n = len(values)
        bound = chance + 3 * (max(chance * (1 - chance), 0.01) / n) ** 0.5
        assert sum(values) / n <= bound, (control, sum(values) / n, bound)
