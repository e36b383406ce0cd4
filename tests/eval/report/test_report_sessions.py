"""What counts as a session: one that was asked at several depths or that two rows hold, and tasks of one question."""

from __future__ import annotations

import pytest
from kvpress_eval.report.gates import run_gates
from kvpress_eval.report.html import page_data
from kvpress_eval.report.markdown import render_markdown

from tests.eval.report import made
from tests.eval.report.made import parsed


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
