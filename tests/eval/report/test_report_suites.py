"""Suites, scorers, devices, imports and the life of a cache in the tables; verdicts and flips in the README."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.report.gates import run_gates
from kvpress_eval.report.html import page_data
from kvpress_eval.report.markdown import render_markdown
from kvpress_eval.report.terminal import print_analysis
from kvpress_eval.rows.analysis import analyse
from kvpress_eval.rows.claims import table_of, table_order
from kvpress_eval.rows.parsing import parse_row, read_rows
from rich.console import Console

from tests.eval.report import made
from tests.eval.report.made import parsed


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The analysis of the rows of several suites, read from disk."""
    return analyse(*read_rows(made.write_rows(tmp_path_factory.mktemp("suites"), made.suites())))


def test_old_rows_belong_to_scbench() -> None:
    row = parse_row(made.make_row("full", "kv"), "x.json")
    assert (row.suite, row.source, row.prompts, row.scorer, row.depth) == (
        "scbench",
        "generated",
        "corrected",
        "exact",
        None,
    )
    natural = parse_row(made.make_row("full", "kv", rendering="natural"), "x.json")
    assert natural.scorer == "corrected" and natural.by_reference() is None


@pytest.mark.parametrize("field", ["suite", "source", "prompts", "scorer", "origin"])
def test_nothing_is_paired_across_what_a_table_keeps_apart(field: str) -> None:
    rows = [made.make_row("full", "kv"), made.make_row("snapkv(keep=0.5)", "kv", **{field: "other"})]
    analysis = parsed(rows)
    assert len(analysis.tables) == 2 and not analysis.contrasts


def test_a_row_with_both_scores_stands_in_two_tables(found: Any) -> None:
    tables = [t for t in found.tables if t.source == "scbench"]
    assert [t.scorer for t in tables] == ["corrected", "reference"]
    ours, theirs = (found.macros(t) for t in tables)
    assert [c.method for c in ours] == [c.method for c in theirs]
    assert all(b.score.mean > a.score.mean for a, b in zip(ours, theirs, strict=True)), "half a point counts there"
    assert all(
        found.references[row.path].scorer == row.scorer
        for cell in ours + theirs
        for row in cell.rows
        if not row.is_full
    )
    twins = [row for row in found.rows if row.twin]
    assert len(twins) == 8 and len(found.runs) == len(found.rows) - 8
    assert theirs[0].contrast is None and theirs[1].contrast is not None
    assert theirs[1].contrast.flips is None or theirs[1].contrast.flips.of < ours[1].contrast.flips.of, (
        "halves do not flip"
    )


def test_times_of_several_devices_are_no_mean() -> None:
    rows = [made.make_row("full", task, device=d, tpot_s=0.5) for task, d in (("kv", "cpu"), ("multihop", "cuda"))]
    analysis = parsed(rows)
    (cell,) = analysis.macros(analysis.tables[0])
    assert cell.time("tpot_s") != cell.time("tpot_s") and parsed(rows[:1]).cells[0].time("tpot_s") == 0.5
    (line,) = (line for line in render_markdown(analysis, []).splitlines() if line.startswith("| `full`"))
    assert line.split(" | ")[12:15] == ["\u2013"] * 3 and "500.0" not in line
    columns = page_data(analysis, [])["cells"]["columns"]["tpot_s"]
    assert None in (columns["v"] if "v" in columns else columns["u"])
    out = io.StringIO()
    print_analysis(analysis, [], Console(file=out, width=100, color_system=None))
    assert "500.0" not in out.getvalue()


def test_every_table_has_its_place() -> None:
    tables = {table_of(parse_row(made.make_row("full", "kv", scorer=name), "x")) for name in ("a", "b", "reference")}
    assert len({table_order(table) for table in tables}) == 3
    assert [table.scorer for table in sorted(tables, key=table_order)] == ["a", "b", "reference"]


