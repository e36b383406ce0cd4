from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.errors import UsageError
from kvpress_eval.sources import session_files
from kvpress_eval.sources.token_limits import cut
from kvpress_eval.suites.episode import Episode
from kvpress_eval.suites.prompt import Prompter

from tests.eval.sources.scbench_rows import make

Ask = Callable[..., Episode]


def rows(filler: int, *parts: str) -> list[dict[str, Any]]:
    """One row that asks for the parts, which stand between equal lengths of filler."""
    context = ("." * filler).join(["", *parts, ""])
    turns = [{"input": "?", "answer": part} for part in parts]
    return [{"id": 0, "context": context, "multi_turns": turns}]


@pytest.mark.parametrize("prompter", ["on", "off"], indirect=True)
@pytest.mark.parametrize("length", [1501, 1502, 3333])
def test_everything_fits_and_no_room_is_wasted(ask: Ask, prompter: Prompter, length: int) -> None:
    episode = ask(prompter, "kv", rows(2000, "AAA", "BBB", "CCC"), length=length)
    prompt = prompter.prompt(episode)
    taken = len(prompt.context) + sum(map(len, prompt.questions)) + sum(t.max_new_tokens for t in episode.turns)
    assert episode.cut
    assert length - 8 <= taken <= length
    assert episode.context.startswith("Extract the value")
    assert episode.context.endswith("." * 500)


def test_what_fits_is_not_touched(ask: Ask, prompter: Prompter) -> None:
    whole = ask(prompter, "kv", rows(100, "AAA", "BBB"))
    assert not whole.cut
    assert whole.context == "Extract the value corresponding to the specified key in the JSON object below.\n\n" + (
        "." * 100
    ).join(["", "AAA", "BBB", ""])


@pytest.mark.parametrize("mode", ["multi-turn", "multi-request"])
@pytest.mark.parametrize("prompter", ["on", "off"], indirect=True)
def test_the_released_cut_takes_the_middle_of_the_first_prompt(ask: Ask, prompter: Prompter, mode: str) -> None:
    given = rows(4000, "AAA", "BBB")
    whole = prompter.prompt(ask(prompter, "kv", given, prompts="reference", mode=mode, length=20000))
    # 150 tokens for each of two answers, and 1,000 more in multi-request mode
    half = (3333 - 300 - (1000 if mode == "multi-request" else 0)) // 2
    first = [*whole.context, *(whole.questions[0] if mode == "multi-turn" else [])]
    got = prompter.prompt(ask(prompter, "kv", given, prompts="reference", mode=mode, length=3333))
    assert [*got.context, *(got.questions[0] if mode == "multi-turn" else [])] == first[:half] + first[-half:]


def test_the_mixes_reserve_half_of_their_limits_a_turn(ask: Ask, prompter: Prompter) -> None:
    row = make("repoqa_and_kv", 0)
    given = [{**row, "context": "." * 9000}]
    episode = ask(prompter, "repoqa_and_kv", given, prompts="reference", length=4000, mode="multi-request")
    assert len(episode.context) == 4000 - (1024 + 80) * 2 // 2 - 1000


def test_a_turn_whose_evidence_is_gone_says_so(ask: Ask, prompter: Prompter) -> None:
    episode = ask(prompter, "kv", rows(2000, "AAA", "BBB", "CCC"), length=5000)
    assert [turn.cut for turn in episode.turns] == [False, True, False]
    names = [{"input": "?", "answer": ["BBB", "CCC"]}, {"input": "?", "answer": ["CCC"]}]
    given = [{**rows(2000, "AAA", "BBB", "CCC")[0], "multi_turns": names}]
    assert [turn.cut for turn in ask(prompter, "vt", given, length=5000).turns] == [True, False]
    numbers = [{**make("mf", 0), "context": list(range(999))}]
    assert [turn.cut for turn in ask(prompter, "mf", numbers, length=700).turns] == [True, True]
    assert [turn.cut for turn in ask(prompter, "mf", numbers, length=9000).turns] == [False, False]


