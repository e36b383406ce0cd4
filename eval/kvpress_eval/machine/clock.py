"""Seconds of work, on the CPU or a GPU."""

from __future__ import annotations

import time

import torch

__all__ = ["Clock"]


class Clock:
    """Seconds since it was made; waits for the device so that they are those of the work, not of its
    launch.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = self._now()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    def seconds(self) -> float:
        """Seconds until now."""
        return self._now() - self._start
