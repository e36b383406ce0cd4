"""Presses solved for bytes are one line over tasks; dtypes part tables; equal bytes side by side."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.report.equal_bytes import matrices
from kvpress_eval.report.gates import run_gates
from kvpress_eval.report.generate import print_summary
from kvpress_eval.report.html import page_data
from kvpress_eval.report.markdown import render_markdown
from kvpress_eval.rows.amounts import falling
from kvpress_eval.rows.analysis import analyse
from kvpress_eval.rows.parsing import parse_row
from kvpress_eval.rows.press_text import named, solved_range

from tests.eval.report import made

SOLVED = {"25%": "snapkv(keep=0.25)", "12.5%": "snapkv(keep=0.125)"}  # made-up rows of these give the scores
REASON = "BudgetError: h2o | kivi(bits=4) cannot hold 1,000 bytes: it reaches 0.1% to 15.6%"


def solved(asked: str, target: str, task: str, found: float, **changes: Any) -> dict[str, Any]:
    """A row of `asked` solved for `target`: its keep came out as `found`."""
    row = made.make_row(SOLVED[target], task, **changes)
    row |= {"press": re.sub(r"^\w+", rf"\g<0>(keep={found})", asked), "asked": asked, "target": target}
    row["command"] += f" --bytes {target}"
    return {**row, "run_id": f"{asked}-{target}-{row['run_id']}"}


def rows_of(dtype: str = "bfloat16") -> list[dict[str, Any]]:
    """Three presses for two amounts on two tasks: one wins, one misses a task, one cannot be reached."""
    rows = []
    for i, task in enumerate(("kv", "multihop")):
        rows.append(made.make_row("full", task, dtype=dtype))
        for target, keep in (("25%", 0.381 + i / 50), ("12.5%", 0.121 + i / 50)):
            rows.append(solved("snapkv | kivi(bits=4)", target, task, keep, dtype=dtype))
            failed = made.failed(solved("h2o | kivi(bits=4)", target, task, keep, dtype=dtype), REASON)
            rows.append({**failed, "press": failed["asked"]})
        rows.append(made.make_row("random(keep=0.125)", task, dtype=dtype))
    worse = solved("knorm", "25%", "kv", 0.25, dtype=dtype)
    return [*rows, {**worse, "session_scores": [[0.0] * 5 for _ in worse["session_scores"]], "score": 0.0}]


def analysed(rows: list[dict[str, Any]]) -> Any:
    return analyse([parse_row(row, f"m/{i}.json") for i, row in enumerate(rows)])


def test_a_solved_press_is_one_line_over_all_tasks() -> None:
    rows = rows_of()
    analysis = analysed(rows)
    (table,) = analysis.tables
    (cell,) = (c for c in analysis.macros(table) if c.method.name == "snapkv | kivi(bits=4) at 25 %")
    mine = [row for row in rows if (row["asked" if "asked" in row else "press"], row.get("target")) == cell.method[:2]]
    assert {row["press"] for row in mine} == {
        "snapkv(keep=0.381) | kivi(bits=4)",
        "snapkv(keep=0.401) | kivi(bits=4)",
    }
    assert cell.tasks == 2 and cell.complete
    assert cell.score.mean == pytest.approx(sum(row["score"] for row in mine) / 2)
    assert cell.bytes_ratio == pytest.approx(sum(row["bytes_ratio"] for row in mine) / 2)
    assert cell.contrast is not None and cell.contrast.diff.n == 48, "paired with the full cache"
    text = render_markdown(analysis, run_gates(analysis))
    assert text.count("| `snapkv \\| kivi(bits=4)` at 25 % (keep 0.381 to 0.401)") == 1
    data = json.dumps(page_data(analysis, run_gates(analysis)))
    assert all(json.dumps(row["command"]) in data for row in mine) and "keep 0.381 to 0.401" in data


def test_rows_without_the_new_keys_are_asked_as_they_are() -> None:
    row = parse_row(made.make_row("snapkv(keep=0.25)", "kv"), "x.json")
    assert (row.asked, row.target) == ("snapkv(keep=0.25)", "")


def test_dtypes_are_never_in_one_table(tmp_path: Path) -> None:
    rows = rows_of() + rows_of("float32")
    better = [row for row in rows if row["dtype"] == "float32" and row["press"] == "random(keep=0.125)"]
    for row in better:  # better than its own full cache, which the other dtype's rows must not hide
        row |= {"session_scores": [[1.0] * 5 for _ in row["session_scores"]], "score": 1.0}
    analysis = analysed(rows)
    assert [table.dtype for table in analysis.tables] == ["bfloat16", "float32"]
    dtypes = {row.path: row.dtype for row in analysis.rows}
    assert all(dtypes[path] == other.dtype for path, other in analysis.references.items())
    gates = run_gates(analysis)
    (first, *_) = (gate for gate in gates if gate.name == "full cache at least as good")
    assert first.failures and all("float32" in failure for failure in first.failures)
    titles = [line for line in render_markdown(analysis, gates).splitlines() if line.startswith("### ")]
    assert [title.rsplit(", ", 1)[1] for title in titles] == ["bfloat16", "float32"]
    alone = analysed(rows_of())
    assert "dialect\n" in render_markdown(alone, run_gates(alone)), "one dtype is no part of a title"

    console = pytest.importorskip("rich.console")
    out = io.StringIO()
    for row in rows:
        row["run_id"] += row["dtype"]
    print_summary(made.write_rows(tmp_path, rows), console.Console(file=out, width=100, color_system=None))
    titles = [line for line in out.getvalue().splitlines() if line.startswith("org/")]
    assert [title.rsplit(", ", 1)[1] for title in titles] == ["bfloat16", "float32"]


def test_equal_bytes_side_by_side() -> None:
    analysis = analysed(rows_of())
    (matrix,) = matrices(analysis)
    assert matrix.targets == ("25%", "12.5%") and matrix.full is not None
    lines = {line.asked: line.entries for line in matrix.lines}
    assert list(lines) == ["snapkv | kivi(bits=4)", "h2o | kivi(bits=4)", "knorm"]
    assert [entry.best for entry in lines["snapkv | kivi(bits=4)"]] == [True, True]
    assert all(e.cell is None and "on kv and 1 more: h2o" in e.reason for e in lines["h2o | kivi(bits=4)"])
    missing = lines["knorm"][0]
    assert missing.cell is not None and not missing.cell.complete and not missing.best
    not_run = lines["knorm"][1]
    assert not_run.cell is None and not not_run.failed

    text = render_markdown(analysis, run_gates(analysis)).partition("#### Equal bytes")[2]
    best = [f"{100 * entry.cell.score.mean:.1f}" for entry in lines["snapkv | kivi(bits=4)"] if entry.cell]
    assert f"| `snapkv \\| kivi(bits=4)` | **{best[0]}** | **{best[1]}** |" in text
    assert "| `h2o \\| kivi(bits=4)` | \u2013 | \u2013 |" in text and "| `knorm` | 0.0 \u2020 | not run |" in text
    assert text.count("cannot hold 1,000 bytes") >= 2 and "Some tasks are missing" in text


def test_the_page_has_a_matrix_for_every_task() -> None:
    analysis = analysed(rows_of())
    data = page_data(analysis, run_gates(analysis))
    assert [(m["table"], m["task"]) for m in data["equal"]] == [(0, ""), (0, "kv"), (0, "multihop")]
    for matrix in data["equal"]:
        for line in matrix["lines"]:
            for entry, target in zip(line["entries"], ("25%", "12.5%"), strict=True):
                if entry["cell"] is not None:
                    cell = analysis.cells[entry["cell"]]
                    assert (cell.method[:2], cell.task) == ((line["press"], target), matrix["task"])
    assert page_data(analysed([made.make_row("full", "kv")]), [])["equal"] == []


def test_what_was_run_again_is_not_said_to_have_failed() -> None:
    row = solved("snapkv", "25%", "kv", 0.25)
    (matrix,) = matrices(analysed([made.failed(row, "broke"), row]))
    assert matrix.lines[0].entries[0].reason == "" and matrix.lines[0].entries[0].best


def test_words_for_amounts() -> None:
    assert named("snapkv", "12.5%") == "snapkv at 12.5 %" and named("snapkv", "") == "snapkv"
    amounts = ["512KiB", "6%", "1MiB", "12.5%", "odd"]
    assert sorted(amounts, key=falling) == ["12.5%", "6%", "1MiB", "512KiB", "odd"]
    assert solved_range([("a | b(bits=4)", "a(keep=0.5) | b(bits=4)")]) == "keep 0.5"
    assert solved_range([("b", "b(bits=2)"), ("b", "b(bits=4)")]) == "bits 2 to 4"
    assert solved_range([("b(keep=1)", "b(keep=1)")]) == ""
