"""`kvpress bench --only sweep` and `--only kills`: what sweeps promise, measured on whole commands.

The first runs one grid with one job and with two, each job with one thread, in turns, and prints the ratio of the
times from start to end of the command. The second kills a sweep several times, resumes it, and compares its rows with
those of a sweep that was left alone.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..rows.row_files import load_rows
from ..sweeps.merge import compared, same_results

__all__ = ["KILLS_GRID", "SPEED_GRID", "Killed", "SpeedUp", "kills", "speed_up"]

SPEED_GRID = """models: [tiny]
presses: [snapkv(keep=0.25), h2o(keep=0.25), kivi(bits=4), "snapkv(keep=0.5) | kivi(bits=4)"]
tasks: [kv, vt, prefix_suffix]
lengths: [1024]
sessions: 5
turns: 3
"""
"""30 cells of one or two seconds."""
KILLS_GRID = """models: [tiny]
presses: [random(keep=0.25), streaming_llm(keep=0.25), snapkv(keep=0.25), h2o(keep=0.25), kivi(bits=4),
  kivi(bits=2), knorm(keep=0.5), tova(keep=0.5), random(keep=0.5), "snapkv(keep=0.5) | kivi(bits=4)"]
tasks: [kv, prefix_suffix, vt, needle, many_shot]
lengths: [300, 400, 512]
sessions: 1
turns: 2
"""
"""330 cells of parts of a second."""


@dataclass(frozen=True)
class SpeedUp:
    """Seconds of a grid with one job and with ``jobs``, the median ratio of rounds, and the cells of it."""

    cells: int
    jobs: int
    one: list[float]
    many: list[float]
    ratio: float


@dataclass(frozen=True)
class Killed:
    """Rows there when a sweep was killed each time, cells of the grid, and what differs from one left alone."""

    cells: int
    rows: list[int]
    differences: list[str]


def speed_up(grid: str, jobs: int, rounds: int, tell: Callable[[int, float], None]) -> SpeedUp:
    """Run ``grid`` (the text of a sweep file) with one job and with ``jobs``, ``rounds`` times in turns.

    ``tell`` hears the jobs and the seconds of each run as it ends.
    """
    times: dict[int, list[float]] = {1: [], jobs: []}
    cells = 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for count in (1, jobs) if number % 2 else (jobs, 1):
                results = Path(folder) / f"{number}-{count}"
                begin = time.perf_counter()
                with _started(grid, results, count) as sweep:
                    code = sweep.wait()
                times[count].append(time.perf_counter() - begin)
                tell(count, times[count][-1])
                cells = len(load_rows(results))
                if code:
                    raise UsageError(f"the sweep with --jobs {count} ended with code {code}; see what it says above")
    ratio = statistics.median(one / many for one, many in zip(times[1], times[jobs], strict=True))
    return SpeedUp(cells, jobs, times[1], times[jobs], ratio)


def kills(grid: str, times: int, jobs: int) -> Killed:
    """Kill a sweep of ``grid`` ``times`` times, by turns its first process alone and all of them at once; resume it."""
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = (Path(folder) / name for name in ("whole", "killed"))
        with _started(grid, whole, jobs) as sweep:
            if sweep.wait():
                raise UsageError("the sweep that is left alone did not end well; see what it says above")
        cells = len(load_rows(whole))
        rows = []
        for number in range(1, times + 1):
            with _started(grid, killed, jobs) as sweep:
                while len(list(killed.glob("*/*.json"))) < cells * number // (times + 1) and sweep.poll() is None:
                    time.sleep(0.01)
                if sweep.poll() is None:  # else somebody else may have its number by now
                    (os.killpg if number % 2 == 0 else os.kill)(sweep.pid, signal.SIGKILL)
                sweep.wait()
            files = list(killed.glob("*/*.json"))
            rows.append(len(load_rows(killed)))
            if rows[-1] != len(files):
                return Killed(cells, rows, [f"{len(files) - rows[-1]} files that are no whole rows after a kill"])
        with _started(grid, killed, jobs) as sweep:
            if sweep.wait():
                raise UsageError("the resumed sweep did not end well; see what it says above")
        left = [f"{path} was left" for path in killed.rglob(".*")]
        assert compared(whole, killed) >= cells
        return Killed(cells, rows, same_results(whole, killed) + left)


@contextmanager
def _started(grid: str, results: Path, jobs: int) -> Iterator[subprocess.Popen[bytes]]:
    """A sweep of its own; it ends with this process's interest in it, also when this process is stopped."""
    sweep = _start(grid, results, jobs)
    try:
        yield sweep
    finally:
        if sweep.poll() is None:
            os.killpg(sweep.pid, signal.SIGKILL)
            sweep.wait()


def _start(grid: str, results: Path, jobs: int) -> subprocess.Popen[bytes]:
    results.mkdir(parents=True, exist_ok=True)
    file = results.parent / "grid.yaml"
    file.write_text(grid)
    words: Sequence[str] = ["sweep", str(file), "--jobs", str(jobs), "--results", str(results)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # a session of its own, so that all its processes can be killed at once
    return subprocess.Popen(
        [sys.executable, "-m", "kvpress_eval", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
