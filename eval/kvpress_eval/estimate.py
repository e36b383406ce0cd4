"""How long cells will take and what their caches will hold, judged by rows that are there."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from statistics import median

from .config import RunConfig
from .rows import Row

__all__ = ["Estimator", "Remaining", "time_text"]

_Kind = tuple[str, str, str, int]


class Estimator:
    """Seconds and bytes of a cell from the finished rows most like it, scaled to its length and sessions.

    Most like it: of the same model; then by task, nearest length, mode and press, in this order. A kind of rows
    counts by its median, so that one slow cell does not spoil it.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._models: dict[str, dict[_Kind, list[float]]] = {}
        self._bytes: dict[tuple[str, str, str], dict[int, list[int]]] = {}
        self._known: dict[tuple[str, _Kind], float] = {}
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Judge by this row too; a failed one says nothing."""
        if row.status != "ok" or row.origin or row.length < 1 or row.sessions < 1:
            return  # what others measured elsewhere says nothing of this machine
        kind = (row.task, row.mode, row.asked, row.length)
        self._models.setdefault(row.model, {}).setdefault(kind, []).append(row.seconds / (row.sessions * row.length))
        self._bytes.setdefault((row.model, row.asked, row.target), {}).setdefault(row.length, []).append(row.bytes)
        self._known.clear()

    def seconds(self, config: RunConfig) -> float | None:
        """Seconds that a cell will take, about; None where no row of its model is there."""
        kinds = self._models.get(config.model)
        if not kinds:
            return None
        kind = (config.task, config.mode, _canonical(config.press), config.length)
        if (config.model, kind) not in self._known:
            near = {other: _distance(kind, other) for other in kinds}
            least = min(near.values())
            self._known[config.model, kind] = median(
                median(units) for other, units in kinds.items() if near[other] == least
            )
        return self._known[config.model, kind] * config.sessions * config.length

    def cache_bytes(self, config: RunConfig) -> float | None:
        """Bytes its cache will hold, about; None without a row of the same model and press."""
        lengths = self._bytes.get((config.model, _canonical(config.press), config.bytes))
        if not lengths:
            return None
        near = min(lengths, key=lambda length: abs(math.log(length / config.length)))
        return median(lengths[near]) * config.length / near

    def total(self, configs: Sequence[RunConfig], jobs: int) -> float | None:
        """Seconds of all cells, ``jobs`` at a time; None where nothing is known of one. No less than the longest."""
        each = [self.seconds(config) for config in configs]
        known = [seconds for seconds in each if seconds is not None]
        return None if len(known) < len(each) else max(sum(known) / jobs, max(known, default=0.0))


class Remaining:
    """Seconds that the rest of a sweep will take, by the cells it has run, or before there is one by older rows.

    Args:
        configs: all cells.
        before: judges by older rows.
        jobs: cells at the same time.
    """

    def __init__(self, configs: Sequence[RunConfig], before: Estimator, jobs: int) -> None:
        self._before, self._own, self._jobs = before, Estimator(), jobs
        self._waiting = dict.fromkeys(configs)
        self._running: dict[RunConfig, float] = {}
        self._rest: tuple[float, float] | None = None  # of what waits: all together, and the longest
        self._told()

    def start(self, config: RunConfig) -> None:
        """A cell begins."""
        self._waiting.pop(config, None)
        self._running[config] = time.monotonic()
        self._told()

    def end(self, config: RunConfig, row: Row, ran: bool) -> None:
        """A cell is done: run here, or found."""
        self._waiting.pop(config, None)
        self._running.pop(config, None)
        if ran:
            self._own.add(row)
        self._told()

    def seconds(self) -> float | None:
        """What is left now; None where there is nothing to judge by."""
        if self._rest is None:
            return None
        now = time.monotonic()
        running = [max(0.0, (self._one(config) or 0.0) - (now - since)) for config, since in self._running.items()]
        return max((self._rest[0] + sum(running)) / self._jobs, self._rest[1], *running)

    def _one(self, config: RunConfig) -> float | None:
        own = self._own.seconds(config)
        return self._before.seconds(config) if own is None else own

    def _told(self) -> None:
        each = [self._one(config) for config in (*self._waiting, *self._running)]
        known = [seconds for seconds in each[: len(self._waiting)] if seconds is not None]
        self._rest = None if None in each else (sum(known), max(known, default=0.0))


@lru_cache(maxsize=4096)
def _canonical(press: str) -> str:
    """A press as rows spell it."""
    from kvpress import Press

    return str(Press.parse(press))


def _distance(kind: _Kind, other: _Kind) -> tuple[bool, float, bool, bool]:
    length = abs(math.log(kind[3] / other[3]))
    return (kind[0] != other[0], round(length, 6), kind[1] != other[1], kind[2] != other[2])


def time_text(seconds: float) -> str:
    """``3:20``, or ``2:05:00`` from an hour on; rounded to whole seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
