"""A run in which the press had nothing to do is not shown as a measurement of the press."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from kvpress_eval.cli.printing import print_row, row_line
from kvpress_eval.report.gates import run_gates
from kvpress_eval.report.markdown import render_markdown
from kvpress_eval.rows.analysis import analyse
from kvpress_eval.rows.parsing import parse_row
from kvpress_eval.rows.row import Row
from kvpress_eval.rows.row_files import row_path
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.runs.loaded import load
from kvpress_eval.runs.prepare import prepare
from kvpress_eval.runs.runner import run_cell
from rich.console import Console

from tests.eval.report.made import make_row


@pytest.fixture(scope="module")
def rows(dialect_model: str) -> dict[str, Row]:
    loaded = load(dialect_model)
    presses = ("full", "random(keep=1000000)", "snapkv(keep=0.25, window=400)", "kivi(residual=512)", "knorm(keep=0.5)")
    asked = {press: RunConfig(press=press, length=333, sessions=2, turns=2, task="vt") for press in presses}
    return {press: run_cell(prepare(config, loaded)) for press, config in asked.items()}


def test_rows_say_so(rows: dict[str, Row]) -> None:
    assert {row.status for row in rows.values()} == {"ok"}, [row.error for row in rows.values()]
    assert {press: row.kept_all for press, row in rows.items()} == {
        "full": False,
        "random(keep=1000000)": True,
        "snapkv(keep=0.25, window=400)": True,
        "kivi(residual=512)": True,
        "knorm(keep=0.5)": False,
    }
    row = rows["random(keep=1000000)"]
    assert row.session_scores == rows["full"].session_scores
    assert Row.from_dict(row.to_dict()).kept_all
    assert parse_row(row.to_dict(), "a.json").kept_all


def test_what_comes_after_the_prompt_counts(dialect_model: str) -> None:
    """A window that the first prompt does not fill and later turns do: the press packs or drops by then."""
    loaded = load(dialect_model)
    asked = {"task": "kv", "length": 300, "sessions": 1, "turns": 4, "history": "own"}
    short = run_cell(prepare(RunConfig(press="full", **asked), loaded))
    window = int(short.logical_length) + 4
    for press, schedule in (
        (f"kivi(residual={window}, group=4)", "every_turn_prompt"),
        (f"streaming_llm(keep={window})", "after_turn1_prompt"),
    ):
        row = run_cell(prepare(RunConfig(press=press, schedule=schedule, **asked), loaded))
        assert row.status == "ok" and row.bytes_ratio >= 1.0 and not row.kept_all, press
    text = {"task": "lm_dialect", "length": 40, "forced": 60, "sessions": 1, "press": "kivi(residual=64)"}
    for step, kept in ((0, True), (1, False)):  # at once nothing is packed in between
        row = run_cell(prepare(RunConfig(forced_step=step, **text), loaded))
        assert (row.status, row.bytes_ratio, row.kept_all) == ("ok", 1.0, kept)


def test_the_gate_of_bytes_passes_them_over() -> None:
    rows = [make_row("full", "kv"), make_row("random(keep=0.5)", "kv", kept_all=True, bytes_ratio=1.0)]
    for row in rows:
        row["bytes_ratio"], row["bytes_by_kind"], row["bytes"] = 1.0, {"rows": row["bytes_dense"]}, row["bytes_dense"]
    gates = {gate.name: gate for gate in run_gates(analyse([parse_row(row, "a") for row in rows], []))}
    assert gates["a press saves bytes"].verdict == "not checked"
    rows[1]["kept_all"] = False
    gates = {gate.name: gate for gate in run_gates(analyse([parse_row(row, "a") for row in rows], []))}
    assert gates["a press saves bytes"].verdict == "fail"


def test_people_are_told(rows: dict[str, Row], tmp_path: Path) -> None:
    for press, row in rows.items():
        out = io.StringIO()
        print_row(Console(file=out, width=200), row, row_path(tmp_path, row.model, row.run_id), "")
        assert ("measured as the full cache" in out.getvalue()) == row.kept_all, press
        assert ("kept everything" in row_line(row, True)) == row.kept_all


def test_the_report_lists_them() -> None:
    rows = [
        make_row("full", "kv"),
        make_row("random(keep=0.5)", "kv", kept_all=True),
        make_row("random(keep=0.25)", "kv"),
    ]
    text = render_markdown(analyse([parse_row(row, f"{n}.json") for n, row in enumerate(rows)], []), [])
    part = text.partition("## Presses that kept everything")[2].partition("## ")[0]
    assert part.count("random") == 1 and "0.5" in part
    assert "Presses that kept everything" not in render_markdown(
        analyse([parse_row(rows[0], "a.json"), parse_row(rows[2], "b.json")], []), []
    )
