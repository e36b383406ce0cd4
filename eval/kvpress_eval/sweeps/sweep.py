"""A grid of cells. What is already there is not run again, so a sweep can be stopped or killed any time; several
sweeps may work on one folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from ..errors import UsageError
from ..machine.files import check_folder
from ..machine.locks import Locks
from ..rows.answers import finished_row
from ..rows.row import Row
from ..rows.row_files import write_row
from ..runs.config import RunConfig
from .cells import CellQueue, Pending
from .inline import Inline
from .launchers import launcher
from .leftovers import clean_parts
from .work import Died, Done, Launcher, Prepared

__all__ = [
    "Outcome",
    "Watcher",
    "check_presses",
    "finished",
    "run_sweep",
]

POLL = 0.5
"""Seconds between two looks at cells that other sweeps run."""


@dataclass
class Outcome:
    """How many cells were run, found finished, failed, cannot hold the bytes asked for, or run by another sweep
    meanwhile.
    """

    ran: int = 0
    skipped: int = 0
    failed: int = 0
    unreachable: int = 0
    taken: int = 0


@dataclass
class Watcher:
    """What to tell whoever watches. Defaults to silence.

    ``start`` when a cell begins, ``session`` how many of its sessions are done (cells of this process only), ``end``
    when its row is there and whether this sweep ran it, ``waiting`` for how many cells of other sweeps.
    """

    start: Callable[[RunConfig], None] = field(default=lambda config: None)
    session: Callable[[int], None] = field(default=lambda done: None)
    end: Callable[[RunConfig, Row, Path, bool], None] = field(default=lambda config, row, path, ran: None)
    waiting: Callable[[int], None] = field(default=lambda cells: None)


def check_presses(configs: Sequence[RunConfig]) -> None:
    """Parse every press and amount of bytes, before any model is loaded.

    Raises:
        KVPressError: for the first that is wrong.
    """
    from kvpress.recipe import glance

    for text in dict.fromkeys(config.press for config in configs):
        glance.check(text, entered=True)  # what can be seen of it before torch is imported

    from kvpress import Press
    from kvpress.plan.solve import check

    for text, amount in dict.fromkeys((config.press, config.bytes) for config in configs):
        press = Press.parse(text)
        press.ready()
        if amount:
            check(press, amount)


def run_sweep(
    configs: Sequence[RunConfig],
    results: Path,
    force: bool = False,
    watcher: Watcher | None = None,
    jobs: int = 1,
    where: Launcher | None = None,
    strict: bool = False,
) -> Outcome:
    """Run what is missing. A cell that cannot be built, fails, or cannot hold the bytes asked for is a row; the sweep
    goes on.

    Args:
        results: folder of the rows.
        force: run again what is already there.
        jobs: cells that run at the same time, each in a process of its own.
        where: the launcher that runs them, instead of one for ``jobs``; it stays open.
        strict: raise where a cell cannot be built.

    Raises:
        KVPressError: for a press or model that cannot be right, before a cell of that model is run.
        StorageError: where no row can be written, or there is no room for one.
    """
    check_presses(configs)
    check_folder(results, "--results")
    clean_parts(results)
    with Locks() as locks:
        locks.clean(results)
        if where is not None:
            return _Sweep(configs, results, force, watcher or Watcher(), where, locks, strict).run()
        with Inline() if jobs == 1 else launcher("local", jobs) as own:
            return _Sweep(configs, results, force, watcher or Watcher(), own, locks, strict).run()


class _Sweep:
    """One run of a grid: hands cells out, takes rows in."""

    def __init__(
        self,
        configs: Sequence[RunConfig],
        results: Path,
        force: bool,
        watcher: Watcher,
        where: Launcher,
        locks: Locks,
        strict: bool,
    ) -> None:
        self.strict = strict
        self.results, self.force, self.watcher, self.where, self.locks = results, force, watcher, where, locks
        self.queue = CellQueue(configs, results, where.slots, self._begin)
        self.outcome = Outcome()
        self.theirs: list[Pending] = []  # cells that living other sweeps have locked
        self.running: dict[RunConfig, Pending] = {}

    def run(self) -> Outcome:
        while True:
            for done in self.where.run(self.queue.take, self.watcher.session):
                if done.work.kind == "prepare":
                    self._prepared(done)
                else:
                    self._ran(done)
            if not self.theirs:
                return self.outcome
            self._wait()

    def _begin(self, cell: Pending) -> bool:
        """Lock a cell; False where another sweep has it, or had it and has run it."""
        if not self.locks.take(cell.path):
            self.theirs.append(cell)
            return False
        row = cell.changed()
        if row is not None:
            self.locks.release(cell.path)
            self._taken(cell, row)
            return False
        self.running[cell.config] = cell
        self.watcher.start(cell.config)
        return True

    def _prepared(self, done: Done) -> None:
        if isinstance(done.result, Died):
            model = done.work.config.model
            raise UsageError(
                f"cannot load {model} or prepare its cells: {done.result.reason}; see whether `kvpress run --model "
                f"{model}` works, and give a worker more memory or run fewer at a time (--jobs)"
            )
        if isinstance(done.result, Exception):
            raise done.result
        assert isinstance(done.result, Prepared)
        if self.strict and done.result.problems:
            raise done.result.problems[0]
        for cell in self.queue.prepared(done.work, done.result):
            row = None if self.force else finished_row(cell.path)
            if row is not None:
                self.outcome.skipped += 1
                self.watcher.end(cell.config, row, cell.path, False)
            else:
                self.queue.add(cell)

    def _ran(self, done: Done) -> None:
        cell = self.running.pop(done.work.config)
        if isinstance(done.result, Row) and done.result.run_id == cell.row.run_id:
            row = done.result
        elif isinstance(done.result, Row):  # a cluster of unlike nodes
            reason = _unlike(done.result, cell.row)
            row = replace(cell.row, status="failed", error=reason, started=done.result.started)
        else:  # nobody is left who could say more
            reason = done.result.reason if isinstance(done.result, Died) else _line(done.result)
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            row = replace(cell.row, status="failed", error=reason, started=now)
        path = write_row(row, self.results)
        self.locks.release(cell.path)
        self.outcome.ran += 1
        self.outcome.failed += row.status == "failed"
        self.outcome.unreachable += row.status == "unreachable"
        self.watcher.end(cell.config, row, path, True)

    def _taken(self, cell: Pending, row: Row) -> None:
        self.outcome.taken += 1
        self.outcome.failed += row.status == "failed"
        self.outcome.unreachable += row.status == "unreachable"
        self.watcher.end(cell.config, row, cell.path, False)

    def _wait(self) -> None:
        """Until a cell of another sweep has its row, or nobody runs it any more."""
        self.watcher.waiting(len(self.theirs))
        while True:
            rest = []
            for cell in self.theirs:
                if self.locks.held_by_other(cell.path):
                    rest.append(cell)
                else:
                    self.queue.add(cell)  # to be locked, looked at, and run if it was not
            if len(rest) < len(self.theirs):
                self.theirs = rest
                return
            time.sleep(POLL)


def finished(configs: Sequence[RunConfig], rows: Iterable[Row]) -> list[bool]:
    """Which cells have a finished row, judged by their command, without loading a model."""
    there = {row.command for row in rows if row.status == "ok"}
    return [config.command() in there for config in configs]


def _unlike(ran: Row, prepared: Row) -> str:
    """Why a row is not that of the cell as it was prepared."""
    names = ("device", "dtype", "attn", "rendering", "weights", "chat", "press_spec")
    both = ((name, getattr(ran, name), getattr(prepared, name)) for name in names)
    found = [f"{name} {now} where it ran, {then} where it was prepared" for name, now, then in both if now != then]
    return (
        f"not the cell that was prepared: {'; '.join(found) or 'its data differ'}; give every node the same model, "
        "data and version, name device, dtype, attn and chat in the sweep, or ask for the same with --gpus-per-cell"
    )


def _line(error: object) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else 'no reason given'}"
