from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kvpress_eval.cli.printing import print_row
from kvpress_eval.errors import UsageError
from kvpress_eval.rows.parsing import parse_row
from kvpress_eval.rows.row_files import load_row, load_rows
from kvpress_eval.runs import asking, runner
from kvpress_eval.runs import prepare as preparing
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.runs.loaded import Loaded, load
from kvpress_eval.runs.prepare import prepare
from kvpress_eval.runs.runner import run_cell
from kvpress_eval.suites.prompt import Prompt
from kvpress_eval.sweeps.sweep import Watcher, run_sweep
from rich.console import Console

from kvpress.errors import BudgetError
from kvpress.plan import solve

PRESSES = ["full", "snapkv(keep=0.5, window=5)", "kivi(bits=4)", "streaming_llm(keep=0.4)"]


@pytest.fixture(scope="module")
def loaded(dialect_model: str) -> Loaded:
    return load(dialect_model)


def config(**changes: Any) -> RunConfig:
    return RunConfig(**{"length": 333, "sessions": 2, "turns": 3, "task": "vt", **changes})


def answers(loaded: Loaded, cell_config: RunConfig, prompt: Prompt | None = None, batch: int = 3) -> asking.Answers:
    cell = prepare(cell_config, loaded)
    prompt = prompt or loaded.prompter.prompt(cell.episode(0))
    with cell.press(loaded.model) as session:
        return asking.ask(loaded.model, session, prompt, cell_config, frozenset({5}), [6] * len(prompt.golds), batch)


@torch.no_grad()
def greedy_from_scratch(loaded: Loaded, ids: list[int]) -> tuple[list[int], bool]:
    """Without a press and without a cache."""
    new: list[int] = []
    while len(new) < 6:
        token = int(loaded.model(input_ids=torch.tensor([[*ids, *new]]), use_cache=False).logits[0, -1].argmax())
        if token == 5:
            return new, True
        new.append(token)
    return new, False


@pytest.mark.parametrize("history", ["gold", "own"])
@pytest.mark.parametrize("schedule", ["after_turn1_prompt", "after_context", "every_turn_prompt"])
@pytest.mark.parametrize("chunk", [0, 50])
def test_turn_by_turn_equals_the_whole_conversation(loaded: Loaded, history: str, schedule: str, chunk: int) -> None:
    asked = config(history=history, schedule=schedule, chunk=chunk)
    prompt = loaded.prompter.prompt(prepare(asked, loaded).episode(0))
    got = answers(loaded, asked, prompt)
    ids = list(prompt.context)
    for t in range(3):
        ids += prompt.questions[t]
        expected, stopped = greedy_from_scratch(loaded, ids)
        assert (got.ids[t], got.stopped[t]) == (expected, stopped)
        ids += prompt.golds[t] if history == "gold" else expected
    assert len({tuple(new) for new in got.ids}) > 1, "a model that always says the same shows nothing"


def test_a_request_is_answered_as_if_it_were_the_only_one(loaded: Loaded) -> None:
    prompt = loaded.prompter.prompt(prepare(config(), loaded).episode(0))
    got = answers(loaded, config(mode="multi-request"), prompt)
    for t in range(3):
        expected = greedy_from_scratch(loaded, [*prompt.context, *prompt.alone[t]])
        assert (got.ids[t], got.stopped[t]) == expected


@pytest.mark.parametrize("press", PRESSES)
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_order_of_requests_does_not_matter(loaded: Loaded, press: str, batch: int) -> None:
    asked = config(mode="multi-request", press=press, task="kv")
    prompt = loaded.prompter.prompt(prepare(asked, loaded).episode(1))
    assert len({len(ids) for ids in prompt.alone}) > 1, "questions of one length need no padding"
    one = answers(loaded, asked, prompt, batch=1)
    turned = replace(prompt, alone=[prompt.alone[i] for i in (2, 0, 1)])
    other = answers(loaded, asked, turned, batch=batch)
    assert other.ids == [one.ids[i] for i in (2, 0, 1)]
    assert other.nbytes == one.nbytes


def test_gold_history_does_not_depend_on_what_the_model_said(loaded: Loaded) -> None:
    gold, own = answers(loaded, config()), answers(loaded, config(history="own"))
    assert gold.ids[0] == own.ids[0]
    assert gold.ids[1:] != own.ids[1:]


def test_compression_fires_when_the_schedule_says(loaded: Loaded) -> None:
    prompt = loaded.prompter.prompt(prepare(config(), loaded).episode(0))
    context, first = len(prompt.context), len(prompt.questions[0])
    press = "snapkv(keep=0.5, window=5)"
    seen = {
        schedule: answers(loaded, config(press=press, schedule=schedule), prompt)
        for schedule in ("after_turn1_prompt", "after_context")
    }
    assert seen["after_turn1_prompt"].logical == context + first
    assert seen["after_context"].logical == context
    assert all(0.4 < a.nbytes / a.dense_nbytes < 0.6 for a in seen.values())


