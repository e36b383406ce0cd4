"""The log-probability of gold answers, against a forward without a cache and without a press."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from kvpress_eval.machine import clock
from kvpress_eval.rows.answers import unpacked
from kvpress_eval.rows.row import Row
from kvpress_eval.runs import asking, gold_logprobs
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.runs.loaded import Loaded, load
from kvpress_eval.runs.prepare import prepare
from kvpress_eval.runs.runner import run_cell
from kvpress_eval.suites.prompt import Prompt


@pytest.fixture(scope="module")
def loaded(dialect_model: str) -> Loaded:
    return load(dialect_model)


def config(**changes: Any) -> RunConfig:
    return RunConfig(**{"length": 333, "sessions": 2, "turns": 3, "task": "vt", **changes})


def answers(loaded: Loaded, asked: RunConfig, prompt: Prompt, batch: int = 2) -> asking.Answers:
    cell = prepare(asked, loaded)
    with cell.press(loaded.model) as session:
        return asking.ask(loaded.model, session, prompt, asked, frozenset({5}), [6] * len(prompt.golds), batch)


@torch.no_grad()
def plainly(loaded: Loaded, before: list[int], gold: list[int]) -> tuple[float, bool]:
    """Of one forward over everything, without a cache."""
    logits = loaded.model(input_ids=torch.tensor([[*before, *gold]]), use_cache=False).logits[0]
    here = logits[len(before) - 1 : -1].double().log_softmax(-1)
    ids = torch.tensor(gold)
    return float(here.gather(1, ids[:, None]).mean()), bool((here.argmax(-1) == ids).all())


def check(got: asking.Answers, t: int, expected: tuple[float, bool]) -> None:
    found = got.golds[t]
    assert found is not None
    assert found.logprob == pytest.approx(expected[0], abs=2e-4)
    assert found.argmax == expected[1]


def likely(loaded: Loaded, before: list[int], gold: list[int]) -> list[int]:
    """A gold of as many tokens that the model would say."""
    said: list[int] = []
    for _ in gold:
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([[*before, *said]]), use_cache=False).logits[0, -1]
        said.append(int(logits.argmax()))
    return said


@pytest.mark.parametrize("history", ["gold", "own"])
@pytest.mark.parametrize("schedule", ["after_turn1_prompt", "after_context"])
def test_turn_by_turn_it_is_that_of_the_whole_conversation(loaded: Loaded, history: str, schedule: str) -> None:
    asked = config(history=history, schedule=schedule)
    prompt = loaded.prompter.prompt(prepare(asked, loaded).episode(0))
    first = [*prompt.context, *prompt.questions[0]]
    prompt = replace(prompt, golds=[likely(loaded, first, prompt.golds[0]), *prompt.golds[1:]])
    got = answers(loaded, asked, prompt)
    ids = list(prompt.context)
    for t in range(3):
        ids += prompt.questions[t]
        check(got, t, plainly(loaded, ids, prompt.golds[t]))
        ids += prompt.golds[t] if history == "gold" else got.ids[t]
    assert [gold and gold.argmax for gold in got.golds] == [True, False, False]


@pytest.mark.parametrize("piece", [2, 3, 32])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_padded_batch_of_questions(loaded: Loaded, batch: int, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gold_logprobs, "_PIECE", piece)
    asked = config(mode="multi-request", task="kv")
    prompt = loaded.prompter.prompt(prepare(asked, loaded).episode(1))
    assert len({len(ids) for ids in prompt.alone}) > 1, "questions of one length need no padding"
    golds = [prompt.golds[0] * 3, prompt.golds[1][:1], [*prompt.golds[2], 7, 9]]
    prompt = replace(prompt, golds=golds)
    got = answers(loaded, asked, prompt, batch)
    for t in range(3):
        check(got, t, plainly(loaded, [*prompt.context, *prompt.alone[t]], golds[t]))


@pytest.mark.parametrize("chat", ["on", "off"])
@pytest.mark.parametrize("mode", ["multi-turn", "multi-request"])
def test_natural_text_with_and_without_a_chat_template(text_model: str, chat: str, mode: str) -> None:
    loaded = load(text_model, chat=chat)
    asked = config(model=text_model, task="needle", length=690, turns=2, mode=mode, chat=chat)
    prompt = loaded.prompter.prompt(prepare(asked, loaded).episode(0))
    got = answers(loaded, asked, prompt)
    ids = list(prompt.context)
    for t in range(len(prompt.golds)):
        ids += prompt.questions[t]
        before = [*prompt.context, *prompt.alone[t]] if mode == "multi-request" else ids
        check(got, t, plainly(loaded, before, prompt.golds[t]))
        ids += prompt.golds[t]


def test_an_answer_without_text_has_none(loaded: Loaded) -> None:
    asked = config(mode="multi-request")
    prompt = loaded.prompter.prompt(prepare(asked, loaded).episode(0))
    got = answers(loaded, asked, replace(prompt, golds=[prompt.golds[0], [], []]), batch=3)
    assert got.golds[0] is not None
    assert got.golds[1:] == [None, None]
    nothing = answers(loaded, config(), replace(prompt, golds=[[], [], []]))
    assert nothing.golds == [None] * 3


PRESSES = ["snapkv(keep=0.4, window=5)", "kivi(bits=4)", "streaming_llm(keep=0.3)", "h2o(keep=0.3)", "kvzip(keep=0.5)"]


@pytest.mark.parametrize("press", PRESSES)
@pytest.mark.parametrize("mode", ["multi-turn", "multi-request"])
def test_nothing_else_of_a_row_changes(loaded: Loaded, press: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = prepare(config(press=press, mode=mode, history="own" if mode == "multi-turn" else "gold"), loaded)
    row = run_cell(cell)
    monkeypatch.setattr(asking, "forced", lambda forward, cache, logits, golds, mask: [None] * len(golds))
    without = run_cell(cell)
    assert (row.status, without.measures) == ("ok", {})
    assert [len(session) for session in row.measures["gold_logprob"]] == [3, 3]
    other = (
        "measures",
        "disturbance",
        "quiet",
        "answers",
        "seconds",
        "started",
        "threads",
        "peak_memory",
        "prefill_tps",
    )

    def judged(row: Row) -> dict[str, Any]:
        return {k: v for k, v in row.to_dict().items() if k not in other and not k.endswith("_s")}

    assert judged(row) == judged(without)
    texts = [unpacked(one.transcript).decode().splitlines()[1:] for one in (row, without)]
    ours, theirs = ([{**json.loads(line), "gold_logprob": 0, "gold_argmax": 0} for line in lines] for lines in texts)
    assert ours == theirs


@pytest.mark.parametrize("mode", ["multi-turn", "multi-request"])
def test_it_is_in_no_time_that_is_counted(loaded: Loaded, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = config(mode=mode)
    prompt = loaded.prompter.prompt(prepare(asked, loaded).episode(0))
    late = 0.0

    def slow(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal late
            late += 1000
            return function(*arguments)

        return call

    now = time.perf_counter
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now() + late)
    for name in ("forced", "share_kept"):
        monkeypatch.setattr(asking, name, slow(getattr(asking, name)))
    got = answers(loaded, asked, prompt)
    assert late >= 4000 and len(got.kept) == len(got.golds) == 3
    assert max(got.prefill_s, got.first_s, got.decode_s, got.fork_s) < 1000


def test_a_row_of_before_has_no_measures(loaded: Loaded) -> None:
    row = run_cell(prepare(config(), loaded))
    assert all(value is not None and value < 0 for session in row.measures["gold_logprob"] for value in session)
    assert Row.from_dict(json.loads(json.dumps(row.to_dict()))) == row
    old = {name: value for name, value in row.to_dict().items() if name != "measures"}
    assert Row.from_dict(old).measures == {}
