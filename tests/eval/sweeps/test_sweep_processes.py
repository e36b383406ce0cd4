"""Sweeps whose processes are killed, share a folder, or have no room: rows stay whole, and the rest gets done."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import pytest
from kvpress_eval.bench import sweep_proof
from kvpress_eval.cli import main
from kvpress_eval.errors import StorageError, UsageError
from kvpress_eval.machine.locks import lock_path
from kvpress_eval.rows.row import Row
from kvpress_eval.rows.row_files import load_rows
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.sweeps.fork_server import METHOD, warm_up
from kvpress_eval.sweeps.grid import load_sweep
from kvpress_eval.sweeps.inline import Inline
from kvpress_eval.sweeps.local_workers import Local
from kvpress_eval.sweeps.merge import same_results
from kvpress_eval.sweeps.sweep import Watcher, run_sweep
from kvpress_eval.sweeps.work import Died, Done, Prepared, Take, Work

PRESSES = ("full", "kivi(bits=4)", "random(keep=0.5)", "knorm(keep=0.4)")


def grid(model: str, sessions: int = 2) -> list[RunConfig]:
    return [
        RunConfig(model=model, press=press, task=task, length=300, sessions=sessions, turns=2)
        for press in PRESSES
        for task in ("kv", "vt")
    ]


@pytest.fixture(scope="module")
def reference(dialect_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of the grid from a sweep that nothing happened to."""
    folder = tmp_path_factory.mktemp("reference")
    assert run_sweep(grid(dialect_model), folder).ran == 8
    return folder


def process(target: Callable[..., object], *arguments: object) -> Any:
    warm_up(1)  # else each process would import torch anew
    context: Any = get_context(METHOD)
    started = context.Process(target=target, args=arguments)
    started.start()
    return started


def wait_for(condition: Callable[[], bool], seconds: float = 180.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def test_killed_at_any_moment_a_sweep_keeps_whole_rows(dialect_model: str, tmp_path: Path, reference: Path) -> None:
    moments = random.Random(11)
    for _ in range(4):
        before = {path: path.read_bytes() for path in tmp_path.glob("*/*.json")}
        sweep = process(run_sweep, grid(dialect_model), tmp_path)
        wait_for(lambda: any(tmp_path.glob("*/.*.lock")) or not sweep.is_alive())  # noqa: B023 - called at once
        sweep.join(moments.uniform(0.0, 0.6))
        sweep.kill()
        sweep.join()
        after = {path: path.read_bytes() for path in tmp_path.glob("*/*.json")}
        assert len(load_rows(tmp_path)) == len(after), "a half row"
        assert all(after[path] == text for path, text in before.items())
    run_sweep(grid(dialect_model), tmp_path)
    assert same_results(reference, tmp_path) == []
    assert not list(tmp_path.rglob(".*"))


def test_a_worker_that_is_killed_costs_no_cell(dialect_model: str, tmp_path: Path, reference: Path) -> None:
    with Local(2) as where:
        killed: list[int] = []

        def start(config: RunConfig) -> None:
            if len(killed) < 2:  # the second time a fresh one
                killed.append(where.pids[0])
                os.kill(killed[-1], signal.SIGKILL)

        outcome = run_sweep(grid(dialect_model), tmp_path, watcher=Watcher(start), where=where)
        assert not set(killed) & set(where.pids)
    assert (outcome.ran, outcome.failed) == (8, 0)
    assert same_results(reference, tmp_path) == []


def die() -> RunConfig:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class Deadly(RunConfig):
    """Kills the worker that reads it."""

    def __reduce__(self) -> Any:
        return die, ()


def test_a_cell_that_kills_its_workers_is_given_up(dialect_model: str) -> None:
    works = [Work("prepare", (Deadly(),)), Work("prepare", (grid(dialect_model)[0],)), Work("prepare", ("broken",))]  # type: ignore[arg-type]
    with Local(1, retries=1) as where:
        dead, good, broken = (done.result for done in where.run(lambda last: works.pop(0) if works else None))
        assert dead == Died("the worker was killed by SIGKILL (out of memory?), 2 times one after the other")
        assert isinstance(good, Prepared) and good.rows[0].task == "kv"
        assert isinstance(broken, RuntimeError) and "in a worker:" in str(broken)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in where.pids))


