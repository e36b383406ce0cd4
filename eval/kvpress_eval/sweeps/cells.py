"""The cells of a sweep that are still to do, and which of them a worker gets next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..rows.row import Row
from ..rows.row_files import load_row, row_path
from ..runs.config import RunConfig
from ..runs.loaded import Solutions
from .work import ModelKey, Prepared, Work, model_key

__all__ = ["CellQueue", "Pending"]


@dataclass(frozen=True)
class Pending:
    """A checked cell: its row without results, where the row goes, and the date of the file there when looked at."""

    config: RunConfig
    row: Row
    path: Path
    date: int

    def changed(self) -> Row | None:
        """The row of the file, where it was written since this cell was looked at."""
        return None if _date(self.path) == self.date else load_row(self.path)


def _date(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


class CellQueue:
    """Cells by model. A worker goes on with the model it has loaded, and takes over from others when that is done.

    All cells of a model are prepared, in several pieces, before the first of them runs: what is mistyped is known
    before time is spent, and presses that have to be solved for bytes are solved on all workers.

    Args:
        pieces: of the cells of a model.
        begin: asked before a cell is given out; False: it is not to be run now.
    """

    def __init__(
        self, configs: Sequence[RunConfig], results: Path, pieces: int, begin: Callable[[Pending], bool]
    ) -> None:
        self._results, self._begin = results, begin
        groups: dict[ModelKey, list[RunConfig]] = {}
        for config in dict.fromkeys(configs):
            groups.setdefault(model_key(config), []).append(config)
        self._place = {config: number for number, config in enumerate(dict.fromkeys(configs))}
        self._unprepared = {key: deque(_pieces(group, pieces)) for key, group in groups.items()}
        self._missing = {key: len(found) for key, found in self._unprepared.items()}
        self._found: dict[ModelKey, dict[str, Pending]] = {key: {} for key in groups}
        self._solved: dict[ModelKey, Solutions] = {key: {} for key in groups}
        self._ready: dict[ModelKey, deque[Pending]] = {key: deque() for key in groups}

    def take(self, last: RunConfig | None) -> Work | None:
        """The next work for a worker that did ``last`` before."""
        keys = list(self._ready)
        if last is not None:
            keys.remove(model_key(last))
            keys.insert(0, model_key(last))
        unprepared = [key for key in keys if self._unprepared[key]]
        while True:
            ready = sorted((key for key in keys if self._ready[key]), key=lambda key: -len(self._ready[key]))
            if last is not None and keys[0] in unprepared + ready:
                key = keys[0]
            elif unprepared or ready:
                key = (unprepared + ready)[0]
            else:
                return None
            if self._unprepared[key]:
                return Work("prepare", self._unprepared[key].popleft(), self._solved[key])
            cell = self._ready[key].popleft()
            if self._begin(cell):
                return Work("run", (cell.config,), self._solved[key] if cell.config.bytes else {})

    def prepared(self, work: Work, result: Prepared) -> list[Pending]:
        """Take in a prepared piece; all cells of its model, full cache first of its kind, when it was the last one."""
        key = model_key(work.config)
        self._solved[key] = {**self._solved[key], **result.solved}
        for config, row in zip(work.configs, result.rows, strict=True):
            path = row_path(self._results, config.model, row.run_id)
            there = self._found[key].get(row.run_id)
            # the same press typed in two ways is one cell, the one that was typed first
            if there is None or self._place[config] < self._place[there.config]:
                self._found[key][row.run_id] = Pending(config, row, path, _date(path))
        self._missing[key] -= 1
        if self._missing[key]:
            return []
        return sorted(self._found.pop(key).values(), key=lambda cell: self._place[cell.config])

    def add(self, cell: Pending) -> None:
        """A cell to be run."""
        self._ready[model_key(cell.config)].append(cell)


def _pieces(group: Sequence[RunConfig], most: int) -> list[tuple[RunConfig, ...]]:
    """At most ``most`` pieces of about the same size, all cells of a press and an amount of bytes in one;
    in their order, in which the sessions of one task come together.
    """
    kinds: dict[tuple[str, str], list[RunConfig]] = {}
    for config in group:
        kinds.setdefault((config.press, config.bytes), []).append(config)
    pieces: list[list[RunConfig]] = [[] for _ in range(min(most, len(kinds)))]
    for found in kinds.values():
        min(pieces, key=len).extend(found)
    place = {config: number for number, config in enumerate(group)}
    return [tuple(sorted(piece, key=place.__getitem__)) for piece in pieces]
