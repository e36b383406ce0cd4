"""A row measures its own disturbance: what is measured beside another program, and what is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch
from kvpress_eval.cli.printing import row_line
from kvpress_eval.machine import disturbance
from kvpress_eval.machine.disturbance import LIMITS, Disturbance, about, quiet, spread
from kvpress_eval.rows.row import Row

CPU = torch.device("cpu")
linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="binds to a core")


@pytest.fixture
def one_core() -> Iterator[int]:
    """The core that this thread is bound to."""
    before = os.sched_getaffinity(0)
    core = min(before)
    os.sched_setaffinity(0, {core})
    yield core
    os.sched_setaffinity(0, before)


def work(seconds: float, measured: Disturbance) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        measured.probe()


ALONE = """
import json, sys, torch
from kvpress_eval.machine.disturbance import Disturbance
from tests.eval.machine.test_disturbance import work
torch.set_num_threads(1)
measured = Disturbance(torch.device("cpu"))
work(0.4, measured)
print(json.dumps(measured.read()))
"""


@linux
def test_another_program_on_the_same_core_is_seen(one_core: int) -> None:
    """Seen by a process of one thread: a test runner has several, and what each of them waits is added up."""
    bound = {"preexec_fn": lambda: os.sched_setaffinity(0, {one_core}), "stdout": subprocess.PIPE, "text": True}
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    with subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], **bound) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            done = subprocess.run([sys.executable, "-c", ALONE], **bound, env=env, check=True)
        finally:
            other.kill()
    found = json.loads(done.stdout)
    assert found["cpu"] < 0.8, "it took about half of the core"
    assert found["switches"] > 1
    if "waited" in found:  # else the kernel keeps no such count
        assert 0.2 < found["waited"] < 1.2
        assert found["waited"] + found["cpu"] == pytest.approx(1, abs=0.25), "either it computes or it waits"
    assert quiet(found) is False


@linux
def test_sleeping_is_no_disturbance(one_core: int) -> None:
    measured = Disturbance(CPU)
    measured.probe()
    time.sleep(0.3)
    found = measured.read()
    assert found["cpu"] < 0.5
    if "waited" in found:
        assert found["waited"] < 0.1


def test_each_measure_is_judged_by_its_limit() -> None:
    calm = {"waited": 0.0, "stolen": 0.01, "slowed": 0.05, "switches": 900.0, "cpu": 0.2, "spread": 3.0}
    assert quiet(calm) is True
    for name, most in LIMITS.items():
        assert quiet({**calm, name: most}) is True
        assert quiet({**calm, name: most + 0.01}) is False
    unknown = {name: value for name, value in calm.items() if name != "waited"}
    assert quiet(unknown) is False, "without the kernel's count, the CPU time is judged"
    assert quiet({**unknown, "cpu": 0.97}) is True
    assert quiet({}) is quiet({"switches": 1.0}) is None


def test_what_disturbed_is_said_in_words() -> None:
    found = {"waited": 0.31, "stolen": 0.0, "slowed": 0.02, "cpu": 0.6}
    assert about(found) == "threads waited 0.31 s for a core in every second"
    assert about({"cpu": 0.5, "slowed": 0.4}).endswith("it got 0.50 s of CPU in every second")


def test_the_spread_of_repeats_is_that_of_their_middle_half() -> None:
    assert spread([1.0, 2.0, 3.0]) is None
    assert spread([4.0, 1.0, 2.0, 3.0, 100.0]) == pytest.approx((4 - 2) / 3, abs=1e-4)


def test_the_probe_runs_often_enough_and_its_first_run_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([9.0, 9.0, 1.0, 1.0, 1.0, 9.0, 2.0, 2.0, 1.5])
    monkeypatch.setattr(Disturbance, "_run", lambda self: next(times))
    measured = Disturbance(CPU, repeats=2)
    measured.probe()
    measured.probe()
    assert measured.read()["slowed"] == pytest.approx(1.25 / 1 - 1)


def test_a_platform_that_tells_nothing_is_judged_by_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disturbance, "_waited", lambda: None)
    monkeypatch.setattr(disturbance, "_stolen", lambda: None)
    measured = Disturbance(CPU)
    measured.probe()
    assert set(measured.read()) == {"switches", "cpu", "slowed"}


def test_a_line_of_a_sweep_marks_the_time() -> None:
    row = Row(status="ok", model="m", press="full", task="kv", mode="multi-turn", length=64, seconds=1.5)
    assert "1.5 s " in row_line(row, True)
    row.quiet = False
    assert "1.5 s\u2021" in row_line(row, True)
