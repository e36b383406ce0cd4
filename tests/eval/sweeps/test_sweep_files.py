"""Locks, leftovers, full disks, estimates, merging and comparing: what needs no model."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from kvpress_eval.cli import main
from kvpress_eval.errors import StorageError, UsageError
from kvpress_eval.machine import files, locks
from kvpress_eval.machine.files import write_whole
from kvpress_eval.machine.locks import Locks, lock_path
from kvpress_eval.machine.processes import Owner
from kvpress_eval.rows.parsing import read_rows
from kvpress_eval.rows.row import Row
from kvpress_eval.rows.row_files import load_rows, write_row
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.sweeps.estimate import Estimator, Remaining, time_text
from kvpress_eval.sweeps.leftovers import clean_parts
from kvpress_eval.sweeps.local_workers import gpus_of
from kvpress_eval.sweeps.merge import merge, same_results

from tests.eval.rows.test_harness_rows import make_row as whole_row

DEAD = 2**22 - 3  # above what Linux gives out by default on a small machine


def make_row(run: str = "0123456789ab", **changes: object) -> Row:
    return whole_row(**{"run_id": run, "length": 500, "started": "2026-01-02T03:04:05+00:00", **changes})


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    row = tmp_path / "tiny" / "abc.json"
    with Locks() as ours, Locks() as theirs:
        assert ours.take(row) and not theirs.take(row)
        assert theirs.held_by_other(row)
        assert lock_path(row).name == ".abc.lock" and load_rows(tmp_path) == [] == read_rows(tmp_path)[1]
        ours.release(row)
        assert theirs.take(row)
        ours.release(row)  # not ours any more
        assert ours.held_by_other(row)
    assert list(row.parent.iterdir()) == []


def other_lock(row: Path, **owner: object) -> Path:
    row.parent.mkdir(exist_ok=True)
    path = lock_path(row)
    path.write_text(json.dumps({"host": files.host(), "pid": DEAD, "born": 0, "token": "other", **owner}))
    return path


def test_a_lock_whose_holder_is_gone_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = tmp_path / "tiny" / "abc.json"
    parent = os.getppid()
    with Locks() as ours:
        other_lock(row, pid=parent)
        assert not ours.take(row), "the process of that number lives"
        other_lock(row, pid=parent, born=1)
        assert ours.take(row), "another process has got the number"
        ours.release(row)
        other_lock(row)
        assert ours.take(row)
        ours.release(row)

        path = other_lock(row, host=files.host().rpartition(".")[0])  # a container of that name: its ids mean nothing
        assert not ours.take(row), "touched a moment ago"
        os.utime(path, (time.time() - locks.OLD - 9,) * 2)
        assert ours.take(row)
        ours.release(row)
        other_lock(row, host="elsewhere")
        assert not ours.take(row)
        monkeypatch.setattr(locks, "PATIENCE", 0.0)  # as long as we have watched it
        assert ours.take(row)
        ours.release(row)
        lock_path(row).write_text("")  # damaged, as after a power cut
        assert ours.take(row)


def test_locks_of_dead_sweeps_are_cleaned(tmp_path: Path) -> None:
    dead, living = tmp_path / "tiny" / "a.json", tmp_path / "tiny" / "b.json"
    other_lock(dead)
    other_lock(living, pid=os.getppid())
    with Locks() as ours:
        ours.clean(tmp_path)
    assert [path.name for path in dead.parent.iterdir()] == [".b.lock"]


def test_a_lock_is_touched_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.02)
    row = tmp_path / "tiny" / "abc.json"
    with Locks() as ours:
        ours.take(row)
        os.utime(lock_path(row), (0, 0))
        until = time.monotonic() + 5
        while lock_path(row).stat().st_mtime < 1 and time.monotonic() < until:
            time.sleep(0.02)
        assert lock_path(row).stat().st_mtime > 1


def test_without_links_locks_are_still_held_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    test_a_lock_is_held_by_one(tmp_path)


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    here = files.host()
    gone = [f".a-{here}-{DEAD}-x1.part", f".b-{here}-{os.getpid()}-x2.part", ".c-elsewhere-7-x3.part", ".old.part"]
    stay = [f".d-{here}-{os.getppid()}-x4.part", ".e-elsewhere-8-x5.part", ".new.part", "row.json"]
    for name in gone + stay:
        (folder / name).write_text("{")
    for name in gone[2:]:
        os.utime(folder / name, (time.time() - 90_000,) * 2)
    assert clean_parts(tmp_path) == len(gone)
    assert sorted(path.name for path in folder.iterdir()) == sorted(stay)


def test_the_folder_is_synced_after_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    whole, move = os.fsync, os.replace

    def fsync(handle: int) -> None:
        order.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        whole(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda *args: order.append("rename") or move(*args))
    write_row(make_row(), tmp_path)
    assert order == ["file", "rename", "folder", "folder"], "the second one names the model's new folder"


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "a.json", "old")

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=r"No space .*; rows already there are whole .* goes on") as error:
        write_whole(tmp_path / "a.json", "new")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_text() == "old"


def test_an_estimate_takes_the_nearest_rows() -> None:
    judge = Estimator()
    asked = RunConfig(task="vt", length=1000, sessions=4, press="knorm( keep=0.5 )")
    assert judge.seconds(asked) is None and judge.cache_bytes(asked) is None
    judge.add(make_row(task="kv", length=1000, seconds=90.0))
    assert judge.seconds(asked) == pytest.approx(4 * 90)
    judge.add(make_row(task="vt", length=500, seconds=3.0))
    assert judge.seconds(asked) == pytest.approx(4 * 2 * 3), "the task before the length"
    for seconds in (5.0, 7.0, 900.0):
        judge.add(make_row(task="vt", length=800, seconds=seconds, bytes=64))
    assert judge.seconds(asked) == pytest.approx(4 * 1000 / 800 * 7), "one slow cell does not count"
    judge.add(make_row(task="vt", length=800, seconds=11.0, press="knorm(keep=0.5)", bytes=80))
    judge.add(make_row(task="vt", length=1000, seconds=1.0, status="failed"))
    assert judge.seconds(asked) == pytest.approx(4 * 1000 / 800 * 11)
    assert judge.cache_bytes(asked) == pytest.approx(100)
    assert judge.cache_bytes(replace(asked, bytes="50%")) is None
    other = replace(asked, model="another")
    assert judge.seconds(other) is None and judge.total([asked, other], 1) is None
    each = judge.seconds(asked)
    assert each is not None
    same = [replace(asked, seed=seed) for seed in range(4)]
    assert judge.total(same, 2) == pytest.approx(2 * each)
    assert judge.total(same, 9) == pytest.approx(each), "no sooner than the longest"


def test_what_is_left_follows_what_was_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    cells = [RunConfig(length=500, sessions=1, seed=seed) for seed in range(4)]
    assert Remaining(cells, Estimator(), 2).seconds() is None
    left = Remaining(cells, Estimator([make_row(seconds=50.0)]), 2)
    assert left.seconds() == pytest.approx(100)
    left.start(cells[0])
    left.start(cells[1])
    now[0] += 10
    assert left.seconds() == pytest.approx(90)
    left.end(cells[0], make_row(seconds=10.0), True)  # faster than it was
    assert left.seconds() == pytest.approx(10)
    left.end(cells[1], make_row(), False)
    left.end(cells[2], make_row(), False)
    assert left.seconds() == pytest.approx(10), "one cell on one of two"
    assert [time_text(s) for s in (0.4, 59.6, 200, 7500)] == ["0:00", "1:00", "3:20", "2:05:00"]


def test_rows_of_other_machines_merge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, into = tmp_path / "a", tmp_path / "b", tmp_path / "into"
    later = "2026-01-02T05:00:00+02:00"  # written later, but earlier on the clock
    write_row(make_row("1" * 12), a)
    write_row(make_row("2" * 12, started="2026-03-01T00:00:00+00:00", score=0.5), a)
    write_row(make_row("3" * 12, status="failed", error="broke", started="2026-09-01T00:00:00+00:00"), a)
    write_row(make_row("2" * 12, score=0.25), b)
    write_row(make_row("3" * 12), b)
    write_row(make_row("1" * 12, started=later, score=0.125), b)
    (b / "tiny" / ("4" * 12 + ".json")).write_text('{"format": 1')
    (b / "tiny" / ("5" * 12 + ".json")).write_text(json.dumps(make_row("6" * 12).to_dict()))
    (b / "tiny" / ".7-x-1-y.part").write_text("{")
    odd = json.loads((a / "tiny" / ("1" * 12 + ".json")).read_text()) | {"run_id": "8" * 12, "of a later version": 1}
    (a / "tiny" / ("8" * 12 + ".json")).write_text(json.dumps(odd))

    assert main(["merge", str(b), str(a), "--into", str(into)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "4 new, 2 replaced, 1 already there or older, 2 not rows" in out
    assert "not valid" in out or "Expecting" in out
    rows = {row.run_id[0]: row for row in load_rows(into)}
    assert set(rows) == set("1238")
    assert (rows["1"].score, rows["2"].score, rows["3"].status) == (0.0, 0.5, "ok")
    for number in "18":
        name = f"tiny/{number * 12}.json"
        assert (into / name).read_bytes() == (a / name).read_bytes()
    again = merge([a, into], into)
    assert (again.new, again.replaced, again.kept) == (0, 0, 8)
    undated = json.loads((a / "tiny" / ("1" * 12 + ".json")).read_text()) | {"started": None}
    (into / "tiny" / ("1" * 12 + ".json")).write_text(json.dumps(undated))
    assert merge([a], into).replaced == 1, "a row without a date is the older one"
    with pytest.raises(UsageError, match="no such folder"):
        merge([tmp_path / "none"], into)


def test_rows_merge_by_copying_their_files(tmp_path: Path) -> None:
    write_row(make_row("1" * 12), tmp_path / "a")
    write_row(make_row("2" * 12, task="vt"), tmp_path / "b")
    write_row(make_row("3" * 12, model="org/other"), tmp_path / "b")
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    for name in "ab":
        shutil.copytree(tmp_path / name, tmp_path / "copied", dirs_exist_ok=True)
    assert len(load_rows(tmp_path / "copied")) == 3
    assert same_results(tmp_path / "copied", tmp_path / "merged") == []


def test_two_folders_are_the_same_but_for_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    write_row(make_row(seconds=1.0, ttft_s=0.5, peak_memory=7, threads=1, commit="x"), a)
    write_row(make_row(seconds=2.0, ttft_s=0.25, peak_memory=8, threads=2, commit="y", started="later"), b)
    assert main(["diff", str(a), str(b)]) == 0
    assert "1 rows are the same" in capsys.readouterr().out
    write_row(make_row(session_scores=[[1.0, 1.0]], bytes=3), b)
    write_row(make_row("9" * 12), b)
    (a / "tiny" / "8.json").write_text("")
    (b / "tiny" / "8.json").write_text("")
    found = same_results(a, b)
    assert len(found) == 3 and found[0].startswith("tiny/0123456789ab.json: bytes, session_scores (bytes is 0 and 3)")
    assert "tiny/8.json" in found[1] and found[2].endswith(f"only in {b}")
    assert main(["diff", str(a), str(b)]) == 1
    assert "3 of 3 rows differ" in capsys.readouterr().out


def test_gpus_are_shared_out() -> None:
    assert gpus_of(2, 1, ["0", "1"]) == ["0", "1"]
    assert gpus_of(3, 0.5, ["4", "7"]) == ["4", "7", "4"]
    assert gpus_of(2, 2, list("01234")) == ["0,1", "2,3"]
    with pytest.raises(UsageError, match="use --jobs 4"):
        gpus_of(5, 0.5, ["4", "7"])
    with pytest.raises(UsageError, match="needs 1 GPUs, here are 0"):
        gpus_of(1, 0.5, [])


def test_an_owner_is_this_process() -> None:
    me = Owner.me()
    assert me.alive() is True and me.pid == os.getpid()
    assert replace(me, pid=DEAD).alive() is False
    assert replace(me, host=socket.gethostname() + "x").alive() is None
