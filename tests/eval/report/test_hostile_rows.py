"""Rows that mean harm: every field with every kind of wrong value, through all that reads, prints or writes it."""

from __future__ import annotations

import io
import itertools
import json
import random
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import kvpress_eval
import pytest
from kvpress_eval.cli import main, printing
from kvpress_eval.machine import console
from kvpress_eval.machine.printable import plain
from kvpress_eval.report import generate
from kvpress_eval.report.suite_names import pages
from kvpress_eval.rows.parsing import parse_row, read_rows
from kvpress_eval.rows.row import Row
from kvpress_eval.rows.row_files import load_row, load_rows
from kvpress_eval.rows.row_types import NAME
from kvpress_eval.rows.stats import bootstrap_interval
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.studies.finding import Check, Finding
from kvpress_eval.studies.findings_text import render
from kvpress_eval.sweeps.estimate import Estimator
from kvpress_eval.sweeps.merge import same_results

from tests.eval.report import made

ROUNDS = 8
PACKAGE = Path(kvpress_eval.__file__).parent
TEXTS = (
    *("[bold]x[/]", "[/]", "[/red] and [link=http://evil]this[/link]", "[[", "\\[", ":warning:", "{task.description}"),
    *("\x1b[31mred\x1b]0;title\x07", "\r\nover\x08\x08", "\u202egnp.exe", "\x9b2J", "\ud800", "zero\u200bwidth\ufeff"),
    *("<script>alert(1)</script>", "</script><!--", "| a | b |\n|---|", "# h\n\n- x", "``` `` `", "<!-- x", "![](x)"),
    *("../../etc/passwd", "/", "con", "index", "readme", ".", "%s %n {0} {}", "=cmd|'/c calc'!A1", "'; --"),
    *(
        "x" * 20_000,
        "(" * 900,
        "," * 900,
        "a=" * 400,
        "| " * 400,
        "",
        " ",
        "\n",
        "0",
        "null",
        "full",
        "kein\u00dfAE\u0301",
    ),
)
NUMBERS = (0, -1, 1, 0.5, -0.0, 1e-300, 1e308, -1e308, 2**63, 10**400, float("nan"), float("inf"), -float("inf"))
OTHERS = (
    *(None, True, False, [], {}, [None], [[]], [[None]], [[[]]], {"a": None}, {"": ""}, {"[/]": "[/]"}, ["[/]"], [{}]),
    *(
        [[0.5]],
        [["x"]],
        {"\x1b[31m": 1},
        {"a": {"b": {"c": []}}},
        [1e308, 1e308],
        {"x" * 20_000: 1},
        [{"holds": False}],
    ),
)
VALUES: tuple[Any, ...] = (*TEXTS, *NUMBERS, *OTHERS)
FIELDS = tuple(f.name for f in fields(Row) if f.name not in ("format", "transcript"))


def base(**changes: Any) -> dict[str, Any]:
    row = made.with_gold(made.make_row("snapkv(keep=0.25)", "kv", sessions=3, turns=2))
    more = {
        "quiet": False,
        "disturbance": {"waited": 0.4},
        "error": None,
        "subtasks": {"a": 0.5},
        "extras": {"f1": 0.5},
    }
    return {**row, **more, **changes}


def spoiled(number: int) -> list[dict[str, Any]]:
    """The full cache's row, and one for each field with a value that it should not have, another one each round."""
    rng = random.Random(number)
    order = rng.sample(VALUES, len(VALUES))
    rows = [made.make_row("full", "kv", sessions=3, turns=2)]
    for place, name in enumerate(FIELDS):
        value = order[(place + number) % len(order)]
        row = base(run_id=f"row{place}", **({"status": "failed"} if rng.random() < 0.15 else {}))
        rows.append({**row, name: value})
    for place in range(12):  # several at once
        row = base(run_id=f"more{place}")
        rows.append({**row, **{name: rng.choice(VALUES) for name in rng.sample(FIELDS, 3)}})
    return rows


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    for number, row in enumerate(rows):
        path = folder / "m" / f"{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row), encoding="utf-8")
    return folder


def clean(text: str) -> bool:
    return plain(text) == text


