"""Summaries of made-up reports, alone and with pass keys between them."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from time import process_time

import pytest
from kvpress_eval.errors import EpisodeError, UsageError
from kvpress_eval.metrics import key_fact_recall, score
from kvpress_eval.suites import TASKS, build
from kvpress_eval.suites.episode import Episode, Request
from kvpress_eval.suites.texts.english import draw
from kvpress_eval.suites.texts.reports import CHANCE, FACTS, elaborations, key_facts, summary_of
from kvpress_eval.suites.texts.world import Names

# the wordings that score best against all others, with no name filled in
USUAL = (
    "It all began with the of in.\nWhat was built is it.\nMeasurements were taken at it.\n"
    "The score amounts to percent.\nIt served as baseline.\nThe authors admit difficulties with it."
)
GENERIC = (
    "The report describes a problem and a new method.\nThe method was tested on data and beat a baseline.\n"
    "Its accuracy was high, and a limitation remains."
)


def pieces(text: str) -> int:
    """About the tokens of a real tokenizer."""
    return -(-len(text) // 3)


def episode(task: str, session: int = 0, turns: int = 5, length: int = 3001, depth: float | None = None) -> Episode:
    return build(Request(task, "natural", length, turns, 0, session, pieces, depth=depth))


def bodies(context: str) -> dict[str, list[str]]:
    """The sentences of each report by its title."""
    blocks = (block.split("\n") for block in context.split("\n\n") if block.startswith("Title: "))
    return {title.removeprefix("Title: "): re.split(r"(?<=\.) ", body) for title, body in blocks}


def test_a_summary_is_the_six_key_sentences_in_a_fixed_order() -> None:
    here = episode("summary")
    reports = bodies(here.context)
    orders = set()
    for turn in here.turns:
        body = reports[turn.question.split('"')[1]]
        key = turn.answer.split("\n")
        assert len(key) == len(FACTS) == 6
        assert list(key_facts(turn.answer)) == list(FACTS)
        orders.add(tuple(sorted(range(6), key=lambda i: body.index(key[i]))))
        spans = [here.context[start:end] for start, end in turn.evidence]
        assert sorted(spans[1:]) == sorted(key)
        assert spans[0].startswith("Title: ")
    assert len(orders) >= 3  # in the report they stand in any order


def test_key_facts_are_said_once() -> None:
    for session in range(3):
        here = episode("summary", session, length=6001)
        for turn in here.turns:
            facts = key_facts(turn.answer)
            assert re.fullmatch(r"\d\d\.\d\d", facts["result"])
            assert all(here.context.count(fact) == 1 for kind, fact in facts.items() if kind != "limitation")
            assert key_fact_recall(turn.answer, list(facts.values())) == 1
            assert key_fact_recall(GENERIC, list(facts.values())) == 0
            assert not any(fact in turn.question for fact in facts.values())


def test_elaboration_holds_no_digit_and_no_key_sentence() -> None:
    rng = random.Random(5)
    lines = [line for line, _ in zip(elaborations(rng, Names(draw, rng)), range(2000), strict=False)]
    assert not any(re.search(r"\d", line) for line in lines)
    assert len(set(lines)) > 1900
    key = [re.escape(w).replace(r"\{\}", ".+") for wordings in FACTS.values() for w in wordings]
    assert not any(re.fullmatch(pattern, line) for pattern in key for line in lines)


def test_guesses_score_chance_and_right_answers_one() -> None:
    """Nothing written without the context beats ``chance``, which ROUGE makes far from zero."""
    points, facts, n = Counter[str](), Counter[str](), 0
    for session in range(8):
        here, there = episode("summary", session), episode("summary", session + 64)
        before = ""
        for turn, other in zip(here.turns, there.turns, strict=True):
            n += 1
            known = list(key_facts(turn.answer).values())
            assert score("summary", "", turn.reference) == 0
            for scorer in ("corrected", "reference"):
                assert score("summary", turn.answer, turn.reference, scorer) == pytest.approx(1)
            for name, said in {
                "usual wordings": USUAL,
                "generic": GENERIC,
                "other session": other.answer,
                "before": before,
                "question": turn.question,
                "first lines": here.context[:300],
            }.items():
                points[name] += score("summary", said, turn.reference)
                facts[name] += key_fact_recall(said, known)
            before = turn.answer
    mean = {name: total / n for name, total in points.items()}
    assert max(mean, key=lambda name: mean[name]) == "usual wordings"
    assert 0.9 * CHANCE < mean["usual wordings"] <= CHANCE, mean
    assert mean["generic"] < 0.25
    assert all(total / n < 0.01 for name, total in facts.items() if name != "first lines"), facts


def test_only_the_context_summarizes() -> None:
    here, there = episode("summary", 1), episode("summary", 2)
    for turn in here.turns:
        with pytest.raises(ValueError, match="stands 0 times"):
            summary_of(there.context, turn.question)
        twice = here.context + "\n\n" + here.context
        with pytest.raises(ValueError, match="stands 2 times"):
            summary_of(twice, turn.question)
        start, end = turn.evidence[3]
        with pytest.raises(ValueError, match="0 times"):
            summary_of(here.context[:start] + here.context[end:], turn.question)


@pytest.mark.parametrize("task", ["summary", "summary_with_needles"])
def test_a_longer_context_holds_all_that_a_shorter_one_does(task: str) -> None:
    short, long = (episode(task, 3, length=n) for n in (3001, 9001))
    for title, body in bodies(short.context).items():
        assert Counter(body) <= Counter(bodies(long.context)[title])
    assert len(bodies(short.context)) == 5


def test_long_contexts_get_more_reports() -> None:
    here = episode("summary", turns=2, length=60_001)
    *full, last = sorted((len(body) for body in bodies(here.context).values()), reverse=True)
    assert full == [406] * len(full)
    assert len(full) >= 4
    assert 6 < last <= 406
    used = pieces(here.context) + sum(pieces(t.question) + here.max_new_tokens for t in here.turns)
    assert 0.995 * 60_000 < used < 60_000


def test_needles_stand_between_reports_and_turns_alternate() -> None:
    first = Counter[str]()
    for session in range(6):
        here = episode("summary_with_needles", session, turns=8)
        kinds = [turn.task for turn in here.turns]
        assert set(itertools.pairwise(kinds)) == {("summary", "passkey"), ("passkey", "summary")}
        first[kinds[0]] += 1
        needles = [block for block in here.context.split("\n\n") if not block.startswith("Title: ")]
        assert len(needles) == 5
        keys = [re.fullmatch(r"The pass key for ([a-z]+) is (\d{7})\.", needle) for needle in needles]
        assert len({key[2] for key in keys if key}) == 5
        assert len(bodies(here.context)) == 8
        limit = {turn.task: turn.max_new_tokens for turn in here.turns}
        assert limit["passkey"] < 20 < limit["summary"]
        for turn in here.turns:
            for scorer in ("corrected", "reference"):
                assert score("summary_with_needles", turn.answer, turn.reference, scorer) == pytest.approx(1)
            if turn.task == "passkey":
                assert not re.search(r"\d", turn.question)
                assert here.context.count(turn.answer) == 1
                ((start, end),) = turn.evidence
                assert turn.answer in here.context[start:end]
    assert first == {"summary": 3, "passkey": 3}


def test_pass_keys_cannot_be_guessed() -> None:
    n, chance = 0, TASKS["summary_with_needles"].chance("natural", 8)
    points = Counter[str]()
    for session in range(6):
        here, there = (episode("summary_with_needles", s, turns=8) for s in (session, session + 64))
        before = ""
        for turn, other in zip(here.turns, there.turns, strict=True):
            n += 1
            best = USUAL if turn.task == "summary" else other.answer
            if turn.task == "passkey":
                assert score("summary_with_needles", best, turn.reference) == 0
                assert score("summary_with_needles", before, turn.reference) == 0
            points["best"] += score("summary_with_needles", best, turn.reference)
            before = turn.answer
    assert points["best"] / n <= chance + 0.01


def test_what_cannot_be_built_says_so() -> None:
    with pytest.raises(EpisodeError, match=r"at least \d+ tokens, got 700"):
        episode("summary", length=700)
    with pytest.raises(EpisodeError, match="at most 59 turns"):
        episode("summary_with_needles", turns=60)
    for task in ("summary", "summary_with_needles"):
        with pytest.raises(UsageError, match="leave depth out"):
            episode(task, depth=0.5)


@pytest.mark.parametrize("task", ["summary", "summary_with_needles"])
def test_a_million_tokens_take_seconds(task: str) -> None:
    start = process_time()
    here = build(Request(task, "natural", 10**6, 8, 0, 1, lambda text: -(-len(text) * 10 // 42)))
    assert process_time() - start < 5
    assert 0.99 * 10**6 < len(here.context) / 4.2 < 10**6
