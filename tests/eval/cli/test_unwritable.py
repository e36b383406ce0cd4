"""Places that cannot be written: one line and exit code 2, before any work, and nothing half-written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kvpress_eval.cli import actions, main
from kvpress_eval.errors import StorageError
from kvpress_eval.machine import files
from kvpress_eval.machine.files import check_folder, write_all, write_out
from kvpress_eval.models import bundled as tiny
from kvpress_eval.report import generate

from tests.eval.report import made


def places(folder: Path) -> dict[str, Path]:
    """Folders that cannot be: what they are, by name."""
    file, link = folder / "a-file", folder / "a-link"
    file.write_text("mine")
    link.symlink_to(folder / "nowhere")
    return {
        "file": file,
        "under a file": file / "deep" / "er",
        "link": link,
        "under a link": link / "deep",
        "long": folder / ("x" * 300) / "y",
    }


COMMANDS = {
    "run": ["run", "--results", "PLACE"],
    "sweep": ["sweep", "SWEEP", "--results", "PLACE"],
    "study": ["study", "scbench-findings", "--results", "PLACE"],
    "study --out": ["study", "scbench-findings", "--results", "ROWS", "--report-only", "--out", "PLACE/a.md"],
    "merge": ["merge", "ROWS", "--into", "PLACE"],
    "import": ["import", "nvidia", "ROWS", "--into", "PLACE"],
    "report": ["report", "--results", "ROWS", "--out", "PLACE"],
    "data": ["data", "--task", "kv", "--length", "600", "--sessions", "1", "--out", "PLACE"],
    "show": ["show", "--press", "knorm(keep=0.5)", "--html", "PLACE/a.html"],
    "bench": ["bench", "--output", "PLACE/a.json"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["file", "under a file", "link", "under a link", "long"])
def test_a_place_that_cannot_be_is_one_line(
    command: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "load", lambda *args, **options: pytest.fail("a model is loaded before it is said"))
    monkeypatch.setattr(generate, "read", lambda folder: pytest.fail("rows are read before it is said"))
    (tmp_path / "sweep.yaml").write_text("presses: [full]\n")
    made.write_rows(tmp_path / "rows", [made.make_row("full", "kv")])
    place = places(tmp_path)[kind]
    named = {"SWEEP": str(tmp_path / "sweep.yaml"), "ROWS": str(tmp_path / "rows")}
    before = sorted(tmp_path.rglob("*"))
    words = [named.get(word, word.replace("PLACE", str(place))) for word in COMMANDS[command]]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1 and said.startswith("error: cannot"), said
    assert "Errno" not in said and "Traceback" not in said
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "a-file").read_text() == "mine"


def test_a_folder_that_may_not_be_written_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, how: Path(path) != tmp_path)  # root may write anywhere
    with pytest.raises(StorageError, match=r"may not be written; name a folder with --out") as error:
        check_folder(tmp_path / "a" / "b", "--out")
    assert len(str(error.value)) < 300
    (tmp_path / "a").mkdir()
    check_folder(tmp_path / "a" / "b", "--out")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system of the kernel's own")
@pytest.mark.parametrize("command", ["run", "sweep", "report"])
def test_a_file_system_that_takes_no_folder_is_said_at_once(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, how: True)  # as for root
    (tmp_path / "sweep.yaml").write_text("presses: [full]\n")
    made.write_rows(tmp_path / "rows", [made.make_row("full", "kv")])
    monkeypatch.setattr(generate, "read", lambda folder: pytest.fail("rows are read before it is said"))
    monkeypatch.setattr(tiny, "load", lambda *args, **options: pytest.fail("a model is loaded before it is said"))
    named = {"SWEEP": str(tmp_path / "sweep.yaml"), "ROWS": str(tmp_path / "rows"), "PLACE": "/proc/x/y"}
    assert main([named.get(word, word) for word in COMMANDS[command]]) == 2
    assert "cannot write into /proc/x/y: /proc takes no new folder (" in capsys.readouterr().err


def test_asking_for_a_folder_leaves_nothing(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b", "--out")
    assert list(tmp_path.iterdir()) == []
    check_folder(Path("/dev"), "--html")  # what is there may be no place for folders: /dev/fd/1


def test_a_message_stays_short_for_a_long_path(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(StorageError) as error:
        check_folder(tmp_path.joinpath("f", *["y" * 40] * 20), "--results")
    assert len(str(error.value)) < 300


def test_files_that_belong_together_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        (tmp_path / name).write_text("old")
    (tmp_path / "c").mkdir()

    def contents() -> dict[str, str]:
        return {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()}

    with pytest.raises(StorageError, match="a folder has this name; what is there is kept"):
        write_all([(tmp_path / name, b"new") for name in "abc"])
    assert contents() == {"a": "old", "b": "old"}

    whole, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_all([(tmp_path / name, b"new") for name in "ab"])
    assert contents() == {"a": "old", "b": "old"}
    monkeypatch.undo()
    write_all([(tmp_path / name, b"new") for name in "ab"])
    assert contents() == {"a": "new", "b": "new"}


def test_what_is_no_plain_file_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_out(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "new"
    if Path("/dev/null").is_char_device():
        write_out(Path("/dev/null"), "x")
        assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("spoil", ["folder", "full"])
def test_a_report_is_whole_or_not_there(
    spoil: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, out = tmp_path / "rows", tmp_path / "out"
    made.write_rows(rows, [made.make_row("full", "kv"), made.make_row("full", "ruler_vt", suite="ruler")])
    words = ["report", "--results", str(rows), "--out", str(out)]
    assert main(words) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(before) == {"README.md", "index.html", "ruler.html"}
    made.write_rows(rows, [made.make_row("snapkv(keep=0.25)", "kv")])
    if spoil == "folder":
        (out / "ruler.html").unlink()
        (out / "ruler.html").mkdir()
        del before["ruler.html"]
    else:
        calls: list[int] = []

        def full(handle: int) -> None:
            calls.append(handle)
            if len(calls) == 2:  # README and the page of the new row change; the other page stays as it is
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(files.os, "fsync", full)
    capsys.readouterr()
    assert main(words) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert not list(out.glob(".*"))


def test_what_the_operating_system_refuses_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(options: object) -> int:
        open("/dev/null/deeper")  # noqa: SIM115
        return 0

    monkeypatch.setitem(actions.ACTIONS, "doctor", refuse)
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == "error: cannot use /dev/null/deeper: Not a directory\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_goes_nowhere_is_one_line() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("PYTHONUNBUFFERED", None)  # argparse takes no notice of what it cannot print at once
    for words in (["--help"], ["list", "models"]):
        with open("/dev/full", "w") as full:
            command = [sys.executable, "-m", "kvpress_eval", *words]
            done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
        assert "No space left" in done.stderr
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as left:
            assert left.stdout is not None and left.stderr is not None
            left.stdout.close()  # as `| head` does
            assert left.stderr.read() == b""
            assert left.wait() == 0


def test_a_report_is_read_before_its_folder_is_made(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(StorageError):
        generate.write(made.write_rows(tmp_path / "rows", [made.make_row("full", "kv")]), tmp_path / "f")
