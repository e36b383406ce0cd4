"""The README, the page as text, and the terminal summary."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.report.generate import print_summary, read, stale, write
from kvpress_eval.report.markdown import code, markdown_table, render_markdown, text
from kvpress_eval.report.suite_names import pages
from kvpress_eval.report.vega_bundle import OUT as VEGA
from kvpress_eval.rows.numbers import fixed, percent, points, probability, snap, span

from tests.eval.report import made

ROOT = Path(__file__).parents[3]


def test_same_rows_same_bytes_wherever_they_lie(report: Any, tmp_path: Path) -> None:
    made.write_rows(tmp_path / "elsewhere", made.sweep()[::-1])
    made.spoil(tmp_path / "elsewhere")
    again = write(tmp_path / "elsewhere", tmp_path / "out")
    assert again.readme.read_bytes() == report.readme.read_bytes()
    assert again.page.read_bytes() == report.page.read_bytes()


def test_stale_notices_a_change(tmp_path: Path) -> None:
    made.write_rows(tmp_path / "results", [made.make_row("full", "kv")])
    assert len(stale(tmp_path / "results", tmp_path)) == 2
    write(tmp_path / "results", tmp_path)
    assert stale(tmp_path / "results", tmp_path) == []
    made.write_rows(tmp_path / "results", [made.make_row("snapkv(keep=0.5)", "kv")])
    assert len(stale(tmp_path / "results", tmp_path)) == 2


def test_a_page_that_no_row_supports_is_stale_and_deleted(tmp_path: Path) -> None:
    rows = [made.make_row("full", "kv"), made.make_row("full", "ruler_vt", suite="ruler")]
    results = made.write_rows(tmp_path / "results", rows)
    assert write(results, tmp_path).deleted == ()
    page = tmp_path / "ruler.html"
    (tmp_path / "other.html").write_text("<p>of <title>kvpress results: quality against bytes</title>")
    (tmp_path / "folder.html").mkdir()
    next(results.rglob("*ruler_vt*")).unlink()
    assert {path.name for path in stale(results, tmp_path)} == {"README.md", "index.html", "ruler.html"}
    again = write(results, tmp_path)
    assert again.deleted == (page,) and str(page) in str(again)
    assert stale(results, tmp_path) == [] and write(results, tmp_path).deleted == ()
    assert sorted(path.name for path in tmp_path.glob("*.html")) == ["folder.html", "index.html", "other.html"]


def test_answers_lie_beside_the_page_for_rows_that_have_them(tmp_path: Path) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    told, gone, other = (made.make_row(press, "kv") for press in list(made.PRESSES)[:3])
    for row in (told, gone):
        made.say(results, row)
    for at, run in enumerate(("../x", "..\\X", "</script>")):  # ids that are no names of files
        made.say(results, {**other, "run_id": "safe", "seed": at})
        folder = results / "org--tiny-retriever"
        for suffix in (".json", ".answers.jsonl.gz"):
            (folder / f"safe{suffix}").rename(folder / f"safe{at}{suffix}")
        path = folder / f"safe{at}.json"
        path.write_text(path.read_text().replace('"run_id": "safe"', f'"run_id": {json.dumps(run)}'))
    next(results.rglob(f"{gone['run_id']}.answers*")).write_bytes(b"damaged")
    made.write_rows(results, [made.make_row("full", "vt")])
    found = write(results, out)
    assert found.ignored == () and stale(results, out) == []
    names = sorted(path.name for path in (out / "answers").iterdir())
    assert set(names) == {"script.js", f"{told['run_id']}.js", "x-2.js", "x.js"}
    for path in (out / "answers").iterdir():
        assert re.fullmatch(
            r'// .*\n\(window\.kvpressAnswers \|\|= \{\}\)\["[a-z0-9-]+"\] = "[\w+/=]+";\n', path.read_text()
        )
    script = out / "answers" / f"{told['run_id']}.js"
    packed = base64.b64decode(script.read_text().split('"')[-2])
    assert packed == next(results.rglob(f"{told['run_id']}.answers*")).read_bytes()
    data = json.loads(re.search(r'id="data">(.*?)</script>', found.page.read_text())[1])["rows"]["columns"]["answers"]
    assert {*(data.get("v") or data["u"])} == {None, *(path.stem for path in (out / "answers").iterdir())}

    mine = out / "answers" / "mine.js"
    mine.write_text("// not of a report")
    next(results.rglob(f"{told['run_id']}.json")).unlink()
    assert script in stale(results, out)
    assert script in write(results, out).deleted and mine.exists() and stale(results, out) == []


def test_answers_among_the_rows_are_no_strange_files(tmp_path: Path) -> None:
    made.say(tmp_path, made.make_row("full", "kv"))
    (tmp_path / "org--tiny-retriever" / "orphan.answers.jsonl.gz").write_bytes(b"")
    assert write(tmp_path, tmp_path).ignored == write(tmp_path, tmp_path).ignored == ()
    assert [path.name for path in tmp_path.glob("answers/*")] and stale(tmp_path, tmp_path) == []


def test_report_beside_the_rows_does_not_list_itself(tmp_path: Path) -> None:
    made.write_rows(tmp_path, [made.make_row("full", "kv")])
    assert write(tmp_path, tmp_path).ignored == write(tmp_path, tmp_path).ignored == ()


def test_paths_of_this_machine_stay_out(report: Any, results: Path) -> None:
    for path in (report.readme, report.page):
        assert str(results) not in path.read_text("utf-8")


@pytest.mark.parametrize("rows", [0, 1])
def test_empty_and_failed_only_results(tmp_path: Path, rows: int) -> None:
    (tmp_path / "results").mkdir()
    row = made.failed(made.make_row("full", "kv"), "broke")
    made.write_rows(tmp_path / "results", [row] * rows)
    paths = write(tmp_path / "results", tmp_path / "out")
    assert paths.rows == rows and not any(gate.failures for gate in paths.gates)
    assert ("broke" in paths.readme.read_text("utf-8")) == bool(rows)


def test_readme_tables_are_well_formed(report: Any) -> None:
    lines = report.readme.read_text("utf-8").splitlines()
    widths: list[int] = []
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("|"):
            cells = len(re.findall(r"(?<!\\)\|", line))
            assert not before.startswith("|") or cells == widths[-1], line
            widths.append(cells)
    titles = [line for line in lines if line.startswith("### ")]
    assert titles[1] == "### 2,048 tokens, multi-turn, gold history, dialect" and len(titles) == 5
    assert any("OutOfMemoryError" in line for line in lines)
    assert any("`notes.txt`" in line for line in lines)
    assert sum("5 of 6 tasks" in line for line in lines) == 2


def test_markdown_is_inert() -> None:
    assert code("a|b`c") == "``a|b`c``"
    assert code("`a") == "`` `a ``"
    assert text("<b> [x](y) *z* |\n# t") == r"\<b\> \[x\]\(y\) \*z\* \| \# t"


def test_bars_are_escaped_where_they_would_end_a_cell() -> None:
    cells = [text("a | `b|"), code("a | b"), f"{code('a|b`c')} at {text('x|y')}", f"{text('`')}{code('|')}"]
    line = markdown_table(["head"] * 4, 4, [cells]).splitlines()[-1]
    assert line == r"| a \| \`b\| | `a \| b` | ``a\|b`c`` at x\|y | \``\|` |"


def test_press_names_in_a_list_can_be_copied() -> None:
    press = "snapkv | kivi(bits=2)"
    full = made.make_row("full", "kv")
    unsolved = made.failed({**full, "press": press, "target": "50%"}, "too few")
    (note,) = (
        line for line in render_markdown(made.parsed([full, unsolved]), []).splitlines() if line.startswith("- `")
    )
    assert note == f"- `{press}` at 50 % on kv\\: too few"


def test_numbers() -> None:
    assert snap(0.1 + 0.2, 1) == 0.3 and snap(float("nan")) is None and snap(-0.0) == 0.0
    assert fixed(-1.25, 2) == "\u22121.25" and fixed(None) == "\u2013" and fixed(-0.01, 1, sign=True) == "0.0"
    assert points(0.1234) == "12.3" and span(-0.1, 0.1, sign=True) == "[\u221210.0, +10.0]"
    assert [probability(p) for p in (1.0, 0.04, 0.0001)] == ["1.00", "0.040", "<0.001"]
    assert [percent(r) for r in (1.0, 0.25, 0.046)] == ["100 %", "25.0 %", "4.60 %"]


def test_page_is_one_small_inert_file(report: Any) -> None:
    page = report.page.read_text("utf-8")
    assert len(page.encode()) < 5_000_000
    head, data = re.search(r'^(.*)<script type="application/json" id="data">(.*?)</script>', page, re.S).groups()  # type: ignore[union-attr]
    assert "<" not in data and made.HOSTILE in json.dumps(json.loads(data), ensure_ascii=False).replace('\\"', '"')
    library = VEGA.read_text("utf-8")  # the policy of the page lets it load nothing
    assert page.count(library) == 1 and "</script" not in library.lower() and "<!--" not in library
    rest = page.replace(data, "").replace(f"<script>{library}</script>", "")
    assert "pwned" not in rest
    links = re.findall(r"https?://[^\"'`$ ]+", rest)  # a paper is opened by whoever follows the link, never loaded
    assert links == ["http://www.w3.org/2000/svg", "https://arxiv.org/abs/"]
    assert not re.search(r"<(link|img|script|iframe|object)[^>]+(src|href)=(?!\"data:,\")", rest)
    for tag, policy in (("style", "style-src"), ("script", "script-src")):
        (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>", rest, re.S)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert re.search(rf"{policy} [^;]*'sha256-{re.escape(digest)}'", head)
    assert "default-src 'none'" in head and "unsafe" not in head


def test_a_placeholder_in_the_data_is_not_filled_in(tmp_path: Path) -> None:
    made.write_rows(tmp_path / "r", [made.make_row("full", "kv", model="{{style}}{{data}}")])
    page = write(tmp_path / "r", tmp_path).page.read_text("utf-8")
    assert page.count("{{style}}") >= 1 and page.count("--bg: #fafaf8") == 1


def test_a_thousand_rows_stay_small(tmp_path: Path) -> None:
    rows = [
        made.make_row(
            press,
            task,
            seed=seed,
            sessions=4,
            turns=2,
            command="x" * 300 + press + task + str(seed),
        )
        for press in made.PRESSES
        for task in made.TASKS
        for seed in range(11)
    ]
    paths = write(made.write_rows(tmp_path / "r", rows), tmp_path)
    assert paths.rows == len(rows) > 1000 and paths.page.stat().st_size < 2_500_000


def test_terminal_summary_fits_100_columns(tmp_path: Path) -> None:
    console = pytest.importorskip("rich.console")
    out = io.StringIO()
    few = ("full", "kivi(bits=4, group=32)", "random(keep=0.125)", made.HOSTILE)
    rows = [row for row in made.sweep() if row["press"] in few]
    print_summary(made.write_rows(tmp_path, rows), console.Console(file=out, width=100, color_system=None))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    (line,) = (x for x in lines if x.startswith("kivi(bits=4, group=32)") and "73.6" in x)
    assert "28.2 %" in line and "79.3" in line
    assert "sanity gates: 5 of 6 pass, 1 not checked" in out.getvalue() and "2 failed runs" in out.getvalue()
    assert any("6.2\u2020" in x for x in lines)


def test_terminal_summary_names_failing_gates(tmp_path: Path) -> None:
    console = pytest.importorskip("rich.console")
    out = io.StringIO()
    made.write_rows(tmp_path, [made.make_row("full", "kv"), made.make_row("snapkv(keep=0.5)", "kv", bytes=1)])
    print_summary(tmp_path, console.Console(file=out, width=100, color_system=None))
    assert "claimed bytes are measured bytes (1 of 2)" in out.getvalue()
    assert "sanity gates: 4 of 6 pass, 1 fails, 1 not checked" in out.getvalue()


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


def test_the_committed_leaderboard_is_what_the_rows_say() -> None:
    """`kvpress report --results leaderboards/results --out leaderboards` makes it so."""
    out = ROOT / "leaderboards"
    found = read(out / "results")
    assert found.analysis.rows
    assert [path.name for path in stale(found, out)] == []
    assert all(path.stat().st_size < 5_000_000 for path in out.glob("*.html"))
    assert [gate.failures for gate in found.gates if gate.failures] == []