def test_a_scorer_whose_package_is_missing_is_told_before_anything_runs(
    text_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(model=text_model, task="needle", length=690, turns=1)

    def missing(task: str, prediction: str, reference: object, scorer: str) -> float:
        raise UsageError("a package is missing; install the extra code")

    monkeypatch.setattr(preparing, "score", missing)
    with pytest.raises(UsageError, match="install the extra code"):
        prepare(asked, load(text_model))


def test_a_press_that_chooses_once_cannot_choose_every_turn(loaded: Loaded) -> None:
    with pytest.raises(UsageError, match="every_prompt=true"):
        prepare(config(press="snapkv(keep=0.5)", schedule="every_turn_prompt"), loaded)
    prepare(config(press="snapkv(keep=0.5, every_prompt=true)", schedule="every_turn_prompt"), loaded)
    prepare(config(press="streaming_llm(keep=0.5)", schedule="every_turn_prompt"), loaded)
    prepare(config(press="kivi(bits=4)", schedule="every_turn_prompt"), loaded)


@pytest.mark.parametrize("mode", ["multi-turn", "multi-request"])
@pytest.mark.parametrize("press", PRESSES)
def test_a_row_says_everything(loaded: Loaded, press: str, mode: str) -> None:
    row = run_cell(prepare(config(press=press, mode=mode), loaded))
    assert (row.status, row.error) == ("ok", "")
    assert (row.turns, row.n_by_turn, len(row.session_ids)) == (6, [2, 2, 2], 2)
    assert row.score == pytest.approx(sum(map(sum, row.session_scores)) / 6)
    assert row.bytes == sum(row.bytes_by_kind.values()) > 0
    assert row.bytes_ratio == pytest.approx(row.bytes / row.bytes_dense, rel=0.01)
    assert row.bytes_ratio == pytest.approx(1.0) if press == "full" else row.bytes_ratio < 1
    assert 0 < row.prefill_s <= row.ttft_s < row.seconds
    assert row.press_s is not None
    assert row.press_s > 0
    assert row.tpot_s > 0
    assert row.threads > 0
    assert set(row.versions) == {"python", "torch", "transformers", "kvpress"}
    assert row.peak_memory is None or row.peak_memory >= 0
    assert 0 <= row.hit_limit <= 1
    assert {"slowed", "switches", "cpu"} <= row.disturbance.keys()
    assert isinstance(row.quiet, bool)


def test_both_modes_and_all_presses_ask_the_same_sessions(loaded: Loaded) -> None:
    rows = [
        run_cell(prepare(config(press=press, mode=mode), loaded))
        for press in ("full", "kivi(bits=4)")
        for mode in ("multi-turn", "multi-request")
    ]
    assert len({tuple(row.session_ids) for row in rows}) == 1
    assert len({row.run_id for row in rows}) == 4


def test_the_same_cell_gives_the_same_row(loaded: Loaded) -> None:
    first, second = (run_cell(prepare(config(press="h2o(keep=0.3)"), loaded)) for _ in range(2))
    for name in ("run_id", "session_ids", "session_scores", "bytes", "bytes_by_kind", "hit_limit", "command"):
        assert getattr(first, name) == getattr(second, name)


def test_the_run_id_follows_what_is_measured(loaded: Loaded) -> None:
    here = prepare(config(press="snapkv(keep=0.5)"), loaded).id
    assert prepare(config(press="snapkv(keep=0.5, window=32)"), loaded).id == here
    for change in ({"seed": 1}, {"sessions": 3}, {"press": "snapkv(keep=0.4)"}, {"history": "own"}):
        assert prepare(config(**{"press": "snapkv(keep=0.5)", **change}), loaded).id != here


def test_a_cell_that_breaks_is_a_row(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(runner, "ask", broken)
    row = run_cell(prepare(config(), loaded))
    assert (row.status, row.error, row.session_scores) == ("failed", "RuntimeError: out of memory", [])


def test_bytes_out_of_reach_are_a_row_that_says_so_and_no_failure(dialect_model: str, tmp_path: Path) -> None:
    base = {"model": dialect_model, "mode": "multi-request", "turns": 1}
    wanted = [("knorm | kivi(bits=4, residual=0)", "90%"), ("knorm", "50 %"), ("full", "")]
    outcome = run_sweep([config(press=press, bytes=amount, **base) for press, amount in wanted], tmp_path)
    assert (outcome.ran, outcome.failed, outcome.unreachable) == (3, 0, 1)
    rows = {row.asked: row for row in load_rows(tmp_path)}
    assert {asked: (row.status, row.target) for asked, row in rows.items()} == {
        "knorm | kivi(bits=4, residual=0)": ("unreachable", "90%"),
        "knorm": ("ok", "50%"),
        "full": ("ok", ""),
    }
    assert re.search(r"cannot hold .* by its keep: it reaches \S+% to \S+%", str(rows[wanted[0][0]].error))
    assert "keep=" in rows["knorm"].press and "--bytes 50%" in rows["knorm"].command
    assert (run_sweep([config(press="knorm", bytes="50.0%", **base)], tmp_path)).skipped == 1


def test_a_mistake_in_the_bytes_stops_a_sweep_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="leaves nothing to solve"):
        run_sweep([config(model="/no/such/folder", press="kivi(bits=2)", bytes="9%")], tmp_path)
    with pytest.raises(UsageError, match="bytes 'lots' is no amount"):
        config(model="/no/such/folder", press="knorm", bytes="lots")


def test_a_press_is_solved_once_for_each_length_it_compresses(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, asked = solve.solve, []
    monkeypatch.setattr(solve, "solve", lambda *args: asked.append(args[2:]) or whole(*args))
    fresh = replace(loaded, solved={})
    contexts = set()
    for text in ("knorm", "knorm()"):
        for task in ("kv", "prefix_suffix", "vt", "needle"):
            for mode in ("multi-turn", "multi-request"):
                cell = prepare(config(press=text, task=task, mode=mode, bytes="50%"), fresh)
                prompt = loaded.prompter.prompt(cell.episode(0))
                seen = len(prompt.questions[0]) if mode == "multi-turn" else 0
                contexts.add(len(prompt.context) + seen)
    assert sorted(asked) == sorted((length, "50%") for length in contexts)
    for mode in ("multi-turn", "multi-request"):
        assert prepare(config(press="knorm | kivi(bits=4)", mode=mode, bytes="99%"), fresh).problem
    assert len(asked) == len(contexts) + 2, "what cannot be reached is not looked for again either"


def test_claimed_bytes_must_be_the_measured_ones(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    from kvpress import Session

    prefill = Session.prefill

    def forgetful(self: Session, *arguments: Any, **options: Any) -> Any:
        cache = prefill(self, *arguments, **options)
        cache.stores[0].forgotten = torch.zeros(25)  # type: ignore[attr-defined]
        return cache

    assert run_cell(prepare(config(), loaded)).status == "ok"
    monkeypatch.setattr(Session, "prefill", forgetful)
    row = run_cell(prepare(config(), loaded))
    assert row.status == "failed"
    said = re.search(r"claimed bytes (\d+), in all \1, are not the (\d+) held", str(row.error))
    assert said is not None
    assert int(said[2]) - int(said[1]) == 100


def test_a_length_above_the_model_is_refused(loaded: Loaded) -> None:
    with pytest.raises(UsageError, match=r"length 701 is more than .* \(700\); use --length 700 or less"):
        prepare(config(length=701), loaded)


def test_natural_text_runs_through_the_same_code(text_model: str) -> None:
    text = load(text_model)
    assert text.rendering == "natural"
    row = run_cell(prepare(config(task="needle", length=700, turns=1, sessions=1, chat="off"), text))
    assert (row.status, row.rendering, row.n_by_turn) == ("ok", "natural", [1])
    assert row.extras == {}


def test_what_is_measured_beside_the_score_is_in_the_row(text_model: str, tmp_path: Path) -> None:
    summary = "The subject is the fog.\nThey propose Fovkades.\nTests used Gazdimel.\nIt reached 81.25 percent.\n"
    turn = {"input": "Summarize it.", "answer": summary + "It beat Hulzopin.\nIt fails on scans."}
    path = tmp_path / "summary.jsonl"
    path.write_text(json.dumps({"id": 1, "context": "A report about fog.", "multi_turns": [turn]}))
    row = run_cell(prepare(config(source=str(path), task="summary", length=700, chat="off"), load(text_model)))
    assert row.status == "ok", row.error
    assert list(row.extras) == ["key_fact_recall"]
    out = io.StringIO()
    print_row(Console(file=out, width=200), replace(row, extras={"key_fact_recall": 0.25}), Path("row.json"), "")
    assert "beside the score  key_fact_recall 25.0" in out.getvalue()
    assert parse_row(row.to_dict(), "x.json").extras == row.extras


def test_an_interrupted_sweep_goes_on_and_retries_what_failed(
    dialect_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [config(model=dialect_model, press=p, task=t) for p in ("full", "kivi(bits=4)") for t in ("kv", "vt")]
    ended: list[Path] = []

    def stop_at_three(cell: RunConfig) -> None:
        if len(ended) == 2:
            raise KeyboardInterrupt

    watcher = Watcher(start=stop_at_three, end=lambda config, row, path, ran: ended.append(path))
    with pytest.raises(KeyboardInterrupt):
        run_sweep(cells, tmp_path, watcher=watcher)
    before = {path: path.read_bytes() for path in ended}
    assert len(before) == 2

    whole = asking.ask
    monkeypatch.setattr(runner, "ask", lambda *args: 1 / 0)
    outcome = run_sweep(cells, tmp_path)
    assert (outcome.ran, outcome.skipped, outcome.failed) == (2, 2, 2)
    monkeypatch.setattr(runner, "ask", whole)
    outcome = run_sweep(cells, tmp_path)
    assert (outcome.ran, outcome.skipped, outcome.failed) == (2, 2, 0)
    assert {path: path.read_bytes() for path in before} == before
    rows = [load_row(path) for path in tmp_path.rglob("*.json")]
    assert len(rows) == 4
    assert all(row is not None and row.status == "ok" for row in rows)
