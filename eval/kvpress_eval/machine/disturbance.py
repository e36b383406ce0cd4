"""How much other programs disturbed a measurement: whether its times can be believed.

The kernel counts how long a thread was ready to run and had no core (``/proc/self/task/*/schedstat``), and a
hypervisor how long it held a core back. What neither sees, a core that is slowed by its neighbour, shows in a small
piece of work that is done again and again: it takes longer than it takes at best.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["LIMITS", "Disturbance", "about", "quiet", "spread"]

LIMITS = {"waited": 0.1, "stolen": 0.1, "slowed": 0.25}
"""More than this of any, and the times of a row are marked."""
_LEAST_CPU = 0.9
"""CPU seconds per second, on a CPU: judged only where the kernel does not say how long threads waited."""
_PROBES = 5
_SIZE = 192  # of the probe's matrices: about half a millisecond


class Disturbance:
    """What disturbed this process since it was made. ``probe`` is called now and then meanwhile; it takes about a
    millisecond.

    Args:
        device: where the model computes; the probe runs there.
        repeats: how often ``probe`` will be called; more runs each time where that is seldom.
    """

    def __init__(self, device: torch.device, repeats: int = _PROBES) -> None:
        import torch

        self._device = device
        self._runs = max(1, -(-_PROBES // max(1, repeats)))
        self._matrix = torch.full((_SIZE, _SIZE), 0.5, dtype=torch.float32, device=device)
        self._probes: list[float] = []
        self._run()  # the first one pays for what is done once
        self._start = _Reading()

    def probe(self) -> None:
        """Time the fixed piece of work."""
        self._run()  # what ran before has filled the processor's caches
        self._probes += [self._run() for _ in range(self._runs)]

    def _run(self) -> float:
        import torch

        from .clock import Clock

        clock = Clock(self._device)
        torch.mm(self._matrix, self._matrix)
        return clock.seconds()

    def read(self) -> dict[str, float]:
        """What was measured; what this platform does not tell is left out.

        ``waited``: seconds that threads of this process stood ready without a core, of all threads, per second.
        ``stolen``: seconds that the hypervisor gave to others, per second and thread. ``switches``: how often per
        second a thread was taken off its core. ``cpu``: CPU seconds per second (on a CPU). ``slowed``: by how much the
        probe's median exceeds its fastest run. (A row adds ``spread``: that of its decoding steps over its sessions,
        which may differ in length and are thus not judged.)
        """
        import torch

        now, start = _Reading(), self._start
        wall = max(1e-9, now.wall - start.wall)
        found = {"switches": (now.switches - start.switches) / wall}
        if self._device.type == "cpu":
            found["cpu"] = (now.cpu - start.cpu) / wall
        if now.waited is not None and start.waited is not None:
            found["waited"] = max(0.0, now.waited - start.waited) / wall  # a thread that ended takes its count along
        if now.stolen is not None and start.stolen is not None:
            found["stolen"] = (now.stolen - start.stolen) / wall / torch.get_num_threads()
        if self._probes:
            found["slowed"] = statistics.median(self._probes) / max(1e-9, min(self._probes)) - 1
        return {name: round(value, 4) for name, value in found.items()}


def quiet(found: Mapping[str, float]) -> bool | None:
    """Whether times measured meanwhile can be believed; None where nothing tells."""
    judged = [found[name] <= most for name, most in LIMITS.items() if name in found]
    if "waited" not in found and "cpu" in found:
        judged.append(found["cpu"] >= _LEAST_CPU)
    return all(judged) if judged else None


def about(found: Mapping[str, float]) -> str:
    """What disturbed, in words; only what is beyond its limit, else all that is judged."""
    words = {
        "waited": "threads waited {:.2f} s for a core in every second",
        "stolen": "the hypervisor took {:.0%} of the cores",
        "slowed": "the same work took {:.0%} longer than at best",
    }
    beyond = {name: found[name] for name in words if found.get(name, 0.0) > LIMITS[name]}
    told = [words[name].format(found[name]) for name in beyond or words if name in found]
    if "waited" not in found and found.get("cpu", 1.0) < _LEAST_CPU:
        told.append(f"it got {found['cpu']:.2f} s of CPU in every second")
    return "; ".join(told)


def spread(seconds: Sequence[float]) -> float | None:
    """How far repeats of a timed step lie apart: the middle half of them, over their median. None for under four."""
    if len(seconds) < 4:
        return None
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return round((high - low) / max(1e-12, middle), 4)


class _Reading:
    """What the clocks and counters of this process say now."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        self.waited, self.stolen, self.switches = _waited(), _stolen(), _switches()


def _waited() -> float | None:
    try:
        texts = [Path(entry.path, "schedstat").read_text() for entry in os.scandir("/proc/self/task")]
        return sum(int(text.split()[1]) for text in texts) / 1e9
    except (OSError, ValueError, IndexError):  # not Linux, a kernel without it, or a thread that just ended
        return None


def _stolen() -> float | None:
    try:
        first = Path("/proc/stat").read_text().splitlines()[0].split()
        return int(first[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def _switches() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
