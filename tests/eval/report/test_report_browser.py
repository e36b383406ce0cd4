"""The page in a real browser: works from disk, inert, quiet, asks the network for nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.report.generate import write

from tests.eval.report import made

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no chromium and chromedriver on PATH (Debian: chromium chromium-driver)",
)
SWITCHES = (
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
    ),
    *(
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--window-size=1400,900",
    ),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, report: Any) -> Any:
    browser.get(report.page.as_uri())
    return browser


def js(page: Any, script: str) -> Any:
    return page.execute_script(f"return {script}")


def choose(page: Any, field: str, value: str) -> None:
    page.execute_script(
        "const s = document.querySelector(`select[name=${arguments[0]}]`); s.value = arguments[1];"
        "s.dispatchEvent(new Event('change'))",
        field,
        value,
    )


def search(page: Any, words: str) -> None:
    page.execute_script(
        "const s = document.querySelector('input[name=text]'); s.value = arguments[0];"
        "s.dispatchEvent(new Event('input'))",
        words,
    )
    page.execute_async_script("setTimeout(arguments[0], 250)")


_COLUMN = """
const table = document.querySelector("#rows table");
const heads = [...table.querySelectorAll("thead tr:last-child th")];
const i = heads.findIndex((h) => h.textContent.startsWith(arguments[0]));
return [...table.tBodies[0].rows].map((r) => r.cells[i].firstChild.textContent);
"""
_HEADS = """
const heads = [...document.querySelectorAll("#rows thead tr:last-child th")];
return heads.map((h) => h.textContent).join(" ") + document.getElementById("same").textContent;
"""
_MARKS = """
return [...document.querySelectorAll(arguments[0] + " .hit_marks path")].map((p) => p.__data__.datum);
"""
_COLOURS = """
const seen = {};
for (const p of document.querySelectorAll(".rest_marks path, .points_marks path")) {
  (seen[p.__data__.datum.kind] ||= new Set()).add(getComputedStyle(p).stroke);
}
return Object.entries(seen).map(([kind, colours]) => [kind, [...colours]]);
"""
_SWATCHES = """
const buttons = [...document.querySelectorAll("#legend button")];
return buttons.map((b) => [b.textContent, getComputedStyle(b.querySelector("svg")).color]);
"""
_NAMES = """
return [...document.querySelectorAll(arguments[0] + " .names_marks text")]
  .filter((t) => t.getAttribute("opacity") !== "0").map((t) => t.textContent);
