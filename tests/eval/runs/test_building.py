"""Cells that cannot be built: one failed row each, named by a dry run before a model is loaded."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.cli import main
from kvpress_eval.errors import CellError, TooShortError
from kvpress_eval.rows.row import Row
from kvpress_eval.rows.row_files import load_rows
from kvpress_eval.runs import buildable, loaded
from kvpress_eval.runs.buildable import check_built, unbuildable
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.suites import TASKS
from kvpress_eval.suites.prompt import Prompter
from kvpress_eval.sweeps.grid import LARGE, SweepConfig
from kvpress_eval.sweeps.sweep import run_sweep
from kvpress_eval.sweeps.work import Work
from kvpress_eval.sweeps.worker import Worker, for_transport
from rich.cells import cell_len

from tests.eval.suites.chat_families import FAMILIES, tokenizer


def cell(model: str, **changes: Any) -> RunConfig:
    return RunConfig(**{"model": model, "length": 300, "sessions": 2, "turns": 2, **changes})


def broken(model: str) -> list[RunConfig]:
    """One cell that can be built, and others that cannot, each for another reason."""
    return [
        cell(model),
        cell(model, length=41),  # too short
        cell(model, length=701),  # more than the model has positions
        cell(model, task="summary"),  # in no language that the model reads
        cell(model, task="needle_grid", length=30, depth=50),
        cell(model, depth=50),  # a task without depths
        cell(model, press="snapkv(keep=0.5)", schedule="every_turn_prompt"),
        cell(model, press="evidence(turn=2)"),  # a turn that is not there
        cell(model, press="knorm", bytes="50%", length=41),
    ]


def test_a_cell_that_cannot_be_built_is_a_failed_row_and_the_others_run(dialect_model: str, tmp_path: Path) -> None:
    cells = broken(dialect_model)
    outcome = run_sweep(cells, tmp_path)
    assert (outcome.ran, outcome.failed) == (len(cells), len(cells) - 1)
    rows = {row.command: row for row in load_rows(tmp_path)}
    assert len(rows) == len(cells)
    good, *bad = (rows[config.command()] for config in cells)
    assert (good.status, good.turns) == ("ok", 4)
    words = (
        r"^TooShortError: .* 2 turns needs a length of at least \d+ tokens, got 41",
        r"^CellError: length 701 is more than .* \(700\)",
        r"^EpisodeError: task 'summary' has no dialect rendering",
        r"^TooShortError: .*'needle_grid'",
        r"^EpisodeError: task 'kv' \(dialect\) cannot put its evidence at a depth",
        r"^CellError: schedule every_turn_prompt needs a press that chooses again",
        r"^CellError: kv has no turn 2",
        r"^TooShortError: .* got 41",
    )
    for row, pattern in zip(bad, words, strict=True):
        assert row.status == "failed"
        assert re.search(pattern, str(row.error)), row.error
        assert not row.session_scores


def test_what_cannot_be_built_comes_out_of_a_worker(dialect_model: str) -> None:
    cells = broken(dialect_model)
    worker = Worker()
    found = pickle.loads(pickle.dumps(for_transport(worker, Work("prepare", tuple(cells)))))
    assert [row.status for row in found.rows] == ["ok"] + ["failed"] * (len(cells) - 1)
    assert [f"{type(error).__name__}: {error}" for error in found.problems] == [row.error for row in found.rows[1:]]
    ran = for_transport(worker, Work("run", (cells[1],)))
    assert isinstance(ran, Row)
    assert (ran.status, ran.run_id) == ("failed", found.rows[1].run_id)


def test_one_cell_alone_is_a_mistake_and_no_row(
    dialect_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CellError, match="needs a length of at least"):
        run_sweep([cell(dialect_model, length=41)], tmp_path, strict=True)
    capsys.readouterr()
    assert main(["run", "--model", dialect_model, "--length", "41", "--results", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert load_rows(tmp_path) == []


def test_every_session_is_looked_at_before_any_is_run() -> None:
    """Sessions differ in what they need: a cell whose first can be built and a later one not is known at once."""
    prompter = Prompter(tokenizer(FAMILIES["smollm2"]), "natural")
    needs = []
    for session in range(12):
        with pytest.raises(TooShortError) as caught:
            check_built(RunConfig(model="x", task="qa_eng", length=10, sessions=session + 1), prompter)
        needs.append(caught.value.least)
    assert needs == sorted(needs)
    assert needs[0] < needs[-1]
    first, most = RunConfig(model="x", task="qa_eng", length=needs[0], sessions=1), needs[-1]
    check_built(first, prompter)
    with pytest.raises(TooShortError, match=f"at least {most} tokens, got {needs[0]}"):
        check_built(RunConfig(model="x", task="qa_eng", length=needs[0], sessions=12), prompter)
    check_built(RunConfig(model="x", task="qa_eng", length=most, sessions=12), prompter)


@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if "dialect" in task.build])
def test_the_least_length_of_the_bundled_model_can_be_built(task: str) -> None:
    (problem,), _ = unbuildable([RunConfig(task=task, length=1, sessions=1)])
    assert problem.least is not None
    assert problem.reason == f"needs a length of at least {problem.least}"
    assert unbuildable([RunConfig(task=task, length=problem.least, sessions=1)]) == ([], [])


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded, "load", lambda *args: pytest.fail("a model is loaded"))
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *args: pytest.fail("weights"))


def dry_run(path: Path, capsys: pytest.CaptureFixture[str], grid: str) -> list[str]:
    """The lines that a dry run prints, none wider than 80 columns."""
    (path / "grid.yaml").write_text(grid)
    assert main(["sweep", str(path / "grid.yaml"), "--dry-run", "--results", str(path / "rows")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert not (path / "rows").exists()
    return [" ".join(line.split()) for line in lines]


@pytest.mark.usefixtures("no_weights")
def test_a_dry_run_names_what_cannot_be_built(
    dialect_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    grid = (
        f"models: [tiny, '{dialect_model}', /not/here]\npresses: [kivi(bits=2), 'knorm(keep=0.25) | kivi(bits=4)']\n"
        "tasks: [many_shot, kv]\nlengths: [64, 513, 1000]\nmodes: [multi-turn]\nsessions: 3\n"
    )
    lines = dry_run(tmp_path, capsys, grid)
    text = " ".join(lines)
    assert "54 cells, 0 finished; all: multi-turn · seed 0 · 3 x 5 questions" in text
    assert "tiny: many_shot at length 64, 5 turns: needs a length of at least 72 (3 cells)" in text
    assert "tiny: kv at length 64, 5 turns: needs a length of at least 97 (3 cells)" in text
    assert "has positions (700); use --length 700 or less (6 cells)" in text
    estimated = re.findall(r"/not/here: (\w+) at length (\d+), 5 turns: needs a length of at least (\d+)", text)
    assert {(task, length) for task, length, _ in estimated} >= {
        (t, n) for t in ("kv", "many_shot") for n in ("64", "513")
    }
    # another tokenizer needs 979 and 956
    assert all(900 < int(least) < 1100 for _, _, least in estimated)
    assert "the tokenizer of /not/here is not on this machine: what its cells need is estimated" in text
    assert f"{6 + 12 + 3 * len(estimated)} cells cannot be built; each will be a failed row:" in text
    assert "tiny · kv · 513 tokens" in lines
    assert "knorm(keep=0.25) | kivi(bits=4) to run" in lines


def test_a_dry_run_says_that_a_pretrained_model_is_not_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("KVPRESS_HOME", str(tmp_path / "empty"))
    grid = "models: [tiny, smollm2-135m]\npresses: [knorm]\ntasks: [kv]\nlengths: [512]\nmodes: [multi-turn]\n"
    text = " ".join(dry_run(tmp_path, capsys, grid))
    assert text.count("kvpress models get smollm2-135m") == 1


@pytest.mark.usefixtures("no_weights")
def test_a_dry_run_of_many_cells_is_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = dry_run(
        tmp_path,
        capsys,
        "presses: ['knorm(keep={keep})']\nvary: {keep: [0.5, 0.25]}\ntasks: [kv, vt]\nlengths: [64, 513]\n"
        f"modes: [multi-turn]\nsessions: 1\nseeds: {list(range(30))}\n",
    )
    assert "360 cells, 0 finished; all: tiny · multi-turn · 1 x 5 questions" in lines
    assert "knorm(keep=0.25) 120 60" in lines
    assert "180 cells cannot be built; each will be a failed row:" in lines


@pytest.mark.usefixtures("no_weights")
def test_a_million_cells_are_counted_and_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(buildable, "check_built", lambda *args: pytest.fail("a cell is looked at"))
    keeps, seeds = [i / 1000 for i in range(100, 600)], list(range(500))
    grid = (
        "presses: ['knorm(keep={keep})', 'knorm(keep={keep}) | kivi(bits=2)']\ntasks: [kv]\nmodes: [multi-turn]\n"
        f"vary: {{keep: {keeps}}}\nseeds: {seeds}\nlengths: [512, 1024]\n"
    )
    lines = dry_run(tmp_path, capsys, grid)
    assert lines[0] == f"{1001 * 500 * 2:,} cells"
    assert lines[1].startswith(f"warning: more than {LARGE:,}, the most that a sweep runs or lists")
    assert main(["sweep", str(tmp_path / "grid.yaml"), "--results", str(tmp_path / "rows")]) == 2
    assert "the sweep has 1,001,000 cells, more than 50,000" in capsys.readouterr().err
    # what is mistyped is still found
    (tmp_path / "grid.yaml").write_text(grid.replace("kivi(bits=2)", "kivi(bits=3)"))
    assert main(["sweep", str(tmp_path / "grid.yaml"), "--dry-run"]) == 2
    assert "bits=3" in capsys.readouterr().err


def test_a_count_is_that_of_the_cells() -> None:
    for sweep in (
        SweepConfig(),
        SweepConfig(
            presses=("full", "kivi(bits={b})", "kivi(bits=2)"), vary={"b": (2, 4)}, tasks=("needles", "needle")
        ),
        SweepConfig(presses=("knorm", "snapkv"), bytes=("25%", "50%"), depths=(-1, 50), seeds=(0, 1), lengths=(64, 65)),
        SweepConfig(models=("tiny", "tiny-outlier"), modes=("multi-turn",)),
        SweepConfig(tasks=("kv", "lm_dialect"), forced=16),
        SweepConfig(tasks=("lm_dialect", "kv"), forced=16, forced_step=1),
        SweepConfig(tasks=("lm_code", "lm_text"), text=(__file__,)),
    ):
        assert sweep.count() == len(sweep.cells())
        assert {config.task for config in sweep.examples()} == {config.task for config in sweep.cells()}


def test_texts_that_are_continued_need_a_length_too(dialect_model: str, tmp_path: Path) -> None:
    cells = [
        cell(dialect_model, task="lm_dialect", length=20, forced=16),
        cell(dialect_model, task="lm_code", forced=16),
        cell(dialect_model, task="lm_dialect", length=690, forced=16),
        cell(dialect_model, task="lm_dialect", length=64, forced=16, sessions=1),
    ]
    assert [problem.config for problem in unbuildable(cells)[0]] == cells[:3]
    outcome = run_sweep(cells, tmp_path)
    assert (outcome.ran, outcome.failed) == (4, 3)
    errors = {row.task: str(row.error) for row in load_rows(tmp_path) if row.status == "failed" and row.length == 300}
    assert errors["lm_code"].startswith("EpisodeError: task 'lm_code' is not what model")
    # beside tasks that ask: one mode, no depth
    sweep = SweepConfig(tasks=("lm_dialect", "kv"), presses=("knorm(keep=0.5)",), lengths=(64, 128))
    assert sweep.count() == len(sweep.cells()) == 12
