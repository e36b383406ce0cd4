from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kvpress_eval.errors import UsageError
from kvpress_eval.rows.row import Row
from kvpress_eval.rows.row_files import load_row, load_rows, row_path, run_id, write_row


def make_row(**changes: object) -> Row:
    values = {
        "run_id": "0123456789ab",
        "status": "ok",
        "model": "tiny",
        "press": "full",
        "press_spec": "full",
        "task": "kv",
        "mode": "multi-turn",
        "history": "gold",
        "schedule": "after_turn1_prompt",
        "question_visible": True,
        "rendering": "dialect",
        "length": 512,
        "seed": 0,
        "sessions": 1,
        "command": "kvpress run",
        "session_ids": ["a"],
        "session_scores": [[1.0, 0.5]],
        **changes,
    }
    return Row(**values)  # type: ignore[arg-type]


def test_a_row_comes_back_as_it_was(tmp_path: Path) -> None:
    row = make_row(bytes_by_kind={"codes": 3}, peak_memory=None, score=0.75)
    path = write_row(row, tmp_path)
    assert path == tmp_path / "tiny" / "0123456789ab.json"
    assert load_row(path) == row
    assert load_rows(tmp_path) == [row]
    assert json.loads(path.read_text())["format"] == 1
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_damaged_and_foreign_files_are_no_rows(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "a.json").write_text('{"format": 1, "status"')
    (folder / "b.json").write_text('{"format": 99}')
    (folder / "c.json").write_text("[1]")
    (folder / "d.json").write_text('{"format": 1}')
    (folder / ".x.part").write_text("{")
    assert load_rows(tmp_path) == []
    assert load_row(folder / "none.json") is None
    with pytest.raises(UsageError, match="run the cell again"):
        Row.from_dict({"format": 99})


def test_keys_of_a_later_version_are_dropped() -> None:
    row = make_row()
    assert Row.from_dict({**row.to_dict(), "colour": "red"}) == row


def test_rows_of_before_there_were_amounts_of_bytes_still_load() -> None:
    old = make_row(press="snapkv(keep=0.5)").to_dict()
    del old["asked"], old["target"]
    row = Row.from_dict(old)
    assert (row.asked, row.target) == ("snapkv(keep=0.5)", "")


def test_not_a_number_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_row(make_row(score=float("nan")), tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_failed_write_leaves_the_old_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make_row(score=0.25)
    path = write_row(old, tmp_path)

    def fail(source: object, target: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_row(make_row(score=0.5), tmp_path)
    assert load_row(path) == old
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_killed_while_writing_the_old_row_stays_whole(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from test_harness_rows import make_row\n"
        "from kvpress_eval.rows.row_files import write_row\n"
        "write_row(make_row(score=0.25), Path(sys.argv[1]))\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_row(make_row(score=0.5), Path(sys.argv[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == -signal.SIGKILL
    assert load_rows(tmp_path) == [make_row(score=0.25)]
    left = [path.suffix for path in (tmp_path / "tiny").iterdir()]
    assert sorted(left) == [".json", ".part"], "killed before the second row took its place"


def test_run_ids_depend_on_the_configuration_alone() -> None:
    assert run_id({"b": 1, "a": [1, "x"]}) == run_id({"a": [1, "x"], "b": 1})
    assert run_id({"a": 1}) != run_id({"a": 2})
    assert len(run_id({})) == 12


@pytest.mark.parametrize(
    ("model", "folder"),
    [("tiny", "tiny"), ("org/Name-1.5B", "org--Name-1.5B"), ("/a/b/my model", "my-model"), ("./x/y", "y")],
)
def test_the_folder_of_a_model(model: str, folder: str, tmp_path: Path) -> None:
    assert row_path(tmp_path, model, "r") == tmp_path / folder / "r.json"
