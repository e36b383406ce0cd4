"""What a report claims: tables of comparable runs, cells in them, contrasts to the full cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .. import stats
from .loading import Ignored, Row
from .presses import keeps_everything, named, solved_range

NAN = float("nan")


class Table(NamedTuple):
    """What must agree before two scores are compared."""

    model: str
    mode: str
    length: int
    history: str
    rendering: str
    dtype: str


class Method(NamedTuple):
    """A press as asked, for how many bytes ("" = without), and when it fires; the full cache never does, so its
    schedule is left out. A press solved for its bytes is one method, whatever value each task's length gave.
    """

    asked: str
    target: str
    schedule: str
    question_visible: bool | None

    @property
    def is_full(self) -> bool:
        """Whether this is the full-cache baseline."""
        return self.asked == "full"

    @property
    def name(self) -> str:
        """`snapkv | kivi(bits=4) at 12.5 %`."""
        return named(self.asked, self.target)


@dataclass(frozen=True)
class Contrast:
    """Paired difference to the full cache, in score fractions; NaN where it cannot be computed."""

    diff: stats.Interval
    p: float
    p_holm: float
    detectable: float


@dataclass(frozen=True)
class Cell:
    """A method on a task, or on all tasks of its table (then `task` is empty)."""

    table: Table
    method: Method
    task: str
    rows: tuple[Row, ...]
    score: stats.Interval
    contrast: Contrast | None
    by_turn: tuple[float, ...]
    first: float
    later: float
    interaction: stats.Interval | None  # later - first, minus the same of the full cache; macro
    tasks: int
    tasks_in_table: int
    front: bool = False

    @property
    def complete(self) -> bool:
        """Whether the macro mean covers every task of its table; only then is it comparable."""
        return self.tasks == self.tasks_in_table

    @property
    def control(self) -> bool:
        """Whether it is a press that keeps everything, which must equal the full cache."""
        return not self.method.is_full and all(keeps_everything(row.press) for row in self.rows)

    @property
    def solved(self) -> str:
        """The values found for its bytes: `keep 0.381 to 0.402`; empty for a press that was not solved."""
        return solved_range([(row.asked, row.press) for row in self.rows if row.target])

    @property
    def bytes_ratio(self) -> float:
        """Bytes held / bytes of the dense cache: mean over rows within a task, then over tasks."""
        return self.mean_of("bytes_ratio")

    def mean_of(self, name: str) -> float:
        """Mean of a numeric field of the rows, tasks weighted equally; NaN when no row has it."""
        by_task: dict[str, list[float]] = defaultdict(list)
        for row in self.rows:
            if getattr(row, name) is not None:
                by_task[row.task].append(getattr(row, name))
        return float(np.mean([np.mean(v) for v in by_task.values()])) if by_task else NAN


@dataclass(frozen=True)
class Analysis:
    """Everything the three renderings need, in a fixed order."""

    rows: tuple[Row, ...]
    ignored: tuple[Ignored, ...]
    references: dict[str, Row]  # path of a row -> its full-cache row
    superseded: frozenset[str]  # paths of rows that a newer run of the same cell replaces
    contrasts: dict[str, Contrast]  # path of a row -> its own contrast
    scores: dict[str, stats.Interval]
    cells: tuple[Cell, ...]

    def macros(self, table: Table) -> list[Cell]:
        """Macro cells of a table: full cache first, then by falling bytes, then by score."""
        return [cell for cell in self.cells if cell.table == table and not cell.task]

    @property
    def tables(self) -> list[Table]:
        """All tables that have a score, sorted."""
        return sorted({cell.table for cell in self.cells}, key=table_order)


def table_of(row: Row) -> Table:
    """The table a row belongs to."""
    return Table(row.model, row.mode, row.length, row.history, row.rendering, row.dtype)


def method_of(row: Row) -> Method:
    """The method a row measures."""
    full = Method("full", "", "", None)
    return full if row.is_full else Method(row.asked, row.target, row.schedule, row.question_visible)


def table_order(table: Table) -> tuple[object, ...]:
    """How tables follow each other: by model and length, multi-turn before the other modes."""
    model, mode, length, history, rendering, dtype = table
    return (model, dtype, length, mode != "multi-turn", mode, history, rendering)


def dtype_of(table: Table, tables: Iterable[Table]) -> str:
    """Its dtype, where `tables` has its model in several; otherwise empty, because nothing depends on it."""
    return table.dtype if len({other.dtype for other in tables if other.model == table.model}) > 1 else ""
