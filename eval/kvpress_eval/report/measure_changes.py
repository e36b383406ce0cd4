"""Measures beside the score: their means, and their paired changes against the full cache, by session."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..rows import stats
from ..rows.claims import Analysis, Cell, Table, run_key
from ..rows.paired_sessions import Shift, measured, shift
from ..rows.row import Row

__all__ = ["Forced", "ForcedLine", "change", "forced", "is_forced", "mean", "mean_of"]


def mean(rows: Iterable[Row], name: str) -> stats.Interval:
    """Mean of a measure with its interval, tasks weighted equally; no interval and NaN where a task has no value."""
    return stats.bootstrap_interval([measured(group, name) for group in _by_task(rows)])


def mean_of(rows: Iterable[Row], name: str) -> float:
    """The same without its interval, over the tasks that have a value; NaN where none has."""
    means = [values.mean() for group in _by_task(rows) if (values := measured(group, name)).size]
    return float(sum(means) / len(means)) if means else float("nan")


def change(analysis: Analysis, cell: Cell, name: str) -> Shift | None:
    """What a measure of a cell is against the full cache's; None for that itself, or where a row has no pair."""
    full = {row.path: other for row in cell.rows if (other := _full(analysis, row)) is not None}
    if cell.method.is_full or len(full) < len(cell.rows):
        return None
    return shift([[(row, full[row.path]) for row in group] for group in _by_task(cell.rows)], name)


def _by_task(rows: Iterable[Row]) -> list[list[Row]]:
    rows = list(rows)
    return [[row for row in rows if row.task == task] for task in sorted({row.task for row in rows})]


def _full(analysis: Analysis, row: Row) -> Row | None:
    """The full cache's row: of the same harness, or, for an imported one that brings none, of this one."""
    if row.path in analysis.references:
        return analysis.references[row.path]
    key = run_key(row)
    wanted = (key[0]._replace(origin=""), *key[1:])
    found = [other for other in analysis.rows if other.ok and other.is_full and run_key(other) == wanted]
    return max(found, key=lambda other: len(other.scores.keys() & row.scores.keys()), default=None)


@dataclass(frozen=True)
class ForcedLine:
    """A press on forced texts: KL to the full cache, the change of NLL (None for that itself, or unpaired), the share
    of equal most likely tokens, and the KL of each bin. complete: on every text of the table, those of other
    harnesses included; only then does its mean compare.
    """

    cell: Cell
    kl: stats.Interval
    nll: Shift | None
    agree: stats.Interval
    bins: tuple[float, ...]
    complete: bool


@dataclass(frozen=True)
class Forced:
    """The presses of a table whose texts were forced, those of other harnesses beside ours; `bins` are distances from
    the cut, in tokens.
    """

    table: Table
    task: str
    bins: tuple[str, ...]
    lines: tuple[ForcedLine, ...]


def is_forced(cell: Cell) -> bool:
    """Whether nothing was asked: the text that follows was forced."""
    return all(row.forced for row in cell.rows)


def forced(analysis: Analysis, task: str = "") -> list[Forced]:
    """One for each setting with forced texts, for a task or the macro mean over tasks: lines by falling bytes."""
    found: dict[Table, list[Cell]] = {}
    for cell in analysis.cells:
        if cell.task == task and is_forced(cell):
            found.setdefault(cell.table._replace(origin=""), []).append(cell)
    tables = []
    for table, cells in found.items():
        rows = [row for cell in cells for row in cell.rows]
        bins, texts = tuple(_bins(rows)), {row.task for row in rows}
        lines = [
            ForcedLine(
                cell,
                mean(cell.rows, "kl"),
                change(analysis, cell, "nll"),
                cell.score,
                tuple(mean_of(cell.rows, f"kl@{label}") for label in bins),
                {row.task for row in cell.rows} == texts,
            )
            for cell in sorted(cells, key=_order)
        ]
        tables.append(Forced(table, task, bins, tuple(lines)))
    return tables


def _bins(rows: Iterable[Row]) -> list[str]:
    """The bins that rows have, in the order of their distance from the cut: `2-16`."""
    found = {key.partition("@")[2] for row in rows for key in row.measures if key.startswith("kl@")}
    starts = {label: label.partition("-")[0] for label in found}
    return sorted(found, key=lambda label: (int(starts[label]) if starts[label].isdigit() else 0, label))


def _order(cell: Cell) -> tuple[object, ...]:
    size = cell.bytes_ratio
    return (not cell.method.is_full, size != size, -size if size == size else 0.0, cell.method[:3], cell.table.origin)