class Dying(Inline):
    """A launcher whose workers die of one kind of work."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def run(self, take: Take, tick: Callable[[int], None] | None = None) -> Iterator[Done]:
        for done in super().run(take, tick):
            dies = done.work.kind == self.kind and done.work.config.task == "vt"
            yield Done(done.work, Died("the worker died")) if dies else done


def test_given_up_cells_are_failed_rows_and_the_sweep_goes_on(dialect_model: str, tmp_path: Path) -> None:
    cells = grid(dialect_model)[:4]
    outcome = run_sweep(cells, tmp_path, where=Dying("run"))
    assert (outcome.ran, outcome.failed) == (4, 2)
    failed = [row for row in load_rows(tmp_path) if row.status == "failed"]
    assert {row.task for row in failed} == {"vt"} and {row.error for row in failed} == {"the worker died"}
    assert failed[0].command in {cell.command() for cell in cells}
    with pytest.raises(UsageError, match=r"cannot load .*: the worker died; see whether `kvpress run --model"):
        run_sweep(cells[1:2], tmp_path, where=Dying("prepare"))


class Unlike(Inline):
    """A launcher whose node has something else than the one that prepared."""

    def __init__(self, **other: object) -> None:
        super().__init__()
        self.other = other

    def run(self, take: Take, tick: Callable[[int], None] | None = None) -> Iterator[Done]:
        for done in super().run(take, tick):
            ran = isinstance(done.result, Row)
            yield Done(done.work, replace(done.result, run_id="f" * 12, **self.other)) if ran else done  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            {"weights": "another", "attn": "eager"},
            "prepared: attn eager where it ran, sdpa where it was prepared; weig",
        ),
        ({}, "not the cell that was prepared: its data differ; give every node the same"),
    ],
)
def test_a_cell_that_ran_on_an_unlike_node_says_what_differs(
    other: dict[str, object], words: str, dialect_model: str, tmp_path: Path
) -> None:
    outcome = run_sweep(grid(dialect_model)[:1], tmp_path, where=Unlike(**other))
    (row,) = load_rows(tmp_path)
    assert (outcome.failed, row.status, row.session_scores) == (1, "failed", [])
    assert words in str(row.error)


def test_cells_of_two_models_are_run_at_the_same_time(dialect_model: str, text_model: str, tmp_path: Path) -> None:
    texts = [
        RunConfig(model=text_model, press=press, task="needle", length=700, sessions=1, turns=1, chat="off")
        for press in PRESSES[:2]
    ]
    both: list[set[str]] = []
    running: set[RunConfig] = set()

    def start(config: RunConfig) -> None:
        running.add(config)
        both.append({cell.model for cell in running})

    watcher = Watcher(start, end=lambda config, row, path, ran: running.discard(config))
    outcome = run_sweep([*grid(dialect_model, sessions=6)[:4], *texts], tmp_path, watcher=watcher, jobs=2)
    assert (outcome.ran, outcome.failed) == (6, 0)
    assert {dialect_model, text_model} in both


def sweep_and_tell(cells: list[RunConfig], results: Path, told: Path) -> None:
    outcome = run_sweep(cells, results)
    told.write_text(json.dumps([outcome.ran, outcome.skipped, outcome.taken, outcome.failed]))


def test_two_sweeps_share_a_folder(dialect_model: str, tmp_path: Path, reference: Path) -> None:
    rows = tmp_path / "rows"
    sweeps = [process(sweep_and_tell, grid(dialect_model), rows, tmp_path / f"{n}.json") for n in (1, 2)]
    for sweep in sweeps:
        sweep.join()
    told = [json.loads((tmp_path / f"{n}.json").read_text()) for n in (1, 2)]
    assert [sum(one[:3]) for one in told] == [8, 8] and [one[3] for one in told] == [0, 0]
    assert sum(one[0] for one in told) == 8, "no cell was run twice"
    assert min(one[0] for one in told) > 0
    assert same_results(reference, rows) == []


def test_a_cell_of_a_sweep_that_is_killed_is_taken_over(dialect_model: str, tmp_path: Path) -> None:
    cells = grid(dialect_model, sessions=60)[:1]
    other = process(run_sweep, cells, tmp_path)
    wait_for(lambda: any(tmp_path.glob("*/.*.lock")))
    waited: list[int] = []

    def waiting(cells: int) -> None:
        waited.append(cells)
        other.kill()
        other.join()

    outcome = run_sweep(cells, tmp_path, watcher=Watcher(waiting=waiting))
    assert (outcome.ran, outcome.taken, waited) == (1, 0, [1])


def test_a_failed_cell_of_another_sweep_counts_as_failed(
    dialect_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = grid(dialect_model)[1:2]
    whole = Inline.run

    def run(self: Inline, take: Take, tick: Any = None) -> Iterator[Done]:
        for done in whole(self, take, tick):
            yield done
            if done.work.kind == "prepare":  # between the look and the lock another sweep runs the cell
                monkeypatch.undo()
                run_sweep(cells, tmp_path, where=Dying("run"))

    # take() is called by the launcher after it yielded, so the cell was looked at before
    monkeypatch.setattr(Inline, "run", run)
    outcome = run_sweep(cells, tmp_path)
    assert (outcome.ran, outcome.taken, outcome.failed) == (0, 1, 1)
    assert not lock_path(next(tmp_path.glob("*/*.json"))).exists()


def sweep_with_little_room(cells: list[RunConfig], results: Path, told: Path) -> None:
    def start(config: RunConfig) -> None:
        if any(results.glob("*/*.json")):
            resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))  # room for a lock, none for a row

    try:
        run_sweep(cells, results, watcher=Watcher(start))
    except StorageError as error:
        os.write(os.open(told, os.O_CREAT | os.O_WRONLY), str(error).encode()[:900])


def test_where_there_is_no_room_rows_stay_and_the_rest_is_run_later(
    dialect_model: str, tmp_path: Path, reference: Path
) -> None:
    rows, told = tmp_path / "rows", tmp_path / "told"
    process(sweep_with_little_room, grid(dialect_model), rows, told).join()
    assert "File too large; rows already there are whole and are kept. Make room" in told.read_text()
    (row,) = load_rows(rows)
    assert {path.name for path in rows.glob("*/*")} == {f"{row.run_id}.json", f"{row.run_id}.answers.jsonl.gz"}
    assert run_sweep(grid(dialect_model), rows).skipped == 1
    assert same_results(reference, rows) == []


def descendants(pid: int) -> list[int]:
    found, parents = [pid], {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_sweep(blow: signal.Signals, dialect_model: str, tmp_path: Path) -> None:
    sweep, rows = tmp_path / "sweep.yaml", tmp_path / "rows"
    sweep.write_text(f"models: ['{dialect_model}']\ntasks: [kv, vt]\nlengths: [300]\nturns: 2\nsessions: 150\n")
    words = [sys.executable, "-m", "kvpress_eval", "sweep", str(sweep), "--jobs", "2", "--results", str(rows)]
    with open(tmp_path / "out", "w") as out:
        command = subprocess.Popen(
            words,
            env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
            stdout=out,
            stderr=out,
            start_new_session=True,
            # what a shell starts in the background does not hear it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    wait_for(lambda: len(list(rows.glob("*/.*.lock"))) == 2)
    workers = descendants(command.pid)
    assert len(workers) >= 2
    (os.killpg if blow == signal.SIGINT else os.kill)(command.pid, blow)  # the keyboard reaches the whole group
    codes = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
    assert command.wait(60) == codes[blow]
    wait_for(lambda: all(map(gone, workers)), 60)
    text = (tmp_path / "out").read_text()
    assert "Traceback" not in text, text
    assert not list(rows.glob("*/*.json"))
    if blow != signal.SIGKILL:
        word = "interrupted" if blow == signal.SIGINT else "terminated"
        told = f"{word}; finished cells are kept, the same command goes on from here"
        assert text.count(told) == 1 and not list(rows.rglob(".*"))


class Started:
    """A sweep in a fork, which starts sooner than a command."""

    jobs: ClassVar[list[int]] = []

    def __init__(self, grid: str, results: Path, jobs: int) -> None:
        self.jobs.append(jobs)
        results.parent.mkdir(parents=True, exist_ok=True)
        (results.parent / "grid.yaml").write_text(grid)
        cells = load_sweep(results.parent / "grid.yaml").cells()
        self.process = process(run_sweep, cells, results, False, None, jobs)
        self.pid = self.process.pid

    def wait(self) -> int:
        self.process.join()
        return int(self.process.exitcode)

    def poll(self) -> int | None:
        return None if self.process.is_alive() else self.wait()


def test_the_proofs_of_bench(
    dialect_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep_proof, "_start", Started)
    monkeypatch.setattr(Started, "jobs", [])
    grid, out = tmp_path / "grid.yaml", tmp_path / "out.json"
    grid.write_text(f"models: ['{dialect_model}']\ntasks: [kv]\nlengths: [300]\nturns: 2\nsessions: 3\n")
    words = ["bench", "--grid", str(grid), "--rounds", "1", "--output", str(out)]
    kills = [*words, "--only", "kills", "--jobs", "1"]  # two jobs in a fork import torch anew
    assert main(kills) == 0
    assert "2 cells, killed with" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert (found["cells"], found["differences"]) == (2, []) and 0 <= found["rows"][0] <= 2
    assert Started.jobs == [1, 1, 1]
    assert main([*words, "--only", "sweep"]) == 0
    first, second, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("2 jobs ") and second.startswith("1 job ") and last.startswith("2 cells, one thread a job")
    found = json.loads(out.read_text())
    assert found["ratio"] == pytest.approx(found["one"][0] / found["many"][0])
    assert Started.jobs[3:] == [2, 1]

    monkeypatch.setattr(sweep_proof, "same_results", lambda whole, killed: ["a.json: score (score is 0 and 1)"])
    assert main(kills) == 1
    assert "score is 0 and 1" in capsys.readouterr().out
