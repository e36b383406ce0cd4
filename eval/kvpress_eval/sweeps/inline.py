"""Cells in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .work import Done, Launcher, Take

if TYPE_CHECKING:
    from .worker import Worker

__all__ = ["Inline"]


class Inline(Launcher):
    """In this process, one after the other; what kills it kills the sweep."""

    slots = 1

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def run(self, take: Take, tick: Callable[[int], None] | None = None) -> Iterator[Done]:
        from .worker import Worker  # with torch: not before something runs

        self._worker = self._worker or Worker()
        self._worker.tick, last = tick, None
        while (work := take(last)) is not None:
            last = work.config
            yield Done(work, self._worker.do(work))

    def close(self) -> None:
        self._worker = None  # with its model
