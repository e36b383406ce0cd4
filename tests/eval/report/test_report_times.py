"""Times that other programs disturbed, in every table."""

from __future__ import annotations

import io
import json

from kvpress_eval.report.html import page_data
from kvpress_eval.report.markdown import render_markdown
from kvpress_eval.report.terminal import print_analysis
from kvpress_eval.rows.parsing import parse_row
from rich.console import Console

from tests.eval.report import made
from tests.eval.report.made import failed, parsed


def test_a_disturbed_time_never_stands_bare() -> None:
    rows = [
        made.make_row("full", "kv", quiet=True),
        made.make_row("full", "multihop", quiet=True),
        made.make_row("snapkv(keep=0.25)", "kv", quiet=False, tpot_s=0.0001, disturbance={"waited": 0.4}),
        made.make_row("snapkv(keep=0.25)", "multihop", quiet=True, tpot_s=0.0001),
    ]
    analysis = parsed(rows)
    cells = {(cell.method.asked, cell.task): cell for cell in analysis.cells}
    assert cells["snapkv(keep=0.25)", "kv"].disturbed and cells["snapkv(keep=0.25)", ""].disturbed
    assert not cells["snapkv(keep=0.25)", "multihop"].disturbed
    assert not cells["snapkv(keep=0.25)", ""].fast_front, "it is the fastest, and was disturbed"
    assert cells["full", ""].fast_front
    text = render_markdown(analysis, [])
    (line,) = [line for line in text.splitlines() if line.startswith("| `snapkv(keep=0.25)`")]
    times = [cell.strip() for cell in line.split("|")][13:16]
    assert all(time.endswith(" \u2021") for time in times) and times[-1] == "0.1 \u2021"
    assert "\u2021 Other programs disturbed this time" in text and "not known of all times" not in text
    assert "\u2021" not in next(line for line in text.splitlines() if line.startswith("| `full`"))
    out = io.StringIO()
    print_analysis(analysis, [], Console(file=out, width=80))
    assert "0.1 \u2021" in out.getvalue() and "other programs disturbed" in " ".join(out.getvalue().split())
    data = page_data(analysis, [])
    assert data["rows"]["columns"]["disturbance"] and "waited 0.4" in json.dumps(data["rows"]["columns"]["disturbance"])


def test_rows_of_before_do_not_know_how_quiet_it_was() -> None:
    row = made.make_row("full", "kv")
    assert parse_row(row, "m/0.json").quiet is None
    assert parse_row(failed({**row, "quiet": False}, "x"), "m/0.json").quiet is None
    text = render_markdown(parsed([row]), [])
    assert "How quiet the machine was is not known of all times." in text
    assert "\u2021 Other programs" not in text
