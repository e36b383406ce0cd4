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

    start: Callable[[RunConfig], None] = field(default=lambda config: None)
    session: Callable[[int], None] = field(default=lambda done: None)
    end: Callable[[RunConfig, Row, Path, bool], None] = field(default=lambda config, row, path, ran: None)


def check_presses(configs: Sequence[RunConfig]) -> None:
    """Parse every press and amount of bytes, before any model is loaded.

    Raises:
        KVPressError: for the first that is wrong.
    """
    from kvpress import Press
    from kvpress.solve import check

    for text, amount in dict.fromkeys((config.press, config.bytes) for config in configs):
        press = Press.parse(text)
        press.ready()
        if amount:
            check(press, amount)


def prepare_all(configs: Sequence[RunConfig]) -> Iterator[list[Cell]]:
    """Checked cells, model by model; a model is loaded when its turn comes and freed after it."""

    groups: dict[tuple[str, str, str, str, str], list[RunConfig]] = {}
    for config in configs:
        key = (config.model, config.device, config.dtype, config.attn, config.chat)
        groups.setdefault(key, []).append(config)
    for key, group in groups.items():
        loaded = load(*key)
        # the same press typed in two ways is one cell
        cells = {cell.id: cell for cell in (prepare(config, loaded) for config in group)}
        yield list(cells.values())


def run_sweep(
    configs: Sequence[RunConfig],
    results: Path,
    force: bool = False,
    watcher: Watcher | None = None,
    jobs: int = 1,
) -> Outcome:
    """Run what is missing. A cell that fails, or cannot hold the bytes asked for, is a row; the sweep goes on.

    Args:
        results: folder of the rows.
        force: run again what is already there.
        jobs: cells that run at the same time, each in a process of its own.

    Raises:
        KVPressError: for a press, model or length that cannot be right, before a cell of that model is run.
    """
    outcome, watcher = Outcome(), watcher or Watcher()
    check_presses(configs)
    for cells in prepare_all(configs):
        missing = []
        for cell in cells:
            path = row_path(results, cell.config.model, cell.id)
            row = None if force else load_row(path)
            if row is not None and row.status == "ok":
                outcome.skipped += 1
                watcher.end(cell.config, row, path, False)
            else:
                missing.append(cell)
        for config, row, path in _run(missing, results, watcher, jobs):
            outcome.ran += 1
            outcome.failed += row.status != "ok"
            watcher.end(config, row, path, True)
    return outcome


def _run(cells: Sequence[Cell], results: Path, watcher: Watcher, jobs: int) -> Iterator[tuple[RunConfig, Row, Path]]:
    if jobs > 1 and len(cells) > 1:
        from .parallel import run_parallel

        yield from run_parallel([cell.config for cell in cells], results, jobs, cells[0].loaded.solved)
        return
    for cell in cells:
        watcher.start(cell.config)
        row = run_cell(cell, watcher.session)
        yield cell.config, row, write_row(row, results)


def finished(configs: Sequence[RunConfig], results: Path) -> list[bool]:
    """Which cells have a finished row, judged by their command, without loading a model."""
    there = {row.command for row in load_rows(results) if row.status == "ok"}
    return [config.command() in there for config in configs]
