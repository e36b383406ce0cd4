from __future__ import annotations

import json
import re
from collections import Counter, defaultdict

import pytest
from kvpress_eval.errors import EpisodeError
from kvpress_eval.suites import get_task
from kvpress_eval.suites.tasks.mf import _KINDS

from tests.eval.suites.code_checks import (
    assert_longer_keeps_its_questions,
    assert_right_answers_score_one_and_controls_chance,
    count,
    episode,
    used,
)


def numbers(context: str) -> list[int]:
    return list(json.loads(context[context.index("[") :]))


def kind(question: str) -> str:
    first = question.split("\n")[0]
    found = re.match(r"What is the ((?:second |third )?(?:largest|smallest)) number", first)
    return found[1] if found else "count" if first.startswith("How many") else "median"


def test_right_answers_score_one_and_controls_chance() -> None:
    assert_right_answers_score_one_and_controls_chance("mf", 700, sessions=60)


def test_a_longer_list_keeps_its_answers() -> None:
    for session in range(8):
        short, long = (episode("mf", n, 8, session) for n in (1501, 12007))
        assert [(t.question, t.answer) for t in short.turns] == [(t.question, t.answer) for t in long.turns]
    assert_longer_keeps_its_questions("mf", 1501, 6001, ", ")


@pytest.mark.parametrize("length", [512, 8192])
def test_an_episode_fits_its_length_and_uses_it(length: int) -> None:
    for session in range(6):
        made = episode("mf", length, 5, session)
        assert 0.97 * length < used(made) <= length
        assert made.instruction == "Answer questions about the following list of numbers."
        assert made.context.startswith(made.instruction + "\n\n[")
        assert all(count(" " + turn.answer) <= made.max_new_tokens for turn in made.turns)


def test_answers_are_those_of_plain_arithmetic() -> None:
    asked: Counter[str] = Counter()
    for session in range(12):
        made = episode("mf", 2003, 8, session)
        values = numbers(made.context)
        ranked, ordered = sorted(set(values)), sorted(values)
        half = len(ordered) // 2
        median = {ordered[half], ordered[len(ordered) - half - 1]}
        for turn in made.turns:
            which = kind(turn.question)
            asked[which] += 1
            if which == "count":
                (above,) = {int(n) for n in re.findall("greater than ([0-9]+)", turn.question)}
                assert turn.gold == len([v for v in values if v > above])
            elif which == "median":
                assert {turn.gold} == median
            else:
                end, at = which.split()[-1], {"second": 2, "third": 3}.get(which.split()[0], 1)
                assert turn.gold == ranked[-at if end == "largest" else at - 1]
            assert turn.answer == str(turn.gold)
    assert asked == dict.fromkeys(_KINDS, 12)


def test_evidence_is_every_copy_and_extremes_are_rare() -> None:
    for session in range(5):
        made = episode("mf", 4001, 8, session)
        values = Counter(numbers(made.context))
        for turn in made.turns:
            found = [int(made.context[start:end]) for start, end in turn.evidence]
            if kind(turn.question) == "count":
                assert len(found) == turn.gold
            else:
                assert set(found) == {turn.gold}
                assert len(found) == values[turn.gold] <= 3
                # in the turn's own part of the list
                depths = [start / len(made.context) for start, _ in turn.evidence]
                assert max(depths) - min(depths) < 0.2


def test_answers_told_before_do_not_narrow_the_next() -> None:
    """Gaps next to what is known, and the count, take many values: none is worth guessing."""
    seen = defaultdict[str, Counter[int]](Counter)
    for session in range(150):
        gold = {kind(t.question): int(t.answer) for t in episode("mf", 700, 8, session).turns}
        for ranks in (
            ("largest", "second largest", "third largest"),
            ("smallest", "second smallest", "third smallest"),
        ):
            first, second, third = (gold[name] for name in ranks)
            assert 2 <= abs(first - second) <= 401
            assert 2 <= abs(second - third) <= 401
            seen["gap"][abs(first - second)] += 1
            seen["gap"][abs(third - second)] += 1
            # told both neighbours, the middle between them is the best guess
            seen["middle"][second - (first + third) // 2] += 1
        seen["count"][gold["count"]] += 1
        seen["median"][gold["median"]] += 1
    assert max(seen["gap"].values()) <= 10  # of 600
    assert seen["middle"][0] <= 8  # of 300
    assert max(seen["count"].values()) <= 12  # of 150
    assert max(seen["median"].values()) <= 2
    assert 0.005 < get_task("mf").chance("natural", 5) < 0.01


def test_questions_state_how_equal_numbers_count() -> None:
    made = episode("mf", 1001, 8)
    for turn in made.turns:
        if kind(turn.question) not in ("largest", "smallest"):
            assert re.search("equal numbers|repetitions", turn.question)
        assert turn.question.endswith(" is")


def test_mistakes_say_what_to_do() -> None:
    with pytest.raises(EpisodeError, match="at most 8 turns, got 9"):
        episode("mf", 4001, 9)
    with pytest.raises(EpisodeError, match=r"at least .* tokens, got 200"):
        episode("mf", 200)
    with pytest.raises(ValueError, match="share the middle"):
        get_task("mf").solve["natural"]("[1, 2]", "What is the median?")