@pytest.mark.parametrize("task", ["summary", "many_shot", "summary_with_needles"])
def test_a_summary_needs_all_of_its_context(ask: Ask, prompter: Prompter, task: str) -> None:
    given = [{**make(task, 0), "context": "A paper. " * 2000}]
    episode = ask(prompter, task, given)
    assert episode.cut
    assert episode.turns[0].cut


def test_generated_sessions_leave_room_for_whole_answers(ask: Ask, prompter: Prompter, tmp_path: Path) -> None:
    (file,) = session_files.write(
        ["summary"], tmp_path, 4000, 1, 2, 0
    )  # of four bytes, which this tokenizer reads as four
    row = json.loads(file.read_text(encoding="utf-8"))
    length = len(row["context"]) - 500
    episode = ask(prompter, "summary", [row], length=length)
    assert episode.cut
    prompt = prompter.prompt(episode)
    answers = [turn.max_new_tokens or episode.max_new_tokens for turn in episode.turns]
    assert len(prompt.context) + sum(map(len, prompt.questions)) + sum(answers) <= length


def test_a_stored_session_that_just_fits_is_whole(ask: Ask, prompter: Prompter, tmp_path: Path) -> None:
    (file,) = session_files.write(["kv"], tmp_path, 2000, 1, 1, 0)
    row = json.loads(file.read_text(encoding="utf-8"))
    whole = ask(prompter, "kv", [row], length=99_999)
    prompt = prompter.prompt(whole)
    taken = len(prompt.context) + sum(map(len, prompt.questions))
    taken += max(whole.max_new_tokens, len(prompt.golds[0]))
    assert not ask(prompter, "kv", [row], length=taken).cut
    assert ask(prompter, "kv", [row], length=taken - 1).cut


def test_spans_tell_more_than_texts_and_move_with_the_text(ask: Ask, prompter: Prompter) -> None:
    given = rows(2000, "AAA", "BBB", "AAA")
    at = [2000, 4003, 6006]
    given[0]["meta"] = {"evidence": [[[start, start + 3]] for start in at]}
    for length in (9000, 5000):
        episode = ask(prompter, "kv", given, length=length)
        assert [turn.cut for turn in episode.turns] == [False, length == 5000, False]
        for turn in episode.turns:
            assert [episode.context[start:end] for start, end in turn.evidence] == ([] if turn.cut else [turn.answer])
    # the text is still there, the place that was asked about is not
    given[0]["meta"]["evidence"][2] = [[4003, 4006]]
    assert [turn.cut for turn in ask(prompter, "kv", given, length=5000).turns] == [False, True, True]


@pytest.mark.parametrize("tail", [7, 8, 9])
@pytest.mark.parametrize("head", [1, 3, 4, 5, 6])
def test_characters_are_never_split(ask: Ask, prompter: Prompter, head: int, tail: int) -> None:
    episode = replace(ask(prompter, "kv"), context="字書本" * 50)
    rest = cut(episode, prompter, head, tail).context
    assert rest == "字書本"[: head // 3] + "字書本"[-(tail // 3) :]
    assert len(prompter.tokenizer(rest)["input_ids"]) <= head + tail


def test_a_length_without_room_is_refused(ask: Ask, prompter: Prompter) -> None:
    for prompts, mode in (("corrected", "multi-turn"), ("reference", "multi-turn"), ("reference", "multi-request")):
        with pytest.raises(UsageError, match=r"length 300 leaves no room .* 2 questions and answers .* fewer --turns"):
            ask(prompter, "kv", length=300, prompts=prompts, mode=mode)


def test_a_tokenizer_without_offsets_cannot_cut(ask: Ask, prompter: Prompter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(prompter.tokenizer), "is_fast", False)
    assert not ask(prompter, "kv").cut
    with pytest.raises(UsageError, match="not a fast one"):
        ask(prompter, "kv", rows(2000, "AAA"), length=900)
