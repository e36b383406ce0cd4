"""What is measured beside the score: read, paired, and shown with its interval; rows without it look as before."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from kvpress_eval.cli.printing import difference
from kvpress_eval.report.comparison_tables import print_comparisons
from kvpress_eval.report.gates import run_gates
from kvpress_eval.report.html import page_data
from kvpress_eval.report.markdown import render_markdown
from kvpress_eval.report.terminal import print_analysis
from kvpress_eval.rows import stats
from kvpress_eval.rows.analysis import analyse
from kvpress_eval.rows.compare import Asked, compare
from kvpress_eval.rows.parsing import parse_row
from kvpress_eval.rows.row import Row
from rich.console import Console

from tests.eval.report import made

PRESSES = ("full", "snapkv(keep=0.25)", "kivi(bits=2, group=32)")


def gold_rows() -> list[dict[str, Any]]:
    rows = [made.make_row(press, task, mode=mode) for press in PRESSES for task in ("kv", "vt") for mode in made.MODES]
    return [made.with_gold(row) for row in rows]


def expected(rows: list[dict[str, Any]], press: str, mode: str) -> stats.Interval:
    """The difference to the full cache, from the raw lists."""
    strata = []
    for task in ("kv", "vt"):
        ours, full = (
            np.array(next(r["measures"]["gold_logprob"] for r in rows if (r["press"], r["task"], r["mode"]) == key))
            for key in ((press, task, mode), ("full", task, mode))
        )
        order = np.argsort([f"{task}-{s}" for s in range(len(ours))])  # as the sessions are called
        strata.append((ours - full).mean(1)[order])
    return stats.bootstrap_interval(strata)


def printed(rows: list[dict[str, Any]], width: int = 80) -> str:
    analysis = made.parsed(rows)
    console = Console(width=width, file=io.StringIO())
    print_analysis(analysis, run_gates(analysis), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_table_shows_the_paired_difference_and_its_interval() -> None:
    rows = gold_rows()
    analysis = made.parsed(rows)
    cells = {(c.method.asked, c.table.mode): c for c in analysis.cells if not c.task}
    shown = printed(rows)
    assert max(map(len, shown.splitlines())) <= 80
    markdown = render_markdown(analysis, run_gates(analysis))
    page = page_data(analysis, run_gates(analysis))
    assert list(page["measures"]) == ["gold_logprob"], "an unknown measure stays in the row"
    for press in PRESSES[1:]:
        for mode in made.MODES:
            want = expected(rows, press, mode)
            found = cells[press, mode].measures["gold_logprob"].diff
            assert found == want
            text = [f"{want.mean:+.3f}", f"[{want.low:+.3f}, {want.high:+.3f}]"]
            for part in (word.replace("-", "\u2212") for word in text):
                assert part in shown
                assert part in markdown
    assert "gold log p" in shown and "| \u0394 gold log p [95 %] |" in markdown


def test_compare_and_run_show_it_too() -> None:
    rows = gold_rows()
    found = list(compare(made.parsed(rows).rows, Asked(PRESSES[1]), Asked("full")))
    by_mode = {(one.table.mode, one.turns): one for one in found}
    want = expected(rows, PRESSES[1], "multi-turn")
    assert by_mode["multi-turn", "all"].measures["gold_logprob"].difference == want
    first = by_mode["multi-turn", "first"].measures["gold_logprob"].difference
    assert first.mean != want.mean
    console = Console(width=80, file=io.StringIO())
    print_comparisons(found, Asked(PRESSES[1]), Asked("full"), console)
    assert isinstance(console.file, io.StringIO)
    assert f"{want.mean:.3f}".replace("-", "\u2212") in console.file.getvalue()
    one, full = (Row.from_dict(next(r for r in rows if r["press"] == press)) for press in (PRESSES[1], "full"))
    assert "; gold log p \u2212" in difference(one, full)


def test_rows_without_it_look_as_before() -> None:
    rows = [made.make_row(press, "kv") for press in PRESSES]
    assert "gold log p" not in printed(rows)
    analysis = made.parsed(rows)
    assert "| gold log p |" not in render_markdown(analysis, run_gates(analysis))
    assert page_data(analysis, run_gates(analysis))["measures"] == {}
    mixed = [made.with_gold(rows[0]), *rows[1:]]  # the full cache of today, presses of before
    assert all(not cell.measures for cell in made.parsed(mixed).cells if not cell.method.is_full)
    assert "gold log p" not in difference(Row.from_dict(rows[1]), Row.from_dict(mixed[0]))


def test_a_task_without_it_leaves_the_mean_out() -> None:
    rows = [made.with_gold(made.make_row(press, "kv")) for press in PRESSES]
    rows += [made.make_row(press, "vt") for press in PRESSES]
    cells = made.parsed(rows).cells
    assert {cell.task for cell in cells if cell.measures} == {"kv"}


def test_turns_without_a_value_are_left_out_of_both_sides() -> None:
    rows = [made.with_gold(made.make_row(press, "kv", sessions=4, turns=3)) for press in PRESSES]
    rows[0]["measures"]["gold_logprob"] = [[None, -1.0, -1.0], [None] * 3, [-1.0, -2.0, -3.0], [-1.0] * 3]
    rows[1]["measures"]["gold_logprob"] = [[-9.0, -2.0, None], [-5.0] * 3, [-1.0, -2.0, -3.0], [-1.5] * 3]
    found = made.parsed(rows[:2]).contrasts and made.parsed(rows[:2])
    (diff,) = [c.measures["gold_logprob"].diff for c in found.cells if c.task and not c.method.is_full]
    assert diff is not None
    assert (diff.mean, diff.n) == (pytest.approx(-1.5 / 3), 3)


@pytest.mark.parametrize("value", [[1], {"a": 1}, {"a": [[0.5]]}, {"gold_logprob": [["x"] * 5] * 24}, {"a": [3] * 24}])
def test_what_is_no_measure_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match="measure"):
        parse_row(made.make_row("full", "kv", measures=value), "m/0.json")
    assert analyse([parse_row(made.make_row("full", "kv", measures=None), "m/0.json")]).cells