"""
_OVERLAPS = """
const found = [];
for (const chart of document.querySelectorAll(".chart")) {
  const labels = [...chart.querySelectorAll(".names_marks text")].filter((t) => t.getAttribute("opacity") !== "0");
  const boxes = labels.map((t) => t.getBoundingClientRect());
  boxes.forEach((p, i) => boxes.slice(0, i).forEach((q, k) => {
    const across = p.left < q.right - 1 && q.left < p.right - 1;
    const down = p.top + 3 < q.bottom - 3 && q.top + 3 < p.bottom - 3;
    if (across && down) found.push([labels[i].textContent, labels[k].textContent]);
  }));
}
return found;
"""
_DRAW = """
const done = arguments[0];
dispatchEvent(new Event("beforeprint"));
const drawn = () => [...document.querySelectorAll(".chart")].every((c) => c.dataset.drawn);
const look = () => (drawn() ? done(true) : setTimeout(look, 20));
look();
"""


def draw(page: Any) -> None:
    """Have every chart drawn, also those below the window, and wait for them."""
    assert page.execute_async_script(_DRAW)


def marks(page: Any, section: str = "#quality") -> list[dict[str, Any]]:
    """What the charts of a section were given, a mark each."""
    draw(page)
    return list(page.execute_script(_MARKS, section))


def names(page: Any, section: str = "#quality") -> list[str]:
    """The texts that stand in the charts of a section."""
    draw(page)
    return list(page.execute_script(_NAMES, section))


def column(page: Any, name: str) -> list[str]:
    """The cells of a column of the table of runs."""
    return list(page.execute_script(_COLUMN, name))


def test_hostile_text_is_inert_and_nothing_is_loaded(page: Any, report: Any) -> None:
    assert js(page, "window.pwned === undefined")
    assert js(page, "document.querySelectorAll('img, iframe, [onerror]').length") == 0
    draw(page)
    assert made.HOSTILE in js(page, "[...document.querySelectorAll('#methods .press')].map((n) => n.textContent)")
    assert made.HOSTILE in {mark["press"] for mark in marks(page)}
    assert js(page, "document.querySelectorAll('img, iframe, [onerror]').length") == 0
    assert js(page, "window.pwned === undefined")
    assert [entry for entry in page.get_log("browser") if entry["level"] != "INFO"] == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    own = ("chrome://", "chrome-untrusted://")  # the browser's new tab
    asked = {p["request"]["url"] for p in sent if not p["documentURL"].startswith(own)}
    assert asked <= {report.page.as_uri(), "data:,"} and report.page.as_uri() in asked


def test_tables_sort_by_click_and_by_keyboard(page: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    def header() -> Any:
        buttons = page.find_elements(By.CSS_SELECTOR, "#rows thead tr:last-child th button")
        return next(b for b in buttons if b.text.startswith("score"))

    def scores() -> list[str]:
        return [v for v in column(page, "score") if v != "\u2013"]

    page.execute_script("arguments[0].click()", header())
    down = [float(v) for v in scores()]
    assert down == sorted(down, reverse=True) and len(set(down)) > 10
    assert column(page, "score")[-1] == "\u2013"  # a failed run stays last
    header().send_keys(Keys.ENTER)
    assert [float(v) for v in scores()] == sorted(down)
    assert column(page, "score")[-1] == "\u2013"
    assert js(page, "document.querySelector('#rows th[aria-sort]').getAttribute('aria-sort')") == "ascending"
    assert js(page, "document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"
    assert "ascending" in js(page, "document.getElementById('said').textContent")


def test_filters_narrow_tables_and_charts(page: Any) -> None:
    panels = "document.querySelectorAll('#quality .chart[role=img]').length"
    assert js(page, panels) == 2 and set(column(page, "mode")) == {"multi-turn", "multi-request"}
    choose(page, "mode", "multi-turn")
    assert js(page, panels) == 1 and js(page, "document.getElementById('n-rows').textContent").startswith("114 of 462")
    choose(page, "length", "")
    assert js(page, panels) == 2 and set(column(page, "length")) == {"2,048", "8,192"}
    choose(page, "task", "multihop")
    search(page, "failed OutOfMemory")
    assert column(page, "press") and js(page, "document.querySelector('#rows .tag.bad').textContent") == "failed"
    assert js(page, "document.getElementById('n-rows').textContent").startswith("1 of 462")
    search(page, "nothing is called this")
    assert js(page, "document.getElementById('n-rows').textContent").startswith("0 of 462")


def test_a_model_without_the_chosen_length_still_shows(page: Any) -> None:
    choose(page, "model", "org/second-model")
    assert js(page, "document.querySelector('select[name=length]').value") == "2048"
    assert js(page, "document.querySelectorAll('#methods tbody tr').length") == 3


def test_every_field_of_a_row_can_be_shown(page: Any) -> None:
    page.execute_script("document.querySelectorAll('#groups button')[5].click()")
    choose(page, "length", "")
    shown = page.execute_script(_HEADS)
    for name in (
        *("press", "resolved press", "model", "task", "mode", "history", "rendering", "seed", "compression fired"),
        *("question visible", "sessions", "turns", "score", "\u0394 full", "Holm", "first", "later", "bytes/dense"),
        *("peak", "TTFT", "per token", "prefill", "versions", "device", "dtype", "attention", "threads", "commit"),
        *("command", "verdict", "retained", "flips", "fork", "save", "load", "file", "reload exact", "read", "session"),
        *("tokens/s", "fired", "source", "prompts", "scorer", "evidence cut"),
    ):
        assert name in shown, name


def test_details_and_copy(page: Any) -> None:
    page.execute_script("document.querySelector('#rows .expand').click()")
    assert "kvpress run --press" in js(page, "document.querySelector('#rows .detail').textContent")
    page.execute_script("document.querySelector('#rows .copy').click()")
    page.execute_async_script("setTimeout(arguments[0], 100)")
    assert js(page, "document.querySelector('#rows .copy').textContent") == "Copied"


def test_details_say_why_something_was_not_measured(browser: Any, tmp_path: Path) -> None:
    from kvpress_eval.report.generate import write

    rows = made.write_rows(tmp_path / "r", [made.make_row("full", "kv", not_measured="files: no room")])
    browser.get(write(rows, tmp_path).page.as_uri())
    browser.execute_script("document.querySelector('#rows .expand').click()")
    assert "not measuredfiles: no room" in js(browser, "document.querySelector('#rows .detail').textContent")


def test_details_say_what_a_press_did_not_do(browser: Any, tmp_path: Path) -> None:
    from kvpress_eval.report.generate import write

    premise = {"method": "minicache", "says": "layers agree", "measures": "mean cosine", "figure": -0.02, "bound": 0.5}
    row = made.make_row("full", "kv", kept_all=True, premises=[{**premise, "holds": False}])
    browser.get(write(made.write_rows(tmp_path / "r", [row]), tmp_path).page.as_uri())
    browser.execute_script("document.querySelector('#rows .expand').click()")
    told = js(browser, "document.querySelector('#rows .detail').textContent")
    assert "kept everythingyes: the press changed nothing in any session" in told
    assert "does not hold hereminicache: layers agree does not hold (mean cosine -0.02, at least 0.50)" in told


def test_colours_of_a_method_agree_everywhere(page: Any) -> None:
    draw(page)
    seen = dict(page.execute_script(_COLOURS))
    legend = dict(page.execute_script(_SWATCHES))
    assert len(seen) > 3 and len(set(legend.values())) == len(legend)
    assert {kind: [legend[kind]] for kind in seen} == seen
    row = "[...document.querySelectorAll('#methods tr')].find((r) => r.textContent.startsWith('kivi'))"
    assert js(page, f"getComputedStyle({row}.querySelector('.swatch')).color") == legend["fewer bits"]


@pytest.mark.parametrize("width", [420, 1400])
def test_no_sideways_scrolling_and_labels_apart(page: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.refresh()
    draw(page)
    assert js(page, "document.documentElement.scrollWidth") <= width
    overlaps = page.execute_script(_OVERLAPS)
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert overlaps == []


def test_an_empty_report_opens(browser: Any, tmp_path: Path) -> None:
    from kvpress_eval.report.generate import write

    (tmp_path / "none").mkdir()
    only_failed = made.write_rows(tmp_path / "failed", [made.failed(made.make_row("full", "kv"), "broke")])
    for results in (tmp_path / "none", only_failed):
        browser.get_log("browser")
        browser.get(write(results, tmp_path / f"{results.name}-out").page.as_uri())
        assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
        assert "No finished run" in js(browser, "document.getElementById('quality').textContent")


def test_equal_bytes_in_the_page(browser: Any, page: Any, tmp_path: Path) -> None:
    from kvpress_eval.report.generate import write

    assert js(page, "document.getElementById('s-equal').hidden")  # no press of that sweep was solved
    full, one = made.make_row("full", "kv"), made.make_row("snapkv(keep=0.25)", "kv", asked="snapkv", target="25%")
    bad = made.failed({**one, "asked": "h2o", "press": "h2o", "run_id": "h2o"}, "BudgetError: cannot hold 9 bytes")
    browser.get(write(made.write_rows(tmp_path / "r", [full, one, bad]), tmp_path).page.as_uri())
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
    assert js(browser, "document.querySelector('#equal td b').closest('tr').textContent").startswith("snapkv")
    assert "solved: keep 0.25" in js(browser, "document.querySelector('#equal td b').closest('td').title")
    assert "cannot hold 9 bytes" in js(browser, "document.querySelector('#equal li').textContent")
    choose(browser, "task", "kv")
    assert js(browser, "document.querySelectorAll('#equal td b').length") == 1


def clean(browser: Any) -> bool:
    """Whether nothing has complained or run that should not."""
    quiet = [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
    return quiet and js(browser, "window.pwned === undefined")


@pytest.mark.parametrize("width", [420, 1280])
def test_every_page_of_a_suite_is_quiet_and_fits(browser: Any, suite_report: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get_log("browser")
    for path in suite_report.pages.values():
        browser.get(path.as_uri())
        draw(browser)
        links = js(browser, "[...document.querySelectorAll('#suites a')].map((a) => a.getAttribute('href'))")
        assert links == ["index.html", "needles.html", "ruler.html"]
        assert js(browser, "document.querySelector('#suites [aria-current]').getAttribute('href')") == path.name
        assert js(browser, "document.documentElement.scrollWidth") <= width, path.name
        assert browser.execute_script(_OVERLAPS) == [], path.name
        assert js(browser, "document.querySelectorAll('img, iframe, [onerror]').length") == 0 and clean(browser)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_hostile_names_in_every_place_are_text(browser: Any, suite_report: Any) -> None:
    browser.get(suite_report.pages["ruler"].as_uri())
    values = js(browser, "[...document.querySelectorAll('select[name=model] option')].map((o) => o.value)")
    assert made.HOSTILE in values
    choose(browser, "model", made.HOSTILE)
    assert "No finished run" in js(browser, "document.getElementById('quality').textContent")
    assert js(browser, "document.querySelector('#failed code.bad').textContent") == made.HOSTILE
    assert clean(browser)


def test_quality_against_time_is_drawn_for_each_device(browser: Any, suite_report: Any) -> None:
    browser.get(suite_report.page.as_uri())
    choose(browser, "model", "org/tiny-retriever")
    choose(browser, "rendering", "dialect")
    titles = "[...document.querySelectorAll('#speed h3')].map((h) => h.textContent)"
    assert js(browser, titles) == ["multi-turn, 2,048 tokens, dialectcuda (H100)"]
    draw(browser)
    assert js(browser, "document.querySelectorAll('#speed .front_marks path').length") == 1
    fast = "[...document.querySelectorAll('#methods td [title*=time]')].map((n) => n.closest('tr').textContent)"
    assert any(text.startswith("kivi") for text in js(browser, fast))
    choose(browser, "model", "")
    choose(browser, "device", "cpu")
    assert "H100" not in "".join(js(browser, titles)) and len(js(browser, titles)) == 2, (
        "both scorers of the natural model"
    )
    assert "device cpu" in js(browser, "document.getElementById('same').textContent"), "so in every row shown"


def test_imported_rows_are_marked_and_not_measured(browser: Any, suite_report: Any) -> None:
    browser.get(suite_report.page.as_uri())
    choose(browser, "origin", "NVIDIA <kvpress>")
    assert "imported from NVIDIA <kvpress>" in js(browser, "document.querySelector('#methods thead').textContent")
    cells = js(browser, "[...document.querySelectorAll('#methods tbody td')].map((t) => t.textContent)")
    assert cells.count("not measured") == 2
    assert js(browser, "document.getElementById('s-speed').hidden") and "No finished" in js(
        browser, "document.getElementById('quality').textContent"
    )
    assert js(browser, "document.querySelector('#rows .tag').textContent") == "imported"
    assert js(browser, "document.querySelectorAll('#rows .copy').length") == 0, "there is no command to copy"


def test_sub_tasks_stand_beside_their_task(browser: Any, suite_report: Any) -> None:
    browser.get(suite_report.page.as_uri())
    choose(browser, "model", "org/natural")
    text = "(t) => [...t.querySelectorAll('thead th')].map((h) => h.textContent)"
    heads = js(browser, f"[...document.querySelectorAll('#heat table')].map({text})")
    assert ["press", "kv", "repoqa_and_kv", "repoqa_and_kv: kv", "repoqa_and_kv: repoqa"] in heads


_MAPS = """
return [...document.querySelectorAll("#depths table.map")].map((t) => ({
  name: t.caption.textContent,
  lengths: [...t.tHead.rows[0].cells].slice(1).map((c) => c.textContent),
  rows: [...t.tBodies[0].rows].map((r) => [...r.cells].map((c) => c.textContent)),
  tinted: t.querySelectorAll("td[style*=background]").length,
}));
"""


def test_a_map_of_depth_and_length_for_each_press(browser: Any, suite_report: Any) -> None:
    browser.get(suite_report.pages["needles"].as_uri())
    maps = browser.execute_script(_MAPS)
    assert maps[0]["name"] == "full" and {m["name"] for m in maps} == set(made.FEW)
    assert all(m["lengths"] == ["1,024", "2,048", "8,192"] and m["tinted"] == 15 for m in maps)
    assert [row[0] for row in maps[0]["rows"]] == ["0 %", "25 %", "50 %", "75 %", "100 %"]
    row = made.make_row("snapkv(keep=0.25)", "needle_grid", suite="needles", length=8192, depth=50, sessions=8)
    snapkv = next(m for m in maps if m["name"] == "snapkv(keep=0.25)")
    assert snapkv["rows"][2][3] == f"{100 * row['score']:.1f}"
    search(browser, "kivi")
    assert [m["name"] for m in browser.execute_script(_MAPS)] == ["kivi(bits=2, group=32)"]


def test_loading_is_drawn_against_length(browser: Any, suite_report: Any) -> None:
    browser.get(suite_report.pages["needles"].as_uri())
    titles = js(browser, "[...document.querySelectorAll('#loading h3')].map((h) => h.textContent)")
    assert titles == ["time per output token, multi-turn", "bytes a decoding step reads, multi-turn"]
    draw(browser)
    lines = "document.querySelectorAll('#loading .chart')[1].querySelectorAll('.sweep_marks path, .pathgroup path')"
    assert js(browser, f"new Set([...{lines}].map((p) => p.__data__.datum.line)).size") == 4
    browser.get(suite_report.page.as_uri())
    assert js(browser, "document.getElementById('s-loading').hidden"), "one length is no curve"


def test_the_largest_batch_follows_the_memory(browser: Any, suite_report: Any) -> None:
    browser.get(suite_report.pages["needles"].as_uri())
    per = made.make_row("full", "needle_grid", length=8192)["session_bytes"]
    full = "document.querySelector('#methods tbody tr').lastChild.textContent"  # the full cache comes first
    assert js(browser, full) == str(2**30 // per)
    browser.execute_script(
        "const i = document.querySelector('#memory input'); i.value = '80'; i.dispatchEvent(new Event('input'))"
    )
    assert js(browser, full) == f"{80 * 2**30 // per:,}"
    assert "in 80 GiB" in js(browser, "document.querySelector('#methods thead').textContent")


def test_the_copy_button_copies_the_command_of_its_row(browser: Any, suite_report: Any) -> None:
    browser.get(suite_report.pages["needles"].as_uri())
    browser.execute_script(
        "document.execCommand = () => { window.copied = document.activeElement.value; return true; };"
        "Object.defineProperty(navigator, 'clipboard', { value: { writeText: async (t) => { window.copied = t; } } });"
        "const rows = [...document.querySelectorAll('#rows tbody tr')];"
        "rows.find((r) => r.textContent.includes('kivi')).querySelector('.copy').click()"
    )
    browser.execute_async_script("setTimeout(arguments[0], 50)")
    assert js(browser, "window.copied").startswith("kvpress run --press 'kivi(bits=2, group=32)' --task needle_grid")


def test_a_disturbed_time_never_stands_bare(browser: Any, tmp_path: Path) -> None:
    rows = [
        made.make_row("full", "kv", quiet=True),
        made.make_row("snapkv(keep=0.25)", "kv", quiet=False, tpot_s=0.0042, disturbance={"waited": 0.4}),
    ]
    browser.get(write(made.write_rows(tmp_path / "results", rows), tmp_path).page.as_uri())
    cells = js(browser, "[...document.querySelectorAll('#methods td, #rows td')].map((c) => c.textContent)")
    marked = [text for text in cells if "\u2021" in text]
    assert marked.count("4.2 \u2021") == 2, "once for the method, once for the run"
    assert not [text for text in cells if text == "4.2"]
    assert len(marked) == 1 + 9, "and every other time of the run"
    assert "1 left out, which other programs disturbed" in js(browser, "document.getElementById('n-speed').textContent")
    assert [mark["press"] for mark in marks(browser, "#speed")] == ["full"]


_QUESTIONS = "[...document.querySelectorAll('#answers section')].map((s) => s.textContent)"


def requests_of(browser: Any) -> list[str]:
    """What was asked for since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def open_answers(browser: Any, press: str) -> None:
    browser.execute_script(
        "const rows = [...document.querySelectorAll('#rows tbody tr')];"
        "const row = rows.find((r) => r.querySelector('.press').textContent === arguments[0]);"
        "[...row.querySelectorAll('.copy')].find((b) => b.textContent === 'Read').click()",
        press,
    )
    browser.execute_async_script("setTimeout(arguments[0], 300)")


