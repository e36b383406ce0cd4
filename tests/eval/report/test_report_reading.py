"""What a reader of the page may rely on: numbers as in README, curves of what was measured, a CSV, links."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.report.generate import write
from kvpress_eval.rows.numbers import fixed, millis, percent, points, probability
from kvpress_eval.rows.parsing import parse_row

from tests.eval.report import made
from tests.eval.report.test_report_browser import browser, draw, pytestmark  # noqa: F401

OUT_OF_REACH = "BudgetError: knorm cannot hold 977,920 bytes (50.0% of the dense cache of 1024 tokens) by its keep"


def _tie() -> list[dict[str, Any]]:
    """Rows of 400 answers, of which the press loses 21: a difference of -5.25 points."""
    rows = []
    for press, lost in (("full", 0), ("snapkv(keep=0.25)", 21), ("snapkv(keep=0.5)", 3), ("snapkv(keep=1.0)", 0)):
        row = made.make_row(press, "kv", sessions=40, turns=10, mode="multi-request")
        wrong = iter([1.0] * (400 - lost) + [0.0] * lost)
        row["session_scores"] = [[next(wrong) for _ in range(10)] for _ in range(40)]
        row["score"] = (400 - lost) / 400
        row["tpot_s"] = 0.01225
        rows.append(row)
    return rows


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (points(-0.0525, sign=True), "\u22125.3"),
        (points(0.0525, sign=True), "+5.3"),
        (points(-0.0525 + 1e-12), "\u22125.3"),
        (points(0.0004), "0.0"),
        (points(-0.0004, sign=True), "0.0"),
        (points(1.0), "100.0"),
        (fixed(2.675, 2), "2.68"),
        (fixed(None), "\u2013"),
        (millis(0.01225), "12.3"),
        (percent(0.24250), "24.3 %"),
        (percent(0.99962), "100 %"),
        (percent(0.0995), "10.0 %"),
        (probability(0.0125), "0.013"),
        (probability(0.0004), "<0.001"),
    ],
)
def test_halves_go_away_from_zero(written: str, wanted: str) -> None:
    assert written == wanted


def test_the_page_and_the_readme_round_alike(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    report = write(made.write_rows(tmp_path / "r", _tie()), tmp_path / "out")
    readme = report.readme.read_text(encoding="utf-8")
    line = next(line for line in readme.splitlines() if line.startswith("| `snapkv(keep=0.25)`"))
    browser.get(report.page.as_uri())
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#methods tbody tr')].map((r) => r.textContent)"
    )
    (row,) = [text for text in shown if text.startswith("snapkv(keep=0.25)")]
    for figure in ("\u22125.3", "94.8", "12.3"):
        assert figure in line
        assert figure in row
    assert "\u22125.2" not in row + line


def test_a_curve_does_not_run_into_a_control(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    report = write(made.write_rows(tmp_path / "r", _tie()), tmp_path / "out")
    browser.get(report.page.as_uri())
    browser.execute_script("document.querySelector('#methods .pick').click()")
    draw(browser)
    paths = browser.execute_script(
        "return [...document.querySelectorAll('#quality .sweep_marks path')].map((p) => p.getAttribute('d'))"
    )
    assert [path.count("L") for path in paths] == [1]  # two measured presses; the one that keeps everything is apart


def test_amounts_out_of_reach_are_no_failures(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    rows = _tie()
    boom, no = "RuntimeError: boom", "no such amount"
    states = [("failed", "50%", OUT_OF_REACH), ("unreachable", "25%", no), ("failed", "", boom)]
    for number, (status, target, error) in enumerate(states):
        bad = made.failed({**rows[1], "run_id": f"bad{number}", "task": f"t{number}"}, error)
        rows.append({**bad, "status": status, "target": target})
    report = write(made.write_rows(tmp_path / "r", rows), tmp_path / "out")
    readme = report.readme.read_text(encoding="utf-8")
    assert "(4 ok, 1 failed, 2 cannot hold the bytes asked for)" in readme
    failed, beyond = readme.split("## Failed cells")[1].split("## Amounts that cannot be reached")
    assert "boom" in failed
    assert "cannot hold 977,920" not in failed
    assert "cannot hold 977,920" in beyond
    browser.get(report.page.as_uri())
    text = browser.execute_script("return document.getElementById('counts').textContent")
    assert "1 failed" in text
    assert "2 amounts that cannot be reached" in text
    assert "boom" in browser.execute_script("return document.getElementById('failed').textContent")
    assert "977,920" in browser.execute_script("return document.getElementById('unreachable').textContent")


def test_rows_of_before_that_could_not_hold_their_bytes_are_told_apart() -> None:
    row = made.failed(made.make_row("full", "kv"), OUT_OF_REACH)
    assert parse_row({**row, "target": "50%"}, "a.json").unreachable
    assert parse_row({**row, "target": ""}, "a.json").failed
    assert parse_row({**row, "target": "50%", "error": "RuntimeError: cannot hold on"}, "a.json").failed


def test_the_rows_shown_can_be_taken_away_as_csv(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    rows = [*_tie(), made.make_row(made.HOSTILE, "kv", mode="multi-request", error='a "quoted", text\nof two lines')]
    report = write(made.write_rows(tmp_path / "r", rows), tmp_path / "out")
    browser.get(report.page.as_uri())
    text = browser.execute_async_script(
        "const done = arguments[0]; URL.createObjectURL = (blob) => { blob.text().then(done); return '#'; };"
        "[...document.querySelectorAll('#groups button')].find((b) => b.textContent.includes('CSV')).click();"
    )
    table = list(csv.DictReader(io.StringIO(text)))
    assert len(table) == 5
    by_press = {line["press"]: line for line in table}
    assert float(by_press["snapkv(keep=0.25)"]["score (points, 95 %)"]) == pytest.approx(0.9475)
    assert float(by_press["snapkv(keep=0.25)"]["Δ full (points, 95 %)"]) == pytest.approx(-0.0525)
    assert by_press[made.HOSTILE]["command"] == rows[-1]["command"]
    assert by_press[made.HOSTILE]["error"].startswith('a "quoted"')
    assert by_press["full"]["status"] == "ok"


def test_a_press_links_to_its_paper(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    report = write(made.write_rows(tmp_path / "r", _tie()), tmp_path / "out")
    browser.get(report.page.as_uri())
    links = browser.execute_script("return [...document.querySelectorAll('#methods .links a')].map((a) => a.href)")
    assert "https://arxiv.org/abs/2404.14469" in links
    assert not any("docs/methods" in link for link in links)  # the report is not in a checkout


def test_a_report_in_the_checkout_links_to_the_pages_of_methods() -> None:
    from kvpress_eval.report import generate

    root = Path(generate.__file__).parents[3]
    assert generate._methods(root / "leaderboards") == "../docs/methods/"
    assert generate._methods(root / "runs" / "deep") == "../../docs/methods/"
    assert generate._methods(Path("/")) == ""
    page = (root / "leaderboards" / "index.html").read_text(encoding="utf-8")
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["methods"] == "../docs/methods/"