@pytest.mark.parametrize("number", range(ROUNDS))
def test_no_row_ends_a_command(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = write(tmp_path / "rows", spoiled(number))
    out = tmp_path / "out"
    commands = [
        ["report", "--results", str(rows), "--out", str(out)],
        ["report", "--results", str(rows), "--out", str(out), "--check"],
        ["compare", "snapkv(keep=0.25)", "full", "--results", str(rows)],
        ["compare", "no(such=1)", "full", "--results", str(rows)],
        ["merge", str(rows), "--into", str(tmp_path / "merged")],
        ["diff", str(rows), str(tmp_path / "merged")],
        ["sweep", str(sweep(tmp_path)), "--dry-run", "--results", str(rows)],
        ["answers", "snapkv(keep=0.25)", "--results", str(rows)],
        ["study", "scbench-findings", "--report-only", "--results", str(rows), "--out", str(tmp_path / "s.md")],
    ]
    for words in commands:
        code = main(words)
        said = capsys.readouterr()
        assert code in ((0,) if words[0] == "report" else (0, 1, 2)), (words, said.err)
        assert clean(said.out) and clean(said.err), words
        assert len(said.err.strip().splitlines()) <= 1
    for path in out.rglob("*"):
        assert len(path.name) < 100 and path.is_relative_to(out)
        assert "<script>alert" not in path.read_text(encoding="utf-8")
    assert clean((out / "README.md").read_text(encoding="utf-8"))


def sweep(folder: Path) -> Path:
    path = folder / "sweep.yaml"
    path.write_text("presses: ['snapkv(keep=0.25)']\ntasks: [kv]\nlengths: [2048]\n")
    return path


@pytest.mark.parametrize("number", range(ROUNDS))
def test_no_row_that_is_read_breaks_what_prints_it(number: int, tmp_path: Path) -> None:
    rows = load_rows(write(tmp_path / "rows", spoiled(number)))
    assert rows
    screen = console.console()
    screen.file = io.StringIO()
    full = rows[0]
    judge = Estimator(rows)
    for row in rows:
        printing.print_row(screen, row, tmp_path / "x.json", "nothing")
        screen.print(printing.row_line(row, True))
        if row.status == "ok" and full.status == "ok":
            printing.difference(row, full)
        row.to_dict()
    judge.seconds(RunConfig(length=64))
    found = [row for row in read_rows(tmp_path / "rows")[0] if row.ok and not row.twin]
    check = Check("x", bootstrap_interval([]), 1.0, 1)
    finding = Finding("H", "c", (check,), (("press", "score"), *((row.press, row.task) for row in found)))
    assert clean(render("name", "about", found, [finding], 3, ["a=b"]))
    assert isinstance(screen.file, io.StringIO) and clean(screen.file.getvalue())
    assert isinstance(same_results(tmp_path / "rows", tmp_path / "rows"), list)


def test_every_field_meets_every_text() -> None:
    """What the rounds sample: no combination is an error that nobody expects."""
    said: list[str] = []
    for name, value in itertools.product(FIELDS, VALUES):
        data = json.loads(json.dumps({**base(), name: value}))
        try:
            parse_row(data, "m/0.json")
        except (ValueError, OverflowError) as problem:
            said.append(str(problem))
    assert said
    assert max(map(len, said)) < 400


@pytest.mark.parametrize("name", ["mode", "press", "task", "model", "history", "suite", "schedule"])
def test_markup_is_shown_as_it_is(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = "[red]x[/] :skull:"
    changes = {"press": told, "asked": told} if name == "press" else {name: told}
    row = base(**changes)
    write(
        tmp_path / "rows", [row, {**row, "press": "full", "asked": "full", "run_id": "f"}, made.make_row("full", "vt")]
    )
    assert main(["report", "--results", str(tmp_path / "rows"), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    if name not in ("task", "schedule"):  # they are not part of this table
        assert told.replace(" ", "") in re.sub(r"\s", "", out).replace("-", "-")
    line = printing.row_line(Row.from_dict(row), True)
    assert name not in ("mode", "press", "task") or told in line.plain


def test_a_long_suite_has_a_short_page() -> None:
    names = pages(["scbench", "x" * 999, "x" * 998, "\U0001f600" * 40])
    assert max(map(len, names.values())) < 80 and len(set(names.values())) == 4
    with pytest.raises(ValueError, match=f"suite: expected text of length <= {NAME}"):
        parse_row(base(suite="x" * 20_000), "m/0.json")


def test_files_are_written_before_anything_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("a fault of the printer")

    monkeypatch.setattr(generate, "print_summary", fail)
    write(tmp_path / "rows", [base()])
    with pytest.raises(RuntimeError, match="printer"):
        main(["report", "--results", str(tmp_path / "rows"), "--out", str(tmp_path / "out")])
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"README.md", "index.html"}


def test_a_file_with_a_hostile_name_is_named_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "rows", [base()])
    (tmp_path / "rows" / "m" / "\x1b[31m[bold]\u202e.txt").write_text("x")
    assert main(["report", "--results", str(tmp_path / "rows"), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert clean(out) and "[bold]" in out
    assert clean((tmp_path / "out" / "README.md").read_text())


@pytest.mark.parametrize(
    "change",
    [
        *({"score": "0.5"}, {"seconds": "1"}, {"length": 1.5}, {"sessions": True}, {"press": 3}, {"tpot_s": 1e308}),
        *({"session_ids": ["a"]}, {"measures": {"nll": [[0.5]]}}, {"bytes_by_kind": {"k": "x"}}, {"premises": [{}]}),
    ],
)
def test_a_row_of_other_types_is_no_row(change: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, [{**base(), **change}])
    assert load_row(tmp_path / "m" / "0.json") is None


def test_deep_and_endless_json_is_no_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "rows", [base()])
    for number, text in enumerate(("[" * 100_000, '{"a":' * 100_000, "1" * 10_000, '{"format": 1e999}', "\x00", "[]")):
        (tmp_path / "rows" / "m" / f"x{number}.json").write_text(text)
    assert main(["report", "--results", str(tmp_path / "rows"), "--out", str(tmp_path / "out")]) == 0
    assert main(["merge", str(tmp_path / "rows"), "--into", str(tmp_path / "merged")]) == 1
    assert len(load_rows(tmp_path / "rows")) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_there_is_one_console() -> None:
    """Whoever prints in another way prints markup: see console.py."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "console.py":
            assert "rich.markup" not in text, path
            assert not re.search(r"\bfrom rich\.console import [^\n]*\bConsole\b", text), path
            assert "from_markup" not in text and not re.search(r"\bConsole\(", text), path
