"""Two presses on the same sessions: what is left out, what counts once, and how tasks weigh."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from kvpress_eval.errors import UsageError
from kvpress_eval.report.comparison_tables import print_comparisons
from kvpress_eval.rows.compare import Asked, Comparison, compare
from kvpress_eval.rows.parsing import parse_row
from rich.console import Console

from tests.eval.report import made

FIRST, SECOND = "snapkv(keep=0.25)", "full"


def compared(rows: list[dict[str, Any]]) -> list[Comparison]:
    read = [parse_row(row, f"m/{i}.json") for i, row in enumerate(rows)]
    return list(compare(read, Asked(FIRST), Asked(SECOND)))


def both(task: str, **changes: Any) -> list[dict[str, Any]]:
    return [made.make_row(press, task, **changes) for press in (FIRST, SECOND)]


def test_a_task_of_one_question_has_no_later_ones() -> None:
    everything, first, later = compared(both("kv") + both("passkey", turns=1))
    assert everything.tasks == first.tasks == ("kv", "passkey") and later.tasks == ("kv",)
    alone = compared(both("kv"))[2]
    assert (later.scores, later.difference, later.p) == (alone.scores, alone.difference, alone.p)
    assert [one.turns for one in compared(both("passkey", turns=1))] == ["all", "first"]
    out = io.StringIO()
    print_comparisons([everything, first, later], Asked(FIRST), Asked(SECOND), Console(file=out, width=120))
    assert "multi-turn, later (1 of 2 tasks)" in out.getvalue() and "multi-turn, all (" not in out.getvalue()


def test_scores_are_those_of_the_sessions_that_are_compared() -> None:
    ours, full = both("kv", sessions=9)
    for row in (ours, full):
        row["session_scores"] = [[1.0] * 5] * 3 + [[0.0] * 5] * 6
    full["session_ids"] = [*full["session_ids"][:3], *(f"other-{i}" for i in range(6))]
    elsewhere = both("multihop")
    elsewhere[1]["session_ids"] = [f"other-{i}" for i in range(24)]
    found = compared([ours, full, *elsewhere])[0]
    assert found.scores == (1.0, 1.0) and found.difference.mean == 0 and found.difference.n == 3
    assert found.tasks == ("kv",), "no session of the other task is shared"
    with pytest.raises(UsageError, match="share no session"):
        compared(elsewhere)


def test_what_was_never_measured_alike_says_what_to_run() -> None:
    with pytest.raises(UsageError, match="run both with the same --model, --task, --mode, --length"):
        compared([made.make_row(FIRST, "kv"), made.make_row(SECOND, "multihop")])


def test_the_larger_run_is_compared() -> None:
    rows = both("kv", sessions=20, started="2027-01-01") + both("kv", sessions=3, started="2027-01-02")
    assert compared(rows)[0].difference.n == 20


def test_bytes_weigh_tasks_not_rows() -> None:
    rows = [row for seed in (0, 1, 2) for row in both("kv", seed=seed, bytes_ratio=0.2)]
    rows += both("multihop", bytes_ratio=0.4)
    assert compared(rows)[0].bytes_ratio == pytest.approx((0.3, 0.3))
    nothing = compared(both("kv", bytes_ratio=None))[0].bytes_ratio
    assert all(map(math.isnan, nothing))


def test_depths_are_no_sessions_and_duplicates_count_once() -> None:
    grid = [row for depth in (0, 50, 100) for row in both("needle_grid", depth=depth, sessions=7)]
    assert compared(grid)[0].difference.n == 7
    rows = [row for depth in (None, 0, 50) for row in both("kv", depth=depth, sessions=7)]
    for i, row in enumerate(rows):
        # of a task that cannot place its evidence; each press was run last under the name of another depth
        row |= {"session_ids": [f"kv-{s}#same" for s in range(7)], "started": f"2026-01-0{(1, 3, 2, 2, 3, 1)[i]}"}
    rows[0]["session_scores"] = rows[2]["session_scores"] = [[0.0] * 5] * 7
    found = compared(rows)[0]
    assert found.difference.n == 7
    assert found.scores[0] == pytest.approx(sum(map(sum, rows[4]["session_scores"])) / 35), "the newest only"