def test_the_released_scorer_has_no_chance_of_the_other_and_its_twins_are_no_runs() -> None:
    rows = [made.make_row(press, "kv") for press in ("full", "snapkv(keep=1.0)")]
    for row in rows:
        row["reference_scores"] = row["session_scores"]
    read = [parse_row(row, f"m/{i}.json") for i, row in enumerate(rows)]
    twins = [row.by_reference() for row in read]
    assert [row.chance for row in read + twins] == [0.02, 0.02, None, None]
    gates = {gate.name: gate for gate in run_gates(analyse(read + twins))}
    assert gates["scores follow from sessions"].checked == 2
    assert gates["keeping everything changes nothing"].checked == 1
    rows[1]["reference_scores"] = [[0.5] * 5, *rows[1]["session_scores"][1:]]
    gates = {gate.name: gate for gate in run_gates(parsed(rows))}
    assert "1 of 24 sessions differ" in gates["keeping everything changes nothing"].failures[0], "by either scorer"


def test_imported_rows_claim_scores_only() -> None:
    rows = made.imported()
    row = parse_row(rows[1], "x.json")
    assert row.bytes is row.bytes_ratio is row.tpot_s is row.step_bytes is row.chance is None and row.score is not None
    assert row.empty == 0.0, "measured"
    analysis = parsed(rows)
    (table,) = analysis.tables
    full, press = analysis.macros(table)
    assert press.contrast is not None and not (full.front or press.front or full.fast_front or press.fast_front)
    gates = {gate.name: gate for gate in run_gates(analysis)}
    assert not any(gate.failures for gate in gates.values())
    assert gates["claimed bytes are measured bytes"].checked == gates["every row is paired"].checked == 0
    assert gates["scores follow from sessions"].checked == 2
    text = render_markdown(analysis, list(gates.values()))
    assert "imported from NVIDIA \\<kvpress\\>" in text and text.count("| not measured |") == 2


def test_an_import_of_unknown_length_says_so() -> None:
    analysis = parsed([{**row, "length": 0} for row in made.imported()])
    assert "### unknown length, multi-turn" in render_markdown(analysis, [])


def test_sub_tasks_of_a_mix(found: Any) -> None:
    cell = next(
        c for c in found.cells if c.task == "repoqa_and_kv" and c.table.scorer == "corrected" and c.method.is_full
    )
    (row,) = cell.rows
    turns = [
        (task, score)
        for tasks, scores in zip(row.turn_tasks, row.session_scores, strict=True)
        for task, score in zip(tasks, scores, strict=True)
    ]
    for name in ("kv", "repoqa"):
        mine = [score for task, score in turns if task == name]
        assert cell.by_subtask()[name] == pytest.approx(sum(mine) / len(mine))
    text = render_markdown(found, [])
    assert "| press | repoqa\\_and\\_kv: kv | repoqa\\_and\\_kv: repoqa |" in text


def test_stated_sub_tasks_are_used_where_turns_are_not_named() -> None:
    row = parse_row(made.make_row("full", "kv", subtasks={"a": 0.25, "b": 1.0}), "x.json")
    assert row.by_subtask() == {"a": 0.25, "b": 1.0}
    with pytest.raises(ValueError, match="subtasks"):
        parse_row(made.make_row("full", "kv", subtasks={"a": "much"}), "x.json")
    with pytest.raises(ValueError, match="extras"):
        parse_row(made.make_row("full", "kv", extras=["much"]), "x.json")
    with pytest.raises(ValueError, match="turn_tasks"):
        parse_row(made.make_row("full", "kv", turn_tasks=[["a"]]), "x.json")


