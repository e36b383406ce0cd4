from __future__ import annotations

from dataclasses import replace

import pytest
from kvpress_eval.suites import build
from kvpress_eval.suites.episode import Episode, Request
from kvpress_eval.suites.extras import extras


def episode(task: str) -> Episode:
    return build(Request(task, "natural", 9001, 4, 0, 0, lambda text: -(-len(text) // 3)))


def golds(made: Episode) -> list[str]:
    return [turn.answer for turn in made.turns]


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("summary", "key_fact_recall"),
        ("summary_with_needles", "key_fact_recall"),
        ("repoqa", "exact_line_recall"),
        ("repoqa_and_kv", "exact_line_recall"),
    ],
)
def test_right_answers_hold_everything_and_others_nothing(task: str, name: str) -> None:
    made = episode(task)
    assert extras([made], [golds(made)]) == {name: 1}
    assert extras([made], [[""] * 4]) == {name: 0}
    # the mean is over the turns that have it: half of those of a mix
    first = next(t for t, turn in enumerate(made.turns) if turn.task in ("", "summary", "repoqa"))
    said = [answer if t == first else "" for t, answer in enumerate(golds(made))]
    assert extras([made, made], [golds(made), said]) == {name: 0.75 if "_" in task else 0.625}


def test_what_has_no_facts_and_no_lines_has_no_extras() -> None:
    kv, summary, code = episode("kv"), episode("summary"), episode("repoqa")
    assert extras([kv], [golds(kv)]) == {}
    # summaries and functions of other data
    for answer in ("The paper is about trees.", "\n".join("abcdef"), summary.turns[0].answer + "\nMore."):
        turns = tuple(replace(turn, answer=answer) for turn in summary.turns)
        assert extras([replace(summary, turns=turns)], [[answer] * 4]) == {}
    turns = tuple(replace(turn, gold={k: v for k, v in turn.gold.items() if k != "lines"}) for turn in code.turns)
    assert extras([replace(code, turns=turns)], [golds(code)]) == {}
    assert extras([], []) == {}
