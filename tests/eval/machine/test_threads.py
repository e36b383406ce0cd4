"""How many CPU threads are chosen, what is said of it, and that waiting threads sleep."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kvpress_eval.cli import main
from kvpress_eval.machine import threads
from kvpress_eval.sweeps import fork_server, launch_options
from kvpress_eval.sweeps.inline import Inline
from kvpress_eval.sweeps.launchers import launcher

SPIN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*SPIN, "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # so that what a test leaves there is undone
        monkeypatch.delenv(name)
    return monkeypatch


def machine(root: Path, groups: str, **limits: str) -> Path:
    """A root folder with the control groups of a process; `limits` are files, with `__` for a slash."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in limits.items():
        path = (
            root / "sys/fs/cgroup" / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs_", "cpu.cfs_")
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "limits", "most"),
    [
        ("0::/\n", {}, 7),
        ("0::/a/b\n", {"a__cpu_max": "350000 100000\n", "a__b__cpu_max": "max 100000\n"}, 3),
        ("0::/\n", {"cpu_max": "50000 100000\n"}, 1),
        ("0::/../outside\n", {"cpu_max": "200000 100000\n"}, 2),
        ("4:cpu,cpuacct:/x\n3:memory:/y\n", {"cpu,cpuacct__x__cfs_quota_us": "400000\n"}, 7),  # no period is no limit
        (
            "4:cpu:/x\n0::/\n",
            {"cpu__x__cfs_quota_us": "400000\n", "cpu__x__cfs_period_us": "100000\n", "cpu__cfs_quota_us": "-1\n"},
            4,
        ),
        ("4:cpu:/x\n", {"cpu__cfs_quota_us": "250000\n", "cpu__cfs_period_us": "100000\n"}, 2),
        ("5:memory:/x\n", {"memory__x__cpu_max": "100000 100000\n"}, 7),
        ("0::/\n", {"cpu_max": "nonsense\n"}, 7),
    ],
)
def test_cores_are_those_that_the_container_allows(
    groups: str, limits: dict[str, str], most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)), raising=False)
    assert threads.cores(machine(tmp_path, groups, **limits)) == most


def test_no_control_groups_is_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 8}, raising=False)
    assert threads.cores(tmp_path) == 3


def test_threads_are_asked_for_or_named_or_a_share(unset: pytest.MonkeyPatch) -> None:
    unset.setattr(threads, "cores", lambda: 7)
    assert [threads.choose(jobs=jobs) for jobs in (1, 2, 3, 9)] == [7, 3, 2, 1]
    assert launch_options.worker_threads("local", 2, 0, 0.0) == 3
    unset.setenv("OMP_NUM_THREADS", "5,2")
    assert (threads.choose(), threads.choose(2), threads.choose(jobs=3)) == (5, 2, 5)
    unset.setenv("OMP_NUM_THREADS", "many")
    assert threads.choose() == 7
    assert threads.threads_text(1) == "1 CPU thread, of 7 cores"
    assert threads.threads_text(3, 2) == "3 CPU threads for each of 2 cells at a time, of 7 cores"
    assert threads.settled() == 0, "torch is there: whoever imported it chose"
    assert threads.settled(2) == 2


def test_waiting_threads_sleep_unless_the_user_says_how(unset: pytest.MonkeyPatch) -> None:
    assert main(["list", "models"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    for name in SPIN:
        unset.delenv("OMP_WAIT_POLICY", raising=False)
        unset.setenv(name, "7")
        before = dict(os.environ)
        assert main(["list", "models"]) == 0
        assert dict(os.environ) == before
        unset.delenv(name)
    assert fork_server.thread_variables(3) == {
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def test_the_command_sets_and_says_its_threads(dialect_model: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in (*SPIN, "OMP_NUM_THREADS")}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_DISPLAY_ENV": "true"}
    cell = ["run", "--model", dialect_model, "--length", "300", "--sessions", "1", "--turns", "1"]
    words = [sys.executable, "-m", "kvpress_eval", *cell, "--threads", "1", "--results", str(tmp_path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "1 CPU thread, of " in done.stdout
    # OpenMP itself says what it found when torch brought it in
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr


def test_launchers_say_their_threads(unset: pytest.MonkeyPatch) -> None:
    unset.setattr(threads, "cores", lambda: 6)
    assert Inline().told() == "1 CPU thread, of 6 cores"
    with launcher("local", 2) as where:
        assert where.told() == "3 CPU threads for each of 2 cells at a time, of 6 cores"