@pytest.fixture
def told(browser: Any, tmp_path: Path) -> Path:
    """A report on rows with answers, one with hostile ones, one whose answers are gone, one of before; it is open."""
    from kvpress_eval.report.generate import write

    results = tmp_path / "results"
    made.say(results, made.with_gold(made.make_row("full", "kv")))
    hostile = {"prompt": made.HOSTILE, "answer": f"{made.HOSTILE}</script><b>\u2028\x1b[31m", "finish": "length"}
    made.say(results, made.with_gold(made.make_row("snapkv(keep=0.25)", "kv")), **hostile)
    gone = made.make_row("expected(keep=0.25)", "kv")
    made.say(results, gone)
    next(results.rglob(f"{gone['run_id']}.answers.jsonl.gz")).unlink()
    made.write_rows(results, [made.make_row("random(keep=0.25)", "kv")])
    page = write(results, tmp_path / "out").page
    requests_of(browser)
    browser.get_log("browser")
    browser.get(page.as_uri())
    return page


def test_answers_are_loaded_when_they_are_opened_and_are_text(browser: Any, told: Path) -> None:
    assert not [url for url in requests_of(browser) if "answers/" in url], "nothing is loaded before"
    assert (
        js(browser, "[...document.querySelectorAll('#rows .copy')].filter((b) => b.textContent === 'Read').length") == 2
    )
    open_answers(browser, "snapkv(keep=0.25)")
    loaded = {url for url in requests_of(browser) if "answers/" in url}
    assert loaded == {path.as_uri() for path in (told.parent / "answers").iterdir()} and len(loaded) == 2
    found = js(browser, _QUESTIONS)
    assert len(found) == 50 and made.HOSTILE in found[0]
    assert f"{made.HOSTILE}</script><b>" in found[0] and "cut by the limit" in found[0]
    assert (
        "gold log p \u22121.250" in found[0] and "evidence 25.0 % kept, at depth 13 % (tokens 40\u201346)" in found[0]
    )
    assert "full cachegold 0-0" in found[0] or "full cachesaid by full" in found[0]
    assert js(browser, "document.querySelectorAll('#answers img, #answers b, #answers script').length") == 0
    assert clean(browser)


