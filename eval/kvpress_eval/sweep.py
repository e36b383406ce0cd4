"""A grid of cells, one after the other; what is already there is not run again, so a sweep can be
stopped any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .config import RunConfig
from .models import load
from .rows import Row, load_row, load_rows, row_path, write_row
from .runner import Cell, prepare, run_cell

__all__ = [
    "Outcome",
    "Watcher",
    "check_presses",
    "finished",
    "prepare_all",
    "run_or_load",
    "run_sweep",
]


@dataclass
class Outcome:
    """How many cells were run, found finished, or failed."""

    ran: int = 0
    skipped: int = 0
    failed: int = 0


@dataclass
class Watcher:
    """What to tell whoever watches. Defaults to silence."""

    start: Callable[[Cell], None] = field(default=lambda cell: None)
    session: Callable[[int], None] = field(default=lambda done: None)
    end: Callable[[Cell, Row, Path, bool], None] = field(default=lambda cell, row, path, ran: None)


def check_presses(configs: Sequence[RunConfig]) -> None:
    """Parse every press, before any model is loaded.

    Raises:
        KVPressError: for the first that is wrong.
    """
    from kvpress import Press

    for text in dict.fromkeys(config.press for config in configs):
        Press.parse(text)


def prepare_all(configs: Sequence[RunConfig]) -> Iterator[list[Cell]]:
    """Checked cells, model by model; a model is loaded when its turn comes and freed after it."""

    groups: dict[tuple[str, ...], list[RunConfig]] = {}
    for config in configs:
        key = (config.model, config.device, config.dtype, config.attn, config.chat)
        groups.setdefault(key, []).append(config)
    for key, group in groups.items():
        loaded = load(*key)
        # the same press typed in two ways is one cell
        cells = {cell.id: cell for cell in (prepare(config, loaded) for config in group)}
        yield list(cells.values())


def run_or_load(cell: Cell, results: Path, force: bool, watcher: Watcher) -> tuple[Row, Path, bool]:
    """The row of a cell, its file, and whether it was run now; failed rows are run again."""
    path = row_path(results, cell.config.model, cell.id)
    row = None if force else load_row(path)
    if row is not None and row.status == "ok":
        return row, path, False
    watcher.start(cell)
    row = run_cell(cell, watcher.session)
    return row, write_row(row, results), True


def run_sweep(
    configs: Sequence[RunConfig], results: Path, force: bool = False, watcher: Watcher | None = None
) -> Outcome:
    """Run what is missing. A cell that fails is a row; the sweep goes on.

    Raises:
        KVPressError: for a press, model or length that cannot be right, before a cell of that model
        is run.
    """
    outcome, watcher = Outcome(), watcher or Watcher()
    check_presses(configs)
    for cells in prepare_all(configs):
        for cell in cells:
            row, path, ran = run_or_load(cell, results, force, watcher)
            outcome.ran += ran
            outcome.skipped += not ran
            outcome.failed += row.status != "ok"
            watcher.end(cell, row, path, ran)
    return outcome


def finished(configs: Sequence[RunConfig], results: Path) -> list[bool]:
    """Which cells have a finished row, judged by their command, without loading a model."""
    there = {row.command for row in load_rows(results) if row.status == "ok"}
    return [config.command() in there for config in configs]