def test_the_latency_front_is_within_one_device() -> None:
    base = {"full": 9.0, "kivi(bits=4, group=32)": 5.0, "snapkv(keep=0.125)": 7.0}  # the last is slow and bad
    rows = [made.make_row(press, "kv", tpot_s=time) for press, time in base.items()]
    rows.append(made.make_row("kivi(bits=2, group=32)", "kv", tpot_s=0.1, device="cuda"))
    analysis = parsed(rows)
    fast = {cell.method.name for cell in analysis.macros(analysis.tables[0]) if cell.fast_front}
    assert "kivi(bits=2, group=32)" in fast, "alone on its device"
    assert "kivi(bits=4, group=32)" in fast and "snapkv(keep=0.125)" not in fast
    both = [made.make_row("snapkv(keep=0.5)", "kv", seed=seed, device=d) for seed, d in enumerate(("cpu", "cuda"))]
    mixed = next(cell for cell in parsed(both).cells if not cell.task)
    assert mixed.device == "" and not mixed.fast_front


def test_verdicts_flips_and_batches_in_the_readme() -> None:
    rows = [made.make_row(press, "kv", sessions=8) for press in ("full", "snapkv(keep=1.0)", "snapkv(keep=0.5)")]
    for row, turns in zip(rows, ([1.0, 1.0], [1.0, 1.0], [1.0, 0.0]), strict=True):
        row.update(session_scores=[turns] * 8, score=sum(turns) / 2, session_bytes=3 << 27)
    analysis = parsed(rows)
    lines = [line for line in render_markdown(analysis, []).splitlines() if line.startswith("| `snapkv")]
    same, half = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    head = next(line for line in render_markdown(analysis, []).splitlines() if line.startswith("| press | bytes"))
    at = {name.strip(): i for i, name in enumerate(head.split("|")[1:-1])}
    assert [same[at[n]] for n in ("verdict", "retained", "flips")] == ["not shown", "100 %", "none of 16"]
    assert [half[at[n]] for n in ("verdict", "retained", "flips")] == ["worse", "50.0 %", "\u22128 0 of 16"]
    assert half[at["batch in 1 GiB"]] == "2"
    for row in rows:
        row["session_bytes"] = 0
    old = render_markdown(parsed(rows), [])
    assert "| batch in 1 GiB |" not in old, "rows of before do not say it"


def test_the_page_gets_the_life_of_a_cache() -> None:
    rows = [made.make_row("full", "kv", fired=2.0, reload_exact=False, fork_s=0.25, not_measured="files: no room")]
    rows[0]["extras"] = {"key_fact_recall": 0.25}
    analysis = parsed(rows)
    columns = page_data(analysis, [])["rows"]["columns"]
    value = {name: (c["v"] if "v" in c else [c["u"][i] for i in c["i"]])[0] for name, c in columns.items()}
    assert (value["fired"], value["reload_exact"], value["fork_s"]) == (2.0, False, 0.25)
    assert value["not_measured"] == "files: no room"
    assert value["extras"] == "key_fact_recall 25.0"
    assert value["step_bytes"] > 0 and value["session_bytes"] > value["step_bytes"] and value["prefill_tps"] > 0
    old = parse_row({k: v for k, v in made.make_row("full", "kv").items() if k not in ("fired", "step_bytes")}, "x")
    assert old.fired is None and old.step_bytes is None


def test_other_weights_and_the_chat_template_are_tables_of_their_own(tmp_path: Path) -> None:
    """A model trained again under its name, or asked through a template, is not paired with what it was before."""
    old, new = {"weights": "old", "started": "2026-01-01"}, {"weights": "new", "started": "2026-02-01"}
    rows = [
        made.make_row(press, "kv", run_id=f"{press[:4]}{settings['weights']}", **settings)
        for settings in (old, new)
        for press in ("full", "snapkv(keep=0.5)")
    ]
    rows.append(made.make_row("snapkv(keep=0.5)", "kv", run_id="chat", chat=True, **new))
    found = analyse(*read_rows(made.write_rows(tmp_path, rows)))
    titles = {table.variant: table.special for table in found.tables}
    assert titles == {"": [], "weights old": ["weights old"], "chat template": ["chat template"]}
    assert [row.run_id for row in found.rows if not row.is_full and row.path not in found.references] == ["chat"]
    assert all(found.references[row.path].weights == row.weights for row in found.rows if row.path in found.references)
