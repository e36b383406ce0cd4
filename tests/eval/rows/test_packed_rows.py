"""Rows of a suite in one file: every reader sees them as it sees files of one row."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from kvpress_eval.cli import main
from kvpress_eval.errors import StorageError, UsageError
from kvpress_eval.rows.answers import finished_row, state
from kvpress_eval.rows.parsing import read_rows
from kvpress_eval.rows.row_files import answers_path, load_row, load_rows, row_files, row_path, write_row
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.sweeps.leftovers import clean_parts
from kvpress_eval.sweeps.merge import merge, pack, same_results
from kvpress_eval.sweeps.sweep import Outcome, run_sweep

from tests.eval.rows.test_answers import make_row

IDS = ("0123456789ab", "aaaaaaaaaaaa", "bbbbbbbbbbbb")


def written(folder: Path) -> Path:
    """Two suites of one model, one row of another, and a file that is no row."""
    for run, suite, model in zip(IDS, ("scbench", "core", "lm"), ("tiny", "tiny", "other"), strict=True):
        write_row(make_row(run, suite=suite, model=model), folder)
    write_row(make_row("cccccccccccc", suite="lm", model="tiny", status="failed", error="KVPressError: no"), folder)
    (folder / "tiny" / "broken.json").write_text("{", encoding="utf-8")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_packed_folder_reads_as_before(tmp_path: Path) -> None:
    plain, packed = written(tmp_path / "plain"), written(tmp_path / "packed")
    made = {path.relative_to(packed).as_posix(): rows for path, rows in pack(packed)}
    assert made == {"other/lm.jsonl": 1, "tiny/lm.jsonl": 1, "tiny/scbench.jsonl": 2}  # "core" is an old word for it
    left = [name for name in names(packed) if not name.endswith(".answers.jsonl.gz")]
    assert left == ["other/lm.jsonl", "tiny/broken.json", "tiny/lm.jsonl", "tiny/scbench.jsonl"]
    assert load_rows(packed) == load_rows(plain)
    assert read_rows(packed) == read_rows(plain)
    (plain / "tiny" / "broken.json").unlink()
    (packed / "tiny" / "broken.json").unlink()
    assert same_results(packed, plain) == []
    path = row_path(packed, "tiny", IDS[0])
    assert (row := finished_row(path)) is not None and state(path, row) == "whole"
    assert load_row(path.with_name("ffffffffffff.json")) is None


def test_packing_again_adds_and_a_file_counts_instead_of_its_line(tmp_path: Path) -> None:
    written(tmp_path)
    list(pack(tmp_path))
    assert list(pack(tmp_path)) == []  # nothing new
    newer = make_row(IDS[0], said="no", suite="scbench", model="tiny", score=0.5)
    path = write_row(newer, tmp_path)
    assert load_row(path) == newer
    assert [row.score for row in load_rows(tmp_path) if row.run_id == IDS[0]] == [0.5]
    assert list(pack(tmp_path)) == [(tmp_path / "tiny" / "scbench.jsonl", 2)]
    assert not path.exists() and load_row(path) == newer


def test_answers_of_a_packed_row_are_not_cleaned_away(tmp_path: Path) -> None:
    written(tmp_path)
    list(pack(tmp_path))
    beside = answers_path(row_path(tmp_path, "tiny", IDS[0]))
    stray = answers_path(row_path(tmp_path, "tiny", "f" * 12))
    stray.write_bytes(beside.read_bytes())
    for path in (beside, stray):
        os.utime(path, (0, 0))
    assert clean_parts(tmp_path) == 1 and beside.exists() and not stray.exists()


def test_merge_takes_rows_apart_again(tmp_path: Path) -> None:
    plain, packed = written(tmp_path / "plain"), written(tmp_path / "packed")
    list(pack(packed))
    found = merge([packed], tmp_path / "apart")
    assert (found.new, len(found.invalid)) == (4, 1)
    (plain / "tiny" / "broken.json").unlink()
    assert names(tmp_path / "apart") == names(plain)
    assert load_rows(tmp_path / "apart") == load_rows(plain)
    found = merge([plain], packed)  # what is there in a line is there
    assert (found.new, found.replaced, found.kept) == (0, 0, 4)


def test_a_bad_line_is_named_and_the_others_count(tmp_path: Path) -> None:
    written(tmp_path)
    list(pack(tmp_path))
    packed = tmp_path / "tiny" / "scbench.jsonl"
    lines = packed.read_text(encoding="utf-8").splitlines()
    packed.write_text(
        "\n".join([lines[0], "{half", lines[0], '{"run_id": "../../x"}', lines[1]]) + "\n", encoding="utf-8"
    )
    rows, ignored = read_rows(tmp_path)
    assert [row.run_id for row in rows] == [IDS[2], IDS[0], IDS[1], "cccccccccccc"]
    told = ["tiny/broken.json", "tiny/scbench.jsonl:2", "tiny/scbench.jsonl:4"]  # of a row twice the last counts
    assert [item.path for item in ignored] == told
    (tmp_path / "tiny" / "binary.jsonl").write_bytes(b"\xff\xfe")
    assert "tiny/binary.jsonl" in [item.path for item in read_rows(tmp_path)[1]]
    (tmp_path / "loose.jsonl").write_text("{}\n", encoding="utf-8")  # not in a model's folder
    assert "loose.jsonl" in [item.path for item in read_rows(tmp_path)[1]]


def test_no_row_is_lost_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path)
    before = names(tmp_path)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError):
        list(pack(tmp_path))
    assert names(tmp_path) == before


def test_a_packed_file_that_cannot_be_read_is_not_written_over(tmp_path: Path) -> None:
    written(tmp_path)
    packed = tmp_path / "tiny" / "scbench.jsonl"
    packed.write_bytes(b'{"run_id": "dddddddddddd"}\n\xff\n')
    with pytest.raises(UsageError, match="cannot read"):
        list(pack(tmp_path))
    assert packed.read_bytes().endswith(b"\xff\n") and (tmp_path / "tiny" / f"{IDS[0]}.json").is_file()


def test_a_sweep_goes_on_from_packed_rows(tmp_path: Path) -> None:
    configs = [
        RunConfig(press=press, task="kv", length=256, sessions=1, turns=1) for press in ("full", "knorm(keep=0.5)")
    ]
    run_sweep(configs, tmp_path)
    list(pack(tmp_path))
    before = names(tmp_path)
    assert run_sweep(configs, tmp_path) == Outcome(skipped=2) and names(tmp_path) == before
    assert len(row_files(tmp_path)) == 2


def test_the_command_and_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "rows")
    assert main(["report", "--results", str(tmp_path / "rows"), "--out", str(tmp_path / "a")]) in (0, 1)
    assert main(["pack", "--results", str(tmp_path / "rows")]) == 0
    assert "2 rows in" in capsys.readouterr().out
    assert main(["pack", "--results", str(tmp_path / "rows")]) == 0
    assert "no row has a file of its own" in capsys.readouterr().out
    assert main(["report", "--results", str(tmp_path / "rows"), "--out", str(tmp_path / "b")]) in (0, 1)
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert main(["answers", str(tmp_path / "rows" / "tiny" / f"{IDS[0]}.json")]) == 0
    assert "yes" in capsys.readouterr().out
    assert main(["pack", "--results", str(tmp_path / "none")]) == 2
    line = (tmp_path / "rows" / "tiny" / "lm.jsonl").read_text(encoding="utf-8")
    assert json.loads(line)["run_id"] == "cccccccccccc"