def test_answers_are_filtered_compared_and_closed(browser: Any, told: Path) -> None:
    row = made.make_row("snapkv(keep=0.25)", "kv")
    wrong = sum(score < 1 for turns in row["session_scores"] for score in turns)
    open_answers(browser, "snapkv(keep=0.25)")
    assert f"120 questions, {wrong} not wholly right" in js(
        browser, "document.querySelector('#answers .bar').textContent"
    )
    press = "[...document.querySelectorAll('#answers button')].find((b) => b.textContent.startsWith('{}')).click()"
    browser.execute_script(press.format("Only those"))
    browser.execute_script(press.format("Show all"))
    assert len(js(browser, _QUESTIONS)) == wrong
    browser.execute_script(press.format("Beside the full"))
    assert not any("full cache" in text for text in js(browser, _QUESTIONS))
    browser.execute_script(press.format("Close"))
    browser.execute_async_script("setTimeout(arguments[0], 50)")
    assert js(browser, "document.querySelector('#answers')") is None and clean(browser)


def test_answers_that_are_not_beside_the_page_are_said(browser: Any, told: Path) -> None:
    for path in (told.parent / "answers").iterdir():
        path.unlink()
    open_answers(browser, "full")
    assert "cannot be shown: answers/" in js(browser, "document.querySelector('#answers .told').textContent")
    browser.get_log("browser")  # the browser says that the file is not there


@pytest.mark.parametrize("width", [420, 1400])
def test_answers_fit_the_window(browser: Any, told: Path, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    open_answers(browser, "snapkv(keep=0.25)")
    sizes = js(browser, "[answers.scrollWidth - answers.clientWidth, answers.getBoundingClientRect().right]")
    browser.save_screenshot(str(told.parent / f"answers{width}.png"))
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert sizes[0] <= 0 and sizes[1] <= width


def test_measures_stand_beside_the_score(browser: Any, told: Path) -> None:
    heads = "[...document.querySelectorAll('#methods thead tr:last-child th')].map((h) => h.textContent)"
    assert any("\u0394 gold log p" in head for head in js(browser, heads))
    lines = js(browser, "[...document.querySelectorAll('#methods tbody tr')].map((r) => r.textContent)")
    (line,) = [line for line in lines if line.startswith("snapkv")]
    assert re.search(r"\u2212\d\.\d{3}\[\u2212\d\.\d{3}, \u2212\d\.\d{3}\]", line)
    assert "gold log p" in browser.execute_script(_HEADS)
