"""Suites, scorers, depths, imports and the life of a cache in the tables; verdicts and flips in the README."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.page.analysis import analyse
from kvpress_eval.page.claims import table_of, table_order
from kvpress_eval.page.gates import run_gates
from kvpress_eval.page.html import page_data
from kvpress_eval.page.loading import parse_row, read_rows
from kvpress_eval.page.markdown import render_markdown
from kvpress_eval.page.suites import pages
from kvpress_eval.page.terminal import print_analysis
from kvpress_eval.report import stale, write
from rich.console import Console

from tests.eval.report import made

ROOT = Path(__file__).parents[3]


def parsed(rows: list[dict[str, Any]]) -> Any:
    return analyse([parse_row(row, f"m/{i}.json") for i, row in enumerate(rows)])


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


def test_depths_are_pooled_but_paired_apart() -> None:
    rows = [
        made.make_row(press, "needle_grid", depth=depth, sessions=4)
        for press in ("full", "snapkv(keep=0.5)")
        for depth in (0, 50, 100)
    ]
    for row, level in zip(rows[:3], (1.0, 0.5, 0.0), strict=True):  # the full cache itself forgets with depth
        row["session_scores"] = [[level] * 5 for _ in range(4)]
    analysis = parsed(rows)
    assert analysis.superseded == frozenset()
    assert all(
        other.depth == analysis.rows[[r.path for r in analysis.rows].index(path)].depth
        for path, other in analysis.references.items()
    )
    full, press = analysis.macros(analysis.tables[0])
    assert full.score.mean == pytest.approx(0.5) and full.score.n == 4 and press.score.n == 4
    assert full.by_depth() == pytest.approx({0: 1.0, 50: 0.5, 100: 0.0})
    again = parsed([*rows, {**rows[0], "started": "2027-01-01T00:00:00Z"}])
    assert len(again.superseded) == 1, "the same depth done again"
    for row in rows:  # a task that cannot place its evidence: the same sessions, three times
        row["session_ids"] = [f"s{i}" for i in range(4)]
    same = parsed(rows)
    assert len(same.superseded) == 4 and [c.score.n for c in same.macros(same.tables[0])] == [4, 4]
    assert "By depth" not in render_markdown(same, [])
    text = render_markdown(analysis, run_gates(analysis)).partition("#### By depth")[2]
    assert "| 4/60 |" in render_markdown(analysis, []), "sessions count once, answers each time"
    assert "| press | 0 % | 50 % | 100 % |" in text and "| `full` | 100.0 | 50.0 | 0.0 |" in text


def test_depths_of_a_session_are_no_sessions_of_their_own() -> None:
    """Three depths that score alike say as much about other sessions as one of them does."""
    grid = [
        made.make_row(press, "needle_grid", depth=depth, sessions=9)
        for press in ("full", "snapkv(keep=0.25)")
        for depth in (0, 50, 100)
    ]
    for row in grid:
        row["session_scores"] = grid[0 if row["press"] == "full" else 3]["session_scores"]
    many, one = (parsed(rows) for rows in (grid, [grid[0], grid[3]]))
    ours, theirs = (analysis.macros(analysis.tables[0])[1] for analysis in (many, one))
    for found, expected in (
        (ours.score, theirs.score),
        (ours.interaction, theirs.interaction),
        (ours.contrast.diff, theirs.contrast.diff),
    ):
        ends = [found.mean, found.low, found.high]
        assert ends == pytest.approx([expected.mean, expected.low, expected.high]) and found.n == 9
    assert ours.contrast.p == theirs.contrast.p
    assert ours.contrast.detectable == pytest.approx(theirs.contrast.detectable)
    seeds = [{**row, "seed": seed} for seed in (0, 1) for row in (grid[0], grid[3])]
    assert parsed(seeds).macros(parsed(seeds).tables[0])[1].contrast.diff.n == 18, "another seed is another session"


@pytest.mark.parametrize("newest", [0, 1, 2])
def test_the_same_sessions_under_two_depths_count_once_in_any_order(newest: int) -> None:
    rows = [made.make_row("full", "kv", depth=depth, sessions=5) for depth in (None, 0, 100)]
    for i, row in enumerate(rows):
        row |= {"session_ids": [f"kv-{s}#same" for s in range(5)], "started": f"2026-01-0{1 + (i - newest - 1) % 3}"}
    analysis = parsed(rows)
    assert analysis.superseded == {f"m/{i}.json" for i in range(3) if i != newest}
    assert analysis.macros(analysis.tables[0])[0].rows[0].path == f"m/{newest}.json"


def test_a_task_of_one_question_leaves_the_later_ones_of_others() -> None:
    rows = [made.make_row(press, "kv") for press in ("full", "snapkv(keep=0.125)")]
    short = [made.make_row(press, "passkey", turns=1) for press in ("full", "snapkv(keep=0.125)")]
    (alone, both, bare) = (parsed(some) for some in (rows, rows + short, short))
    for one, two in zip(alone.macros(alone.tables[0]), both.macros(both.tables[0]), strict=True):
        assert (two.later, two.by_turn, two.interaction) == (one.later, one.by_turn, one.interaction)
        assert two.later_tasks == ("kv",) and two.tasks == 2 and len(two.by_turn) == 5
    assert both.macros(both.tables[0])[1].interaction is not None
    words = "later and turn effect: 1 of 2 tasks, without passkey (one question)."
    assert words in render_markdown(both, []) and "later and turn" not in render_markdown(alone, []).split("###")[1]
    assert bare.macros(bare.tables[0])[1].interaction is None and "(one question)" not in render_markdown(bare, [])
    later = page_data(both, [])["cells"]["columns"]["later_tasks"]
    assert 1 in (later["v"] if "v" in later else later["u"])


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
        (task, score) for s, tasks in row.turn_tasks.items() for task, score in zip(tasks, row.scores[s], strict=True)
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


def test_a_page_for_each_suite(tmp_path: Path) -> None:
    results = made.write_rows(tmp_path / "r", made.suites())
    paths = write(results, tmp_path / "out")
    assert {suite: path.name for suite, path in paths.pages.items()} == {
        "scbench": "index.html",
        "needles": "needles.html",
        "ruler": "ruler.html",
    }
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "README.md",
        "index.html",
        "needles.html",
        "ruler.html",
    ]
    readme = paths.readme.read_text("utf-8")
    assert "[RULER-like](ruler.html)" in readme and "## RULER-like: org/tiny-retriever" in readme
    for path in paths.pages.values():
        text = path.read_text("utf-8")
        assert path.stat().st_size < 5_000_000 and '"page":"ruler.html"' in text
        assert ('"task":{"u":["ruler_cwe"' in text or "ruler_cwe" in text) == (path.name == "ruler.html")
    assert stale(results, tmp_path / "out") == []
    paths.pages["ruler"].write_text("old")
    assert stale(results, tmp_path / "out") == [paths.pages["ruler"]]


def test_names_of_suites_are_no_paths() -> None:
    found = pages(["scbench", "../../etc/x", "", "index", "A b", "a-b"])
    assert list(found.values()) == ["index.html", "etc-x.html", "suite.html", "index-2.html", "a-b.html", "a-b-2.html"]
    assert pages([]) == {"scbench": "index.html"} and pages(["ruler"]) == {"ruler": "index.html"}


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
    analysis = parsed(rows)
    columns = page_data(analysis, [])["rows"]["columns"]
    value = {name: (c["v"] if "v" in c else [c["u"][i] for i in c["i"]])[0] for name, c in columns.items()}
    assert (value["fired"], value["reload_exact"], value["fork_s"]) == (2.0, False, 0.25)
    assert value["not_measured"] == "files: no room"
    assert value["step_bytes"] > 0 and value["session_bytes"] > value["step_bytes"] and value["prefill_tps"] > 0
    old = parse_row({k: v for k, v in made.make_row("full", "kv").items() if k not in ("fired", "step_bytes")}, "x")
    assert old.fired is None and old.step_bytes is None


def test_the_committed_leaderboard_is_what_the_rows_say() -> None:
    """`kvpress report --results leaderboards/results --out leaderboards` makes it so."""
    out = ROOT / "leaderboards"
    if not any((out / "results").rglob("*.json")):
        pytest.skip("no committed rows")
    from kvpress_eval.report import read

    found = read(out / "results")
    assert [path.name for path in stale(found, out)] == []
    assert all(path.stat().st_size < 5_000_000 for path in out.glob("*.html"))
    assert json.dumps([gate.failures for gate in found.gates if gate.failures]) == "[]"


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
