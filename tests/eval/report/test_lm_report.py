"""Forced texts in reports, on the command line, and as measured by others."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kvpress_eval.cli import main
from kvpress_eval.cli.printing import difference
from kvpress_eval.importers import import_results
from kvpress_eval.report import generate
from kvpress_eval.report.html import page_data
from kvpress_eval.report.measure_changes import forced
from kvpress_eval.rows import stats
from kvpress_eval.rows.numbers import nats, nats_span, probability
from kvpress_eval.rows.parsing import parse_row, read_rows
from kvpress_eval.rows.row_files import load_rows
from rich.console import Console


@pytest.fixture(scope="module")
def ran(text_model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Rows of three presses on two texts, and the words that name their cells."""
    results = tmp_path_factory.mktemp("lm") / "results"
    words = ["--model", text_model, "--length", "203", "--forced", "37", "--sessions", "4", "--results", str(results)]
    for task in ("lm_reference", "lm_code"):
        for press in ("full", "snapkv(keep=0.25, window=5)", "int8"):
            assert main(["run", "--task", task, "--press", press, *words]) == 0
    return results, words


def told(results: Path) -> str:
    console = Console(file=io.StringIO(), width=80)
    generate.print_summary(results, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_report_shows_divergence_change_and_agreement(ran: tuple[Path, list[str]], tmp_path: Path) -> None:
    results, _ = ran
    written = generate.write(results, tmp_path)
    text = written.readme.read_text()
    assert "| press | bytes/dense | KL [95 %] | Δ NLL [95 %] | equal tokens [95 %] | n | KL 1 | KL 2-16 |" in text
    (line,) = (line for line in text.splitlines() if line.startswith("| `snapkv"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    rows = [row for row in load_rows(results) if row.press.startswith("snapkv")]
    kl = sum(value[0] or 0 for row in rows for value in row.measures["kl"]) / 8
    assert cells[2].startswith(f"{nats(kl)} [")
    assert cells[3].startswith(("+", "−"))
    assert "[" in cells[3]
    assert cells[5] == "8"
    assert cells[6] == "0"
    assert all(len(line) <= 80 for line in told(results).splitlines())
    assert "equal" in told(results)
    data = page_data(generate.read(results).analysis, [])
    assert [found["task"] for found in data["forced"]] == ["", "lm_code", "lm_reference"]
    assert written.page.read_text().count("continuation")


def test_the_macro_mean_weighs_texts_equally_and_pairs_by_passage(ran: tuple[Path, list[str]]) -> None:
    analysis = generate.read(ran[0]).analysis
    (found,) = forced(analysis)
    lines = {line.cell.method.asked: line for line in found.lines}
    assert found.bins == ("1", "2-16", "17-37")
    assert lines["full"].nll is None
    assert lines["full"].kl.mean == 0
    snap = next(line for press, line in lines.items() if press.startswith("snapkv"))
    by_task = {f.task: f for task in ("lm_code", "lm_reference") for f in forced(analysis, task)}
    mine = [next(x for x in f.lines if x.cell.method == snap.cell.method) for f in by_task.values()]
    assert snap.kl.mean == pytest.approx(sum(line.kl.mean for line in mine) / 2)
    assert snap.nll is not None
    assert snap.nll.difference.mean == pytest.approx(
        sum(line.nll.difference.mean for line in mine if line.nll is not None) / 2
    )
    assert snap.nll.means[0] - snap.nll.means[1] == pytest.approx(snap.nll.difference.mean)


def test_two_presses_are_compared_by_divergence(
    ran: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = "snapkv(keep=0.25, window=5)", "int8"
    assert main(["compare", first, second, "--task", "lm_reference", "--results", str(ran[0])]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = {row.press: row for row in load_rows(ran[0]) if row.task == "lm_reference"}
    ours, theirs = (next(row for press, row in rows.items() if press.startswith(start)) for start in ("snapkv", "int8"))
    for title, name in (("KL", "kl"), ("NLL", "nll")):
        (at,) = (i for i, line in enumerate(lines) if line.split()[:1] == [title])
        assert lines[at].split() == [title, "first", "second", "diff.", "95", "%", "p"]
        mine, other = ([value[0] or 0.0 for value in row.measures[name]] for row in (ours, theirs))
        shift = stats.bootstrap_interval([[a - b for _, a, b in sorted(zip(ours.session_ids, mine, other))]])
        p = probability(stats.sign_flip_p([np.subtract(mine, other)]))
        want = [nats(sum(mine) / 4), nats(sum(other) / 4), nats(shift.mean, sign=True)]
        want += [nats_span(shift.low, shift.high, sign=True), p]
        assert lines[at + 1].split() == ["continuation,", "all", *" ".join(want).split()]
    assert "KL: divergence from the full cache, nats a token, lower is better; NLL: " in " ".join(out.split())


def test_a_row_says_its_change_to_the_full_cache(ran: tuple[Path, list[str]]) -> None:
    rows = [row for row in load_rows(ran[0]) if row.task == "lm_code"]
    full, snap = (next(row for row in rows if row.press.startswith(start)) for start in ("full", "snapkv"))
    mine, other = ([value[0] or 0.0 for value in row.measures["nll"]] for row in (snap, full))
    shift = stats.bootstrap_interval([[a - b for _, a, b in sorted(zip(snap.session_ids, mine, other))]])
    written = f"NLL {nats(shift.mean, sign=True)} {nats_span(shift.low, shift.high, sign=True)}"
    assert difference(snap, full) == f"{written} (95 %, 4 passages paired)"
    assert difference(snap, replace(full, measures={})) == "no passage in common with the full cache's row"


def test_texts_forced_otherwise_stand_apart(ran: tuple[Path, list[str]], tmp_path: Path) -> None:
    rows = load_rows(ran[0])
    for number, changes in enumerate(({"forced": 64}, {"forced_step": 1}, {"source": "Python 3.1"})):
        folder = tmp_path / str(number)
        folder.mkdir()
        for row in rows:
            other = {**row.to_dict(), **changes, "run_id": f"x{row.run_id}"}
            for name, data in ((row.run_id, row.to_dict()), (f"x{row.run_id}", other)):
                (folder / "m").mkdir(exist_ok=True)
                (folder / "m" / f"{name}.json").write_text(json.dumps(data))
        assert len(forced(generate.read(folder).analysis)) == 2


@pytest.mark.parametrize("measures", [3, {"kl": 3}, {"kl": [[0.1]]}, {"kl": [["x"]] * 4}, {"kl": [[True]] * 4}])
def test_a_damaged_measure_is_no_row(ran: tuple[Path, list[str]], measures: Any) -> None:
    row = load_rows(ran[0])[0].to_dict()
    with pytest.raises(ValueError, match="measure"):
        parse_row({**row, "measures": measures}, "x")


def test_what_is_not_known_of_a_measure_is_left_out(ran: tuple[Path, list[str]], tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for row in load_rows(ran[0]):
        data = row.to_dict()
        data["measures"]["nll"][0] = [None]
        data["measures"]["kl"] = [[None]] * 4
        (tmp_path / "m" / f"{row.run_id}.json").write_text(json.dumps(data))
    (found,) = forced(generate.read(tmp_path).analysis)
    line = found.lines[1]
    assert line.kl.n == 0
    assert line.nll is not None
    assert line.nll.difference.n == 6
    generate.write(tmp_path, tmp_path / "out")


def test_rounding_of_a_measure_is_no_difference_of_two_folders(ran: tuple[Path, list[str]], tmp_path: Path) -> None:
    row = next(row for row in load_rows(ran[0]) if row.press == "int8").to_dict()
    for name, change in (("a", 0.0), ("b", 1e-9), ("c", 0.01)):
        (tmp_path / name / "m").mkdir(parents=True)
        changed = {**row, "measures": {**row["measures"], "kl": [[0.5 + change]] * 4}}
        (tmp_path / name / "m" / f"{row['run_id']}.json").write_text(json.dumps(changed))
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "c")]) == 1


def exported(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    sizes = ["--length", "203", "--forced", "37", "--sessions", "4"]
    assert main(["data", "--task", "lm_reference", "--model", words[1], *sizes, "--out", str(folder)]) == 0
    capsys.readouterr()
    return [json.loads(line) for line in (folder / "lm_reference.jsonl").read_text().splitlines()]


def result(lines: list[dict[str, Any]], model: str, press: str, **changes: Any) -> dict[str, Any]:
    sessions = [
        {"id": line["id"], "nll": [5.0 + i / 100] * 37, "kl": [0.0, *[0.5] * 36], "agree": [1] * 37}
        for i, line in enumerate(lines)
    ]
    shared = {"kind": "kvpress-peer", "origin": "Other 1.0", "model": model, "dtype": "float32", "device": "cpu"}
    return {**shared, "press": press, "bytes_ratio": 0.3, "row": lines[0]["row"], "sessions": sessions, **changes}


def test_peers_stand_in_the_same_table_marked(
    ran: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, words = ran
    lines = exported(words, tmp_path / "data", capsys)
    ours = [row for row in load_rows(results) if row.task == "lm_reference"]
    assert [line["id"] for line in lines] == ours[0].session_ids
    assert [(len(line["prefix_ids"]), len(line["forced_ids"])) for line in lines] == [(203, 37)] * 4
    into, given = tmp_path / "into", tmp_path / "peer"
    (into / "m").mkdir(parents=True)
    given.mkdir()
    for row in ours:
        (into / "m" / f"{row.run_id}.json").write_text(json.dumps(row.to_dict()))
    (given / "a.json").write_text(json.dumps(result(lines, words[1], "TheirPress(0.5)")))
    (given / "b.json").write_text(json.dumps(result(lines, words[1], "TheirPress(0.25)")))
    assert main(["import", "peer", str(given), "--into", str(into)]) == 0
    rows, ignored = read_rows(into)
    assert not ignored
    assert len(rows) == len(ours) + 2
    (found,) = forced(generate.read(into).analysis)
    theirs = next(line for line in found.lines if line.cell.method.asked == "TheirPress(0.5)")
    assert theirs.kl.mean == pytest.approx(0.5 * 36 / 37)
    assert theirs.cell.table.origin == "Other 1.0"
    assert theirs.bins[0] == 0
    assert theirs.nll is not None  # against our full cache on the same passages, as they brought none
    assert theirs.nll.difference.n == 4
    written = generate.write(into, tmp_path / "out")
    text = written.readme.read_text()
    assert text.count("| press | bytes/dense | KL [95 %]") == 1
    assert "(*Other 1\\.0*)" in text or "(*Other 1.0*)" in text
    assert "Other 1.0" in " ".join(told(into).split())


def test_imported_texts_alone_are_shown(
    ran: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where none of our rows is in their table."""
    _, words = ran
    lines = exported(words, tmp_path / "data", capsys)
    into, given = tmp_path / "into", tmp_path / "peer"
    given.mkdir()
    (given / "a.json").write_text(json.dumps(result(lines, words[1], "TheirPress(0.5)")))
    (given / "b.json").write_text(json.dumps(result(lines, words[1], "Another(0.5)", origin="Another 2.0")))
    assert main(["import", "peer", str(given), "--into", str(into)]) == 0
    assert [bool(row.origin) for row in read_rows(into)[0]] == [True, True]
    text = generate.write(into, tmp_path / "out").readme.read_text()
    assert text.count("| press | bytes/dense | KL [95 %]") == text.count("\n### ") == 1
    data = page_data(generate.read(into).analysis, [])
    assert [(found["task"], len(found["tables"])) for found in data["forced"]] == [("", 2), ("lm_reference", 2)]
    kl = nats(0.5 * 36 / 37)
    for press, origin in (("TheirPress(0.5)", "Other 1.0"), ("Another(0.5)", "Another 2.0")):
        (line,) = (line for line in text.splitlines() if line.startswith(f"| `{press}` (*{origin}*)"))
        assert [cell.strip() for cell in line.split("|")[2:5]] == ["30.0 %", f"{kl} [{kl}, {kl}]", "–"]
        assert f"{press} ({origin})" in told(into)
        for found in data["forced"]:
            assert [one["kl"][1] for one in found["lines"] if one["origin"] == origin] == [kl]


def test_a_mean_over_fewer_texts_is_marked(
    ran: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A peer that read one of two genres does not compare with the means over both, whatever its own table holds."""
    results, words = ran
    into, given = tmp_path / "into", tmp_path / "peer"
    given.mkdir()
    (given / "a.json").write_text(
        json.dumps(result(exported(words, tmp_path / "data", capsys), words[1], "TheirPress(0.5)"))
    )
    assert main(["merge", str(results), "--into", str(into)]) == 0
    assert main(["import", "peer", str(given), "--into", str(into)]) == 0
    lines = generate.write(into, tmp_path / "out").readme.read_text().splitlines()
    names = [line.split("|")[1] for line in lines if line.startswith(("| `TheirPress", "| `int8`", "| `full`"))]
    assert [("\u2020" in name) for name in names] == ["TheirPress" in name for name in names] and len(names) == 3
    said = told(into)
    assert said.count("\u2020") == 2 and "\u2020 some texts are missing" in said  # beside one name, and what it means
    found = {
        (f["task"], line["origin"]): line["complete"]
        for f in page_data(generate.read(into).analysis, [])["forced"]
        for line in f["lines"]
    }
    assert found["", "Other 1.0"] is False and found["", ""] is True and found["lm_reference", "Other 1.0"] is True


def test_what_a_peer_wrote_wrong_is_named(
    ran: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, words = ran
    lines = exported(words, tmp_path / "data", capsys)
    good = result(lines, words[1], "P")
    short = [{**good["sessions"][0], "kl": [0.1] * 36}]
    wrong = {
        "kind": {**good, "kind": "x"},
        "task": {**good, "row": {**good["row"], "task": "lm_else"}},
        "source": {**good, "row": {k: v for k, v in good["row"].items() if k != "source"}},
        "origin": {**good, "origin": ""},
        "kl": {**good, "sessions": short},
        "id": {**good, "sessions": [{"nll": []}]},
        "no sessions": {**good, "sessions": []},
        "repeats": {**good, "sessions": [good["sessions"][0]] * 2},
        "forced": {**good, "row": {**good["row"], "forced": True}},
    }
    folder = tmp_path / "wrong"
    folder.mkdir()
    for name, data in wrong.items():
        (folder / f"{name}.json").write_text(json.dumps(data))
    (folder / "nan.json").write_text(
        json.dumps({**good, "sessions": [{**good["sessions"][0], "kl": [float("nan")] * 37}]})
    )
    done = import_results("peer", folder, tmp_path / "into")
    assert not done.rows
    reasons = {Path(item.path).stem: item.reason for item in done.skipped}
    assert reasons.keys() == {*wrong, "nan"}
    for name in wrong:
        assert name in reasons[name], reasons[name]
    asked = {"id": "s#1", "scores": [1.0, 0.0], "measures": {"gold": [-0.5, None]}}
    question = {**good, "row": {"task": "needle", "length": 512, "seed": 0, "source": "generated"}, "sessions": [asked]}
    (folder / "question.json").write_text(json.dumps(question))
    (row,) = import_results("peer", folder, tmp_path / "into").rows
    assert (row.score, row.measures, row.forced) == (0.5, {"gold": [[-0.5, None]]}, 0)


def test_a_text_that_is_continued_has_no_answers(
    ran: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    row = load_rows(ran[0])[0]
    assert main(["answers", row.run_id, "--results", str(ran[0])]) == 2
    said = capsys.readouterr().err
    assert f"{row.task} continues a text and asks nothing" in said and "--force" not in said
