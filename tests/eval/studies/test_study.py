"""Findings follow from the rows: shown where the scores say so, not shown where they do not."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from kvpress_eval.cli import main
from kvpress_eval.errors import UsageError
from kvpress_eval.rows.parsing import parse_row
from kvpress_eval.rows.row import Row
from kvpress_eval.studies import get_study
from kvpress_eval.studies.scbench_findings import findings

Rate = Callable[[str, float, str, str, int], float]
"""(press, keep, task, mode, turn) -> the chance of a right answer."""


def as_published(press: str, keep: float, task: str, mode: str, turn: int) -> float:
    """A world in which every finding holds."""
    if press == "full" or (press == "evidence" and turn == 0):
        return 1.0
    if task == "many_shot":
        return 0.9
    if press == "kvzip":
        return 0.9 if keep >= 0.25 else 4 * keep * 0.5
    if press == "keydiff":
        return 0.9 if task == "passkey" else 0.3
    if press == "snapkv":
        return 0.8 if mode == "multi-turn" and turn == 0 else 0.1
    return 0.0


def nothing_lost(press: str, keep: float, task: str, mode: str, turn: int) -> float:
    """A world in which no press costs anything."""
    return 0.9


def rows(rate: Rate, sessions: int = 40) -> list[Row]:
    rng = random.Random(5)
    found = []
    for config in get_study("scbench-findings").sweep().cells():
        name = config.press.split("(")[0]
        keep = float(config.press.split("keep=")[1].rstrip(")")) if "keep" in config.press else 1.0
        scores = [
            [float(rng.random() < rate(name, keep, config.task, config.mode, t)) for t in range(5)]
            for _ in range(sessions)
        ]
        data = {
            "format": 1,
            "status": "ok",
            "model": "tiny",
            "press": config.press,
            "task": config.task,
            "mode": config.mode,
            "length": 1024,
            "seed": 0,
            "session_ids": [f"{config.task}/{i}" for i in range(sessions)],
            "session_scores": scores,
            "command": config.command(),
        }
        found.append(parse_row(data, f"tiny/{len(found)}.json"))
    return found


def test_a_world_as_published_shows_them_all() -> None:
    found = findings(rows(as_published))
    assert [finding.id for finding in found] == ["H1", "H2", "H4", "H5", "H8"]
    assert {finding.id: finding.verdict for finding in found} == dict.fromkeys(("H1", "H2", "H4", "H5", "H8"), "shown")


def test_a_world_without_losses_shows_none_of_them() -> None:
    found = findings(rows(nothing_lost))
    assert all(finding.verdict != "shown" for finding in found), found
    claimed = [check.holds for finding in found for check in finding.checks if check.expected]
    assert sum(claimed) <= 1, "one of ten 95 % intervals may miss by chance"


def test_a_cell_that_is_missing_is_named() -> None:
    some = [row for row in rows(as_published, 3) if not (row.press.startswith("snapkv") and row.task == "kv")]
    with pytest.raises(UsageError, match=r"no finished row of snapkv\(keep=0.25\) on kv"):
        findings(some)


def test_the_command_writes_the_page_from_rows_that_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results" / "tiny"
    folder.mkdir(parents=True)
    for i, row in enumerate(rows(as_published)):
        names = ("status", "model", "press", "task", "mode", "length", "seed", "command")
        scores = {"session_ids": list(row.scores), "session_scores": [list(s) for s in row.scores.values()]}
        (folder / f"{i}.json").write_text(json.dumps({"format": 1, **{n: getattr(row, n) for n in names}, **scores}))
    words = ["study", "scbench-findings", "--report-only", "--results", str(tmp_path / "results")]
    assert main(words) == 0
    text = (tmp_path / "scbench-findings.md").read_text()
    assert text.count("**shown**") == 5
    assert "`kvpress study scbench-findings`: 280 of 280 cells, 40 sessions each" in text
    assert "snapkv at 1/4: (later - first) beyond the full cache's" in text
    assert text in capsys.readouterr().out
    assert main(["study", "scbench-finding"]) == 2
    assert "did you mean 'scbench-findings'?" in capsys.readouterr().err
