"""Seconds of work, on the CPU or a GPU."""

from __future__ import annotations

import time

import torch

__all__ = ["Clock"]


class Clock:
    """Seconds since it was made; waits for the GPU so that they are those of the work, not of its
    launch.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._start = self._now()

    def _now(self) -> float:
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)
        return time.perf_counter()

    def seconds(self) -> float:
        """Seconds until now."""
        return self._now() - self._start
