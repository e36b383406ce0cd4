"""`kvpress bench`: every part runs, every competitor is there, and ratios are to DynamicCache."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from kvpress_eval.bench import speed
from kvpress_eval.bench.fresh_process import in_fresh_process
from kvpress_eval.cli import bench_command, main
from kvpress_eval.errors import UsageError

SIZES = ["--contexts", "130", "--batches", "2", "--layers", "1", "--steps", "3", "--prompt", "200", "--threads", "1"]


def test_all_three_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    press = "snapkv(keep=0.5) | kivi(bits=4)"
    assert main(["bench", *SIZES, "--presses", press, "--output", str(tmp_path / "out.json")]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())
    parts = {(row["what"], row["name"]) for row in rows}
    assert {("decode step", name) for name in (speed.DENSE, speed.QUARTER, press)} <= parts
    for what in ("prefill", "peak memory of prefill"):
        assert {(what, name) for name in (speed.DENSE, press, "h2o(keep=0.25)")} <= parts
    assert all(row["seconds"] > 0 and row["ratio"] > 0 for row in rows)
    assert {row["ratio"] for row in rows if row["name"] == speed.DENSE} == {1.0}
    assert press in capsys.readouterr().out


def test_disturbed_times_are_marked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A time stands bare only where the machine was quiet; ratios are of competitors that took turns."""
    for waited in (0.0, 0.5):
        monkeypatch.setattr(bench_command.Disturbance, "read", lambda self, waited=waited: {"waited": waited})
        assert main(["bench", *SIZES, "--only", "decode"]) == 0
        said = capsys.readouterr().out
        assert ("‡ ms" in said, "threads waited 0.50 s" in said) == (waited > 0, waited > 0)


def test_a_process_that_refuses_or_dies_is_not_waited_for() -> None:
    with pytest.raises(UsageError, match=r"kivi\(bits=2\) could not read 64 tokens: 2-bit codes of 2 channels"):
        speed.peak(["think(keep_channels=0.02) | kivi(bits=2)"], 64, 1)
    with pytest.raises(UsageError, match=r"^no luck: its process left with exit code 3$"):
        in_fresh_process("no luck", 1, os._exit, 3)


def test_a_ratio_is_the_median_of_its_rounds() -> None:
    rounds = [[2.0, 1.0], [20.0, 5.0], [3.0, 3.0]]  # the second round met a busy machine
    slow, fast = speed._timings("decode step", [speed.DENSE, "full"], 10, 1, rounds)
    assert (slow.ratio, fast.ratio, slow.seconds, fast.seconds) == (1.0, 0.5, 3.0, 3.0)
