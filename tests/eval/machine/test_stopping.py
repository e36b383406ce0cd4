"""Signals that ask the command to stop: one line, the exit code of a shell, locks given back."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from kvpress_eval.cli import bench_command, main
from kvpress_eval.machine.signals import Stopped, kept, stoppable
from kvpress_eval.rows.row_files import load_rows
from kvpress_eval.runs import runner


def blow(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "hung up")]
)
def test_a_cell_that_is_stopped_leaves_no_row_and_no_lock(
    request: pytest.FixtureRequest,
    number: signal.Signals,
    code: int,
    word: str,
    dialect_model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # a job in the background may have been started deaf to it
    request.addfinalizer(lambda: signal.signal(number, before))
    monkeypatch.setattr(runner, "ask", lambda *args: blow(number))
    cell = ["run", "--model", dialect_model, "--length", "300", "--sessions", "2", "--turns", "2"]
    assert main([*cell, "--results", str(tmp_path)]) == code
    assert capsys.readouterr().err == f"{word}; finished cells are kept, the same command goes on from here\n"
    assert load_rows(tmp_path) == [] and not list(tmp_path.rglob(".*"))
    assert signal.getsignal(number) == signal.SIG_DFL, "as it was found"


def test_every_command_is_stopped_like_this(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_command, "main", lambda words: blow(signal.SIGTERM))
    assert main(["bench"]) == 143
    assert capsys.readouterr().err == "terminated\n", "it begins anew"
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed") and pytest.importorskip(
        "kvpress_eval.runs.lm_eval_model"
    )
    monkeypatch.setattr(lm_eval, "cli_evaluate", lambda: blow(signal.SIGTERM))
    assert main(["lm-eval", "run"]) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "terminated"


def test_what_ignores_a_signal_goes_on() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with stoppable():
            blow(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_library_does_not_take_the_signal_over() -> None:
    with stoppable():
        with kept():
            signal.signal(signal.SIGTERM, lambda number, frame: None)  # as Ray does
        with pytest.raises(Stopped):
            blow(signal.SIGTERM)


def test_another_thread_changes_no_handler() -> None:
    found = []

    def work() -> None:
        with stoppable():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
