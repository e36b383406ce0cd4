"""How many CPU threads a process computes with, and what they do while they wait.

OpenMP's threads wait by spinning unless they are told otherwise. Where another program wants one of the cores, a
spinning thread keeps the core that the thread it waits for needs: two threads were then 30 times slower than one. A
waiting thread that sleeps costs some microseconds at each wake-up, and hands its core over.

The number of threads depends on the machine and on what was asked, never on its load at the moment: sums are rounded
differently with another number of threads, so that the same command would give other scores on a busy machine.

Imports the standard library only: OpenMP reads its environment when torch is imported, so this must come first.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path, PurePosixPath

__all__ = ["begin", "choose", "cores", "named", "settled", "threads_text", "waiting"]

_SPIN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # any of them is the user's own choice


def cores(root: Path = Path("/")) -> int:
    """Cores this process may use: those it is bound to, and no more than its container is allowed."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(bound, _quota(root))))


def _quota(root: Path) -> float:
    """Cores that the control groups of this process allow, of either version; infinity without a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    found = [math.inf]
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "cpu" not in kinds.split(","):
            continue
        # a group is limited by every group around it; in a container the path may be that of the machine outside
        inside = PurePosixPath(path.lstrip("/"))
        for group in (inside, *inside.parents):
            mounts = [kinds, "cpu", "cpu,cpuacct"] if kinds else ["", "unified"]
            found += [_limit(root / "sys/fs/cgroup" / mount / group) for mount in mounts]
    return min(found)


def _limit(group: Path) -> float:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / name).read_text() for name in names).split()
            if quota != "max" and int(quota) > 0:
                return max(1.0, int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return math.inf


def named() -> int:
    """Threads that ``OMP_NUM_THREADS`` asks for; 0 where it says nothing that can be read."""
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(text) if text.isdigit() else 0


def choose(asked: int = 0, jobs: int = 1) -> int:
    """Threads of each of ``jobs`` processes: those asked for, else ``OMP_NUM_THREADS``, else a share of the cores."""
    return asked or named() or max(1, cores() // jobs)


def waiting() -> dict[str, str]:
    """What must be in the environment before torch is imported, so that waiting threads sleep; nothing where the user
    has said how they should wait.
    """
    return {} if any(name in os.environ for name in _SPIN) else {"OMP_WAIT_POLICY": "PASSIVE"}


def settled(asked: int = 0) -> int:
    """Threads that this process is to compute with; 0: as many as it does now, because torch was imported before and
    its number of threads is somebody's choice already. Before this package's torch is imported.
    """
    return choose(asked) if asked or "torch" not in sys.modules else 0


def begin(settled: int) -> int:
    """Let torch compute with as many threads as were settled; how many it computes with."""
    import torch

    if settled:
        torch.set_num_threads(settled)
    return torch.get_num_threads()


def threads_text(threads: int, jobs: int = 1) -> str:
    """What was chosen, in a line."""
    each = f"{threads} CPU thread{'s' if threads > 1 else ''}"
    cells = "" if jobs == 1 else f" for each of {jobs} cells at a time"
    here = cores()
    return f"{each}{cells}, of {here} core{'s' if here > 1 else ''}"
