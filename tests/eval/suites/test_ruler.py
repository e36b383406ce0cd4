from __future__ import annotations

import re
import time
from collections import Counter

import pytest
from kvpress_eval.errors import EpisodeError, UsageError
from kvpress_eval.suites import TASKS, build, suite
from kvpress_eval.suites.episode import Episode, Request

NAMES = suite("ruler")
NEEDLE = re.compile(r"One of the special magic (\w+) for (\S+) is: (\S+)\.")


def episode(name: str, length: int = 2049, turns: int = 1, session: int = 0, depth: float | None = None) -> Episode:
    def count(text: str) -> int:
        return -(-len(text) // 3)

    return build(Request(name, "natural", length, turns, 0, session, count, depth=depth))


def needles(name: str, turns: int = 1) -> list[tuple[str, str, str]]:
    return NEEDLE.findall(episode(f"ruler_niah_{name}", turns=turns).context)


def test_the_suite_has_the_thirteen_of_ruler() -> None:
    assert len(NAMES) == 13
    for name in NAMES:
        assert TASKS[name].about.startswith("RULER-like: ")
        assert episode(name).context.startswith(episode(name).instruction)


@pytest.mark.parametrize("name", NAMES)
def test_the_least_length_that_an_error_names_is_enough(name: str) -> None:
    with pytest.raises(EpisodeError, match="needs a length of at least") as error:
        episode(name, length=21, turns=3)
    (least,) = re.findall(r"at least (\d+)", str(error.value))
    assert episode(name, length=int(least), turns=3).turns
    with pytest.raises(EpisodeError):
        episode(name, length=int(least) - 1, turns=3)


@pytest.mark.parametrize("name", NAMES)
def test_another_context_does_not_answer(name: str) -> None:
    here, there = episode(name, turns=3), episode(name, turns=3, session=1)
    for turn in here.turns:
        try:
            found = TASKS[name].solve["natural"](there.context, turn.question)
        except ValueError:
            continue
        assert set(found.split()).isdisjoint(turn.gold or ())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("ruler_cwe", "ruler_fwe")])
def test_a_longer_context_holds_the_filler_of_a_shorter_one(name: str) -> None:
    def pieces(length: int) -> set[str]:
        text = re.sub(r"Document \d+:\n", "", episode(name, length, turns=2).context)
        return set(re.split(r"\n+|(?<=\.) ", text))

    short, long = pieces(1501), pieces(4001)
    assert short < long or (name.endswith(("single_1", "vt")) and short == long)


def test_needles_are_as_many_as_the_kind_says() -> None:
    assert len(needles("single_1")) == len(needles("single_2", turns=4)) == len(needles("single_3")) == 1
    assert len(needles("multikey_1")) == len(needles("multikey_1", turns=4)) == 4
    assert len(needles("multikey_1", turns=6)) == 6
    for name, asked, per_key in (("multivalue", 1, 4), ("multiquery", 4, 1)):
        found = Counter(key for _, key, _ in needles(name, turns=3))
        assert list(found.values()) == [per_key] * asked * 3
    for name in ("multikey_2", "multikey_3"):
        lines = episode(f"ruler_niah_{name}").context.split("\n\n", 1)[1].split("\n")
        assert all(NEEDLE.fullmatch(line) for line in lines)
        assert len({NEEDLE.findall(line)[0][1] for line in lines}) == len(lines) > 30
    (what, key, value) = needles("multikey_3")[0]
    assert what == "uuids"
    assert len(key) == len(value) == 36


def test_one_value_is_asked_for_in_the_singular() -> None:
    one, four = (episode(f"ruler_niah_{kind}").turns[0] for kind in ("single_3", "multiquery"))
    key = one.question.split(" for ")[1].split(" ")[0]
    assert one.question == f"What is the special magic uuid for {key} mentioned in the provided text?"
    assert one.opening == f"The special magic uuid for {key} mentioned in the provided text is"
    assert re.match(r"What are all the special magic numbers for \S+, \S+, \S+, and \S+ mentioned", four.question)
    assert four.opening.endswith(" are")
    assert four.answer == ", ".join(four.gold or ())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("ruler_cwe", "ruler_fwe")])
@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_a_depth_puts_all_evidence_there(name: str, depth: float) -> None:
    made = episode(name, length=6001, turns=2, depth=depth)
    body = len(made.instruction)
    for turn in made.turns:
        for start, end in turn.evidence:
            assert abs((start + end) / 2 - body - depth * (len(made.context) - body)) < 0.13 * len(made.context)


def test_aggregation_has_one_question_and_no_depth() -> None:
    for name in ("ruler_cwe", "ruler_fwe"):
        assert len(episode(name, turns=5).turns) == 1
        with pytest.raises(UsageError, match="what is counted stands all over the context"):
            episode(name, depth=0.5)


def test_a_chain_has_five_names_and_an_example_of_another() -> None:
    made = episode("ruler_vt", turns=2)
    assert made.instruction.count("Memorize and track") == 2
    for turn in made.turns:
        value = re.findall(r"value (\d+)", turn.question)[0]
        assert f"= {value}." in made.context
        assert value not in made.instruction
        assert not any(name in made.instruction for name in turn.gold or ())
        assert [made.context[a:b].split()[1] for a, b in turn.evidence] == list(turn.gold or ())


def test_common_words_stand_as_often_as_ruler_says() -> None:
    for length, common, other in ((2049, 6, 1), (8001, 30, 3)):
        made = episode("ruler_cwe", length)
        words = re.findall(r"(\d+)\. (\w+)", made.context[len(made.instruction) :])
        assert [int(number) for number, _ in words] == list(range(1, len(words) + 1))
        counts = Counter(word for _, word in words)
        gold = made.turns[0].gold or ()
        assert {counts[word] for word in gold} == {common}
        assert max(n for word, n in counts.items() if word not in gold) == other
        assert ("1. " in made.instruction) == (length > 4096)  # the worked example
        assert not any(word in made.instruction for word in gold)


def test_frequent_words_follow_a_zeta_distribution() -> None:
    made = episode("ruler_fwe", 40001)
    counts = Counter(made.context[len(made.instruction) :].split())
    (dots, n), *top = counts.most_common(5)
    assert dots == "..."
    assert {word for word, _ in top[:3]} == set(made.turns[0].gold or ())
    shares = [n / counts.total(), *(times / counts.total() for _, times in top)]
    assert all(abs(share - 0.6079 / rank**2) < 0.03 for rank, share in enumerate(shares, 1))
    assert top[2][1] > 2 * top[3][1]


def test_two_documents_are_needed_where_two_are_asked_about() -> None:
    made = episode("ruler_qa_2", turns=4)
    numbers = [int(number) for number in re.findall(r"Document (\d+):", made.context)]
    assert numbers == list(range(1, len(numbers) + 1))
    documents = re.split(r"Document \d+:\n", made.context)[1:]
    for turn in made.turns:
        (asked,) = re.findall(r"the teacher of ([A-Z]\w+)", turn.question)
        (first,) = (text for text in documents if text.startswith(asked + "\n"))
        assert turn.answer not in first
        assert [made.context.count(turn.answer, a, b) for a, b in turn.evidence].count(1) == 1
    assert len({turn.answer for turn in made.turns}) == 4


@pytest.mark.parametrize("name", ["ruler_cwe", "ruler_qa_2"])  # the slowest
def test_a_million_tokens_take_less_than_five_seconds(name: str) -> None:
    start = time.process_time()
    made = episode(name, length=1_000_001)
    assert time.process_time() - start < 5
    assert len(made.context) > 2_900_000
