"""The world of made-up people in English and Chinese, and the three tasks that ask about it."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from time import process_time

import pytest
from kvpress_eval.errors import EpisodeError
from kvpress_eval.metrics import score
from kvpress_eval.suites import TASKS, build
from kvpress_eval.suites.episode import Episode, Request
from kvpress_eval.suites.texts.chinese import CHINESE, RARE, SURNAMES
from kvpress_eval.suites.texts.english import ENGLISH
from kvpress_eval.suites.texts.narrative import Language, solve
from kvpress_eval.suites.texts.world import KINDS, Names, Statement, kind_of

NARRATIVES = ("qa_eng", "qa_chn", "choice_eng")
LANGUAGES = {"qa_eng": ENGLISH, "qa_chn": CHINESE, "choice_eng": ENGLISH}
both = pytest.mark.parametrize("language", [ENGLISH, CHINESE], ids=["english", "chinese"])


def pieces(text: str) -> int:
    """About the tokens of a real tokenizer."""
    return -(-len(text) // 3)


def episode(task: str, session: int = 0, turns: int = 5, length: int = 2501, depth: float | None = None) -> Episode:
    return build(Request(task, "natural", length, turns, 0, session, pieces, depth=depth))


def sentences(language: Language, context: str) -> list[str]:
    book = context.split("\n\n", 1)[1]
    return [sentence.strip() for sentence in book.split(language.stop) if sentence.strip()]


@both
def test_every_wording_is_read_back_and_no_two_are_the_same(language: Language) -> None:
    names = Names(language.draw, random.Random(3), spread=language.spread)
    for relation, wordings in language.relations.items():
        assert len(set(wordings)) >= 8
        for wording in wordings:
            said = Statement(
                relation,
                tuple(names.new("thing") for place in "abcp" if f"{{{place}}}" in wording),
                1234 if "{t}" in wording else 0,
            )
            text = wording.format(t=language.year(1234), **dict(zip("abcp", said.names, strict=False)))
            assert language.read(text) == said
            for denial in language.denials:
                denied = denial.format(text)
                assert language.read(denied[0].upper() + denied[1:]) == replace(said, denied=True)
    with pytest.raises(ValueError, match="no sentence that is known"):
        language.read("Nothing")


@pytest.mark.parametrize("task", NARRATIVES)
def test_every_sentence_of_a_book_is_a_statement(task: str) -> None:
    language = LANGUAGES[task]
    read = [language.read(sentence) for sentence in sentences(language, episode(task).context)]
    assert {s.relation for s in read} == set(language.relations)
    assert 0.05 < sum(s.denied for s in read) / len(read) < 0.5


def test_english_names_are_no_words_and_no_options() -> None:
    names = Names(ENGLISH.draw, random.Random(1))
    drawn = [names.new("person") for _ in range(500)]
    assert len(set(drawn)) == 500
    assert all(len(name) == 8 and "A" <= name[0] <= "Z" and name[0] not in "ABCDEIOU" for name in drawn)
    text = " ".join(w for ws in ENGLISH.relations.values() for w in ws) + " ".join(ENGLISH.denials)
    assert not any(name.lower() in text.lower() for name in drawn)
    # a pair of consonants that English does not have: no drawn name can be an English word
    assert all(
        re.fullmatch("[FGHJKLMNPRSTVWZ][aeiou](vk|zd|lz|mv|rz|gv|kz|tv|pz|fv|zg|vn|zr|mz|kv|zf).{4}", n) for n in drawn
    )


def test_chinese_names_share_no_character_with_the_wordings() -> None:
    common = "".join(w for ws in CHINESE.relations.values() for w in ws)
    common += "".join((*CHINESE.denials, *CHINESE.questions.values()))
    assert not set(common) & (set(SURNAMES) | set(RARE))
    assert not set(SURNAMES) & set(RARE)
    assert len(set(SURNAMES)) == len(SURNAMES)


def test_a_chinese_answer_shares_no_character_with_its_question_or_the_filler() -> None:
    for session in range(3):
        here = episode("qa_chn", session, turns=8)
        golds = "".join(turn.answer for turn in here.turns)
        assert len(set(golds)) == len(golds) == 24
        told = Counter(c for s in sentences(CHINESE, here.context) for c in s)
        for turn in here.turns:
            assert not set(turn.answer) & set(turn.question)
            assert not re.search(r"[!-~ ]", turn.question + turn.answer)
            # only sentences that say the name hold its characters
            saying = sum(turn.answer in s for s in sentences(CHINESE, here.context))
            assert all(told[c] == saying for c in turn.answer)
        assert not re.search(r"[!-~ ]", here.context)


@pytest.mark.parametrize("task", NARRATIVES)
def test_only_the_context_answers(task: str) -> None:
    language = LANGUAGES[task]
    for session in range(4):
        here, there = episode(task, session, turns=8), episode(task, session + 50, turns=8)
        for turn in here.turns:
            with pytest.raises(ValueError, match="has 0 answers"):
                solve(language, there.context, turn.question)
            # without its evidence the book does not tell
            cut = here.context
            for start, end in reversed(turn.evidence):
                cut = cut[:start] + cut[end:]
            try:
                told = TASKS[task].solve["natural"](cut, turn.question)
            except ValueError:
                continue
            assert told != turn.answer


@pytest.mark.parametrize("task", ["qa_eng", "qa_chn"])
def test_earlier_turns_do_not_tell_later_answers(task: str) -> None:
    for session in range(5):
        here = episode(task, session, turns=8)
        history = ""
        for turn in here.turns:
            history += turn.question
            assert turn.answer not in history
            assert len(turn.answer) >= 3
            history += turn.answer
        golds = [turn.answer.lower() for turn in here.turns]
        assert not any(a in b for a in golds for b in golds if a is not b)


@pytest.mark.parametrize("task", NARRATIVES)
def test_controls_score_chance_and_right_answers_one(task: str) -> None:
    chance, total, n = TASKS[task].chance("natural", 8), Counter[str](), 0
    for session in range(16):
        here, there = episode(task, session, turns=8), episode(task, session + 64, turns=8)
        before = ""
        for turn, other in zip(here.turns, there.turns, strict=True):
            n += 1
            for scorer in ("corrected", "reference"):
                assert score(task, turn.answer, turn.reference, scorer) == 1
                assert score(task, "", turn.reference, scorer) == 0
                for name, said in {
                    "constant": there.turns[0].answer,
                    "other session": other.answer,
                    "before": before,
                    "question": turn.question,
                }.items():
                    total[f"{name}, {scorer}"] += score(task, said, turn.reference, scorer)
            before = turn.answer
    spread = 3 * (chance * (1 - chance) / n) ** 0.5
    for control, points in total.items():
        assert points / n <= chance + spread + 1e-9, (control, points / n)


def test_all_kinds_are_asked_at_every_turn_and_in_every_part() -> None:
    cells = {(t, (s + t) % 5, kind_of(s, t)) for s in range(5) for t in range(5)}
    for axes in ((0, 1), (0, 2), (1, 2)):
        assert len({(cell[axes[0]], cell[axes[1]]) for cell in cells}) == 25
    assert len(KINDS) == 5
    asked = [ENGLISH.asked(turn.question)[0] for s in range(5) for turn in episode("qa_eng", s).turns]
    assert set(asked) == set(ENGLISH.questions)


def test_a_rumour_an_older_value_and_a_stranger_mislead() -> None:
    tale = (
        "Read.\n\nIn 1300 Fovkades moved to Gazdimel. Fovkades settled in Hulzopin in 1400. "
        "The rumour that Fovkades moved to Jemvatos in 1500 was false. Kirzonem moved to Ligvapor in 1450. "
    )
    question = "Question: Where did Fovkades move last?\nAnswer:"
    assert solve(ENGLISH, tale, question) == "Hulzopin"
    with pytest.raises(ValueError, match="has 2 answers"):
        solve(ENGLISH, tale + "Fovkades moved to Mukzofit in 1400.", question)
    with pytest.raises(ValueError, match="no question that is known"):
        solve(ENGLISH, tale, "Question: Why?\nAnswer:")


def test_options_are_alike_and_letters_do_not_follow_each_other() -> None:
    letters: dict[int, Counter[str]] = {t: Counter() for t in range(5)}
    repeats = 0
    for session in range(40):
        here = episode("choice_eng", session)
        for t, turn in enumerate(here.turns):
            options = dict(re.findall(r"^([A-D])\. (\w+)$", turn.question, re.M))
            assert list(options) == list("ABCD")
            assert (options[turn.answer], turn.answer) == turn.gold
            assert {len(option) for option in options.values()} == {8}
            assert len(set(options.values())) == 4
            assert all(option in here.context for option in options.values())
            assert turn.question.endswith("\n\nThe correct answer is")
            letters[t][turn.answer] += 1
            repeats += t > 0 and turn.answer == here.turns[t - 1].answer
    assert all(counts == Counter(dict.fromkeys("ABCD", 10)) for counts in letters.values())
    assert 20 <= repeats <= 60  # of 160


@pytest.mark.parametrize("task", NARRATIVES)
def test_a_longer_book_tells_all_that_a_shorter_one_does(task: str) -> None:
    language = LANGUAGES[task]
    short, long = (Counter(sentences(language, episode(task, 2, length=n).context)) for n in (2501, 9001))
    assert short < long


@pytest.mark.parametrize("task", NARRATIVES)
def test_what_answers_stands_at_the_depth_asked_for(task: str) -> None:
    for turn in (here := episode(task, length=9001, depth=0.75)).turns:
        assert all(abs(start / len(here.context) - 0.75) < 0.1 for start, _ in turn.evidence)


@pytest.mark.parametrize("length", [257, 1025, 4099, 16385, 65537])
def test_the_dialect_fills_its_length(length: int) -> None:
    here = build(Request("qa_eng", "dialect", length, 5, 0, 0, lambda text: len(text.split())))
    assert length - 120 < len(here.context.split()) < length


def test_what_does_not_fit_says_so() -> None:
    with pytest.raises(EpisodeError, match=r"at least \d+ tokens, got 300"):
        episode("qa_eng", length=300)
    with pytest.raises(EpisodeError, match="at most 30 turns"):
        episode("qa_chn", turns=31)
    tight = build(Request("qa_eng", "natural", 512, 5, 0, 0, lambda text: -(-len(text) * 10 // 42)))
    assert len(tight.turns) == 5


@pytest.mark.parametrize(("task", "tenths"), [("qa_eng", 42), ("choice_eng", 42), ("qa_chn", 15)])
def test_a_million_tokens_take_seconds(task: str, tenths: int) -> None:
    """Characters per token after scbench.md: 4.2 in English prose, 1.5 in Chinese."""
    start = process_time()
    here = build(Request(task, "natural", 10**6, 5, 0, 1, lambda text: -(-len(text) * 10 // tenths)))
    assert process_time() - start < 5
    assert 0.995 * 10**6 < len(here.context) * 10 / tenths < 10**6
