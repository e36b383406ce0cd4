"""The charts of a page in a browser: they say what the tables say, name the front, and keep a selection."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.report.generate import write

from tests.eval.report import made
from tests.eval.report.test_report_browser import (  # noqa: F401
    _OVERLAPS,
    browser,
    choose,
    clean,
    draw,
    js,
    marks,
    names,
    page,
    pytestmark,
    search,
)

_TABLE = """
const heads = [...document.querySelectorAll("#methods thead tr:last-child th")].map((h) => h.textContent);
return Object.fromEntries([...document.querySelectorAll("#methods tbody tr")].map((r) => [
  r.querySelector(".press").textContent,
  ["score", "bytes"].map((name) => r.cells[heads.findIndex((h) => h.startsWith(name))].textContent)]));
"""
_HOVER = """
const all = [...document.querySelectorAll("#quality .hit_marks path")];
const mark = all.find((p) => p.__data__.datum.press === arguments[0]);
const { left, top, width, height } = mark.getBoundingClientRect();
const at = { clientX: left + width / 2, clientY: top + height / 2, bubbles: true };
for (const type of ["pointermove", "mousemove", ...arguments[1]]) mark.dispatchEvent(new PointerEvent(type, at));
"""


_LEGEND = "[...document.querySelectorAll('#legend button')].find((b) => b.textContent === 'fewer bits').click()"


def pressed(browser: Any) -> list[str]:  # noqa: F811
    return list(
        js(browser, "[...document.querySelectorAll('#methods [aria-pressed=true]')].map((b) => b.dataset.press)")
    )


@pytest.fixture
def one(page: Any) -> Any:  # noqa: F811
    """The page with one panel of quality."""
    choose(page, "mode", "multi-turn")
    return page


def test_marks_are_where_the_table_says(one: Any) -> None:
    told = one.execute_script(_TABLE)
    found = marks(one)
    assert len(found) == len(told) > 10
    for mark in found:
        score, held = told[mark["press"]]
        assert score.startswith(f"{mark['y']:.1f}"), mark
        assert f"{mark['x']:.1f} %" in held or f"{mark['x']:.2f} %" in held or f"{mark['x']:.0f} %" in held


def test_the_front_is_what_the_table_marks_and_is_named(one: Any) -> None:
    front = {press for press, (_, held) in one.execute_script(_TABLE).items() if "\u25c6" in held}
    standing = {mark["press"] for mark in marks(one) if mark["place"] == "front"}
    assert standing == front - {"full"}
    told = names(one)
    assert any(text.startswith("full cache") for text in told) and "random" in told
    for press in standing:
        assert re.sub(r"\([^)]*\)", "", press) in told, press


def test_the_best_press_of_each_size_is_said_first(one: Any) -> None:
    lines = js(one, "[...document.querySelectorAll('#quality .best tr')].map((r) => r.textContent)")
    able = [m for m in marks(one) if m["whole"]]
    for line in lines:
        size = float(line.split("%")[0].removeprefix("to ~"))
        best = max((m for m in able if m["x"] <= 1.08 * size), key=lambda m: m["y"])
        assert f"{best['y']:.1f}" in line and best["press"].split("(")[0] in line


def test_a_selection_stands_out_and_survives(one: Any) -> None:
    one.execute_script("document.querySelector('#methods .pick[data-press=snapkv]').click()")
    found = marks(one)
    assert {m["press"].split("(")[0] for m in found if m["place"] == "lit"} == {"snapkv", "full"}
    assert all(m["place"] == "dim" for m in found if not m["press"].startswith(("snapkv", "full")))
    assert {text for text in names(one) if not text.startswith("full")} <= {m["press"] for m in found}
    assert js(one, "document.querySelectorAll('#quality .interval_marks line').length") > 0
    amounts = js(one, "[...document.querySelectorAll('#selected tbody .press')].map((n) => n.textContent)")
    assert sorted(amounts) == sorted(m["press"] for m in found if m["place"] == "lit" and m["press"] != "full")
    choose(one, "task", "kv")
    assert {m["press"].split("(")[0] for m in marks(one) if m["place"] == "lit"} == {"snapkv", "full"}
    one.refresh()
    assert set(pressed(one)) == {"snapkv"}
    one.execute_script("document.querySelector('#chosen button').click()")
    assert pressed(one) == [] and js(one, "document.getElementById('s-selected').hidden")
    assert not [m for m in marks(one) if m["place"] == "dim"]


def test_a_click_on_a_mark_selects_it(one: Any) -> None:
    draw(one)
    one.execute_script(_HOVER, "kivi(bits=2, group=32)", ["click"])
    assert set(pressed(one)) == {"kivi"}
    assert "press=kivi" in js(one, "location.hash")
    one.execute_script("document.querySelector('#chosen button').click()")


def test_the_words_of_the_filter_light_what_they_find(one: Any) -> None:
    every = len(marks(one))
    search(one, "kivi")
    found = marks(one)
    assert len(found) == every and {"kivi" in m["press"] for m in found if m["place"] == "lit"} == {True, False}
    assert {m["press"] for m in found if m["place"] == "lit" and "kivi" not in m["press"]} == {"full"}
    search(one, "")


def test_a_mark_tells_its_score_bytes_and_command(one: Any) -> None:
    draw(one)
    one.execute_script(_HOVER, "kivi(bits=2, group=32)", [])
    told = js(one, "document.getElementById('tip').textContent")
    assert "score" in told and "[" in told and "of the dense bytes" in told and "kvpress run --press" in told
    one.execute_script(_HOVER, made.HOSTILE, [])
    assert made.HOSTILE in js(one, "document.getElementById('tip').textContent")
    assert js(one, "document.querySelectorAll('#tip img, #tip b, .chart img, .chart script').length") == 0
    assert js(one, "window.pwned === undefined")


def test_hostile_texts_are_drawn_as_texts(one: Any) -> None:
    family = js(
        one, "[...document.querySelectorAll('#methods .pick')].map((b) => b.dataset.press).find((p) => p.includes('<'))"
    )
    one.execute_script(
        'document.querySelector(`#methods .pick[data-press="${CSS.escape(arguments[0])}"]`).click()', family
    )
    draw(one)
    assert any("<" in text for text in names(one)), "named, because it is selected"
    assert js(one, "document.querySelectorAll('.chart img, .chart script, .chart a, #chosen img').length") == 0
    assert clean(one)
    one.execute_script("document.querySelector('#chosen button').click()")


def test_a_selection_goes_along_to_the_other_suites(browser: Any, suite_report: Any) -> None:  # noqa: F811
    browser.get(suite_report.page.as_uri())
    browser.execute_script("document.querySelector('#methods .pick[data-press=snapkv]').click()")
    link = js(browser, "[...document.querySelectorAll('#suites a')].map((a) => a.href)[1]")
    assert link.endswith("needles.html#press=snapkv")
    browser.get(link)
    assert set(pressed(browser)) == {"snapkv"}


def test_a_kind_is_selected_by_its_legend(one: Any) -> None:
    one.execute_script(_LEGEND)
    assert {m["kind"] for m in marks(one) if m["place"] == "lit"} == {"fewer bits", "full cache"}
    one.execute_script(_LEGEND)
    assert not [m for m in marks(one) if m["place"] == "dim"]


@pytest.mark.parametrize(
    "presses", [["full"], ["snapkv(keep=0.25)"], ["full", "snapkv(keep=0.25)", "snapkv(keep=1.0)"]]
)
@pytest.mark.parametrize("width", [420, 1400])
def test_a_page_of_few_rows(browser: Any, tmp_path: Path, presses: list[str], width: int) -> None:  # noqa: F811
    made.write_rows(tmp_path / "r", [made.make_row(press, "kv") for press in presses])
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get_log("browser")
    browser.get(write(tmp_path / "r", tmp_path / "out").page.as_uri())
    assert {m["press"] for m in marks(browser)} == set(presses)
    assert browser.execute_script(_OVERLAPS) == [] and clean(browser)
    assert js(browser, "document.querySelectorAll('.chart .bad').length") == 0
    bottom = js(browser, "document.querySelector('#quality .chart').getBoundingClientRect().bottom")
    assert bottom < 900 or width > 760, "the first screen is the result"
    assert js(browser, "document.getElementById('narrow').open") == (width > 760)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
