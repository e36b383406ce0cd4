"""How long cells will take and what their caches will hold, judged by rows that are there."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import product
from statistics import median

from ..rows.row import Row
from ..runs.config import RunConfig

__all__ = ["Estimator", "Remaining", "time_text"]

_Kind = tuple[str, str, str, int]
_Group = tuple[str, "str | None", int, "str | None", "str | None"]
"""Model, task, length, mode and press; None stands for any."""


class Estimator:
    """Seconds and bytes of a cell from the finished rows most like it, scaled to its length and sessions.

    Most like it: of the same model; then by task, nearest length, mode and press, in this order. A kind of rows
    counts by its median, so that one slow cell does not spoil it.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._lengths: dict[tuple[str, str | None], set[int]] = {}  # of a model and task, or any
        self._groups: dict[_Group, dict[_Kind, list[float]]] = {}
        self._bytes: dict[tuple[str, str, str], dict[int, list[int]]] = {}
        self._known: dict[tuple[_Group, ...], float] = {}
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Judge by this row too; a failed one says nothing."""
        if not row.measured or row.length < 1 or row.sessions < 1 or row.seconds is None or row.bytes is None:
            return  # what others measured elsewhere says nothing of this machine
        kind = (row.task, row.mode, row.asked, row.length)
        unit = row.seconds / (row.sessions * row.length)
        for task, mode, press in product((row.task, None), (row.mode, None), (row.asked, None)):
            self._lengths.setdefault((row.model, task), set()).add(row.length)
            group = (row.model, task, row.length, mode, press)
            self._groups.setdefault(group, {}).setdefault(kind, []).append(unit)
        self._bytes.setdefault((row.model, row.asked, row.target), {}).setdefault(row.length, []).append(row.bytes)
        self._known.clear()

    def seconds(self, config: RunConfig) -> float | None:
        """Seconds that a cell will take, about; None where no row of its model is there."""
        groups = self._nearest(config)
        if not groups:
            return None
        if groups not in self._known:
            self._known[groups] = median(median(units) for group in groups for units in self._groups[group].values())
        return self._known[groups] * config.sessions * config.length

    def _nearest(self, config: RunConfig) -> tuple[_Group, ...]:
        """What is most like a cell: several groups only where two lengths are equally near."""
        task = config.task if (config.model, config.task) in self._lengths else None
        far = {
            length: round(abs(math.log(config.length / length)), 6)
            for length in self._lengths.get((config.model, task), ())
        }
        least = min(far.values(), default=0.0)
        near = [length for length, distance in far.items() if distance == least]
        for mode, press in product((config.mode, None), (_canonical(config.press), None)):
            groups = ((config.model, task, length, mode, press) for length in near)
            if found := tuple(group for group in groups if group in self._groups):
                return found
        return ()

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
        self._changed = True

    def start(self, config: RunConfig) -> None:
        """A cell begins."""
        self._waiting.pop(config, None)
        self._running[config] = time.monotonic()
        self._changed = True

    def end(self, config: RunConfig, row: Row, ran: bool) -> None:
        """A cell is done: run here, or found."""
        self._waiting.pop(config, None)
        self._running.pop(config, None)
        if ran:
            self._own.add(row)
        self._changed = True

    def seconds(self) -> float | None:
        """What is left now; None where there is nothing to judge by."""
        if self._changed:
            self._rest, self._changed = self._waits(), False
        if self._rest is None:
            return None
        now = time.monotonic()
        running = [max(0.0, (self._one(config) or 0.0) - (now - since)) for config, since in self._running.items()]
        return max((self._rest[0] + sum(running)) / self._jobs, self._rest[1], *running)

    def _one(self, config: RunConfig) -> float | None:
        own = self._own.seconds(config)
        return self._before.seconds(config) if own is None else own

    def _waits(self) -> tuple[float, float] | None:
        each = [self._one(config) for config in (*self._waiting, *self._running)]
        known = [seconds for seconds in each[: len(self._waiting)] if seconds is not None]
        return None if None in each else (sum(known), max(known, default=0.0))


@lru_cache(maxsize=4096)
def _canonical(press: str) -> str:
    """A press as rows spell it."""
    from kvpress import Press

    return str(Press.parse(press))


def time_text(seconds: float) -> str:
    """``3:20``, or ``2:05:00`` from an hour on; rounded to whole seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
