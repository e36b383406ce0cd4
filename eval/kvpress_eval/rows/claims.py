"""What a report claims: tables of comparable runs, cells in them, contrasts to the full cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from . import stats
from .measures import Measured
from .parsing import Ignored
from .press_text import keeps_everything, named, solved_range
from .row import Row
from .row_types import AGREEMENT, CORRECTED, GENERATED, REFERENCE, SCBENCH, usual_scorer

NAN = float("nan")


class Table(NamedTuple):
    """What must agree before two scores are compared."""

    model: str
    mode: str
    length: int
    history: str
    rendering: str
    dtype: str
    suite: str = SCBENCH
    source: str = GENERATED
    prompts: str = CORRECTED
    scorer: str = ""
    origin: str = ""
    variant: str = ""

    @property
    def tokens(self) -> str:
        """`1,024 tokens`; importers write 0 where the other harness does not say."""
        return f"{self.length:,} tokens" if self.length else "unknown length"

    @property
    def special(self) -> list[str]:
        """What differs from a usual table of its suite, in words: `source scbench`, `released scorer`."""
        return [
            *([f"source {self.source}"] if self.source != GENERATED else []),
            *([f"{self.prompts} prompts"] if self.prompts != CORRECTED else []),
            *(
                [f"{self.scorer} scorer"]
                if self.scorer not in ("", "imported", AGREEMENT, usual_scorer(self.rendering))
                else []
            ),
            *([f"imported from {self.origin}"] if self.origin else []),
            *([self.variant] if self.variant else []),
        ]


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
    """Paired difference to the full cache, in score fractions; NaN where it cannot be computed.

    `verdict` is that of `stats.verdict`. `retention` is score / score of the full cache on the same sessions, NaN where
    that scores under 20 points. `flips` are counted over the tasks whose scores are all right or wrong, or None.
    """

    diff: stats.Interval
    p: float
    p_holm: float
    detectable: float
    verdict: str
    retention: float
    flips: stats.Flips | None


@dataclass(frozen=True)
class Cell:
    """A method on a task, or on all tasks of its table (then `task` is empty)."""

    table: Table
    method: Method
    task: str
    rows: tuple[Row, ...]
    score: stats.Interval
    contrast: Contrast | None
    by_turn: tuple[float, ...]  # of the tasks with later turns, where there are any
    first: float
    later: float
    later_tasks: tuple[str, ...]  # those with more than one turn: only they are in later and interaction
    interaction: stats.Interval | None  # later - first, minus the same of the full cache; macro
    tasks: int
    tasks_in_table: int
    front: bool = False
    fast_front: bool = False
    measures: Mapping[str, Measured] = field(default_factory=dict)  # what is measured beside the score

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
    def device(self) -> str:
        """Where all its rows ran; empty where they ran on several devices: their times do not compare."""
        devices = {row.device for row in self.rows}
        return devices.pop() if len(devices) == 1 else ""

    def time(self, name: str) -> float:
        """Mean of a time of the rows, tasks weighted equally; NaN where they ran on several devices."""
        return self.mean_of(name) if len({row.device for row in self.rows}) == 1 else NAN

    @property
    def disturbed(self) -> bool:
        """Whether other programs disturbed one of its rows: its times are shown marked, and compared with none."""
        return any(row.quiet is False for row in self.rows)

    @property
    def session_bytes(self) -> int | None:
        """The most that one session's cache took: what a further row of a batch needs."""
        sizes = [row.session_bytes for row in self.rows if row.session_bytes]
        return max(sizes) if len(sizes) == len(self.rows) else None

    def by_subtask(self) -> dict[str, float]:
        """Mean score of every sub-task of a mixed task, the cell's rows counting the same."""
        found: dict[str, list[float]] = defaultdict(list)
        for row in self.rows:
            for name, score in row.by_subtask().items():
                found[name].append(score)
        return {name: float(np.mean(scores)) for name, scores in sorted(found.items())} if self.task else {}

    @property
    def bytes_ratio(self) -> float:
        """Bytes held / bytes of the dense cache: mean over rows within a task, then over tasks."""
        return self.mean_of("bytes_ratio")

    def by_depth(self) -> dict[int, float]:
        """Score by the depth of the evidence, tasks weighted equally; only of tasks that place it at several depths."""
        found: dict[int, list[float]] = defaultdict(list)
        for task in {row.task for row in self.rows}:
            places: dict[int, list[float]] = defaultdict(list)
            for row in self.rows:
                if row.task == task and row.depth is not None:
                    places[row.depth].extend(stats.session_means(row.scores.values()))
            if len(places) > 1:
                for depth, scores in places.items():
                    found[depth].append(float(np.mean(scores)))
        return {depth: float(np.mean(sorted(means))) for depth, means in sorted(found.items())}

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
    superseded: frozenset[str]  # paths of rows that a larger or newer run of the same cell replaces
    contrasts: dict[str, Contrast]  # path of a row -> its own contrast
    scores: dict[str, stats.Interval]
    cells: tuple[Cell, ...]
    measures: Mapping[str, Mapping[str, Measured]]  # path of a row -> what it measures beside its score

    def macros(self, table: Table) -> list[Cell]:
        """Macro cells of a table: full cache first, then by falling bytes, then by score."""
        return [cell for cell in self.cells if cell.table == table and not cell.task]

    @property
    def runs(self) -> list[Row]:
        """The rows, each run once: without the twins that score the same answers in another way."""
        return [row for row in self.rows if not row.twin]

    @property
    def suites(self) -> list[str]:
        """The suites that have rows, SCBench first."""
        return sorted({row.suite for row in self.rows}, key=lambda suite: (suite != SCBENCH, suite))

    def of_suite(self, suite: str) -> Analysis:
        """What is said about one suite."""
        rows = tuple(row for row in self.rows if row.suite == suite)
        cells = tuple(cell for cell in self.cells if cell.table.suite == suite)
        return replace(self, rows=rows, cells=cells)

    @property
    def tables(self) -> list[Table]:
        """All tables that have a score, sorted."""
        return sorted({cell.table for cell in self.cells}, key=table_order)


def table_of(row: Row) -> Table:
    """The table a row belongs to."""
    setting = (row.model, row.mode, row.length, row.history, row.rendering, row.dtype)
    return Table(*setting, row.suite, row.source, row.prompts, row.scorer, row.origin, row.variant)


def run_key(row: Row) -> tuple[Table, str, int, int | None]:
    """What a press and the full cache must share to be paired: the seed and the depth of the evidence too."""
    return (table_of(row), row.task, row.seed, row.depth)


def precedence(row: Row) -> tuple[int, str, str]:
    """Orders runs of the same: the last one counts. A quick run does not replace one of more sessions."""
    return (row.sessions, row.started, row.path)


def method_of(row: Row) -> Method:
    """The method a row measures."""
    full = Method("full", "", "", None)
    return full if row.is_full else Method(row.asked, row.target, row.schedule, row.question_visible)


def table_order(table: Table) -> tuple[object, ...]:
    """How tables follow each other: by model and length, multi-turn before the other modes."""
    t = table
    setting = (t.model, t.dtype, t.length, t.mode != "multi-turn", t.mode, t.history, t.rendering)
    return (
        t.suite != SCBENCH,
        t.suite,
        bool(t.origin),
        *setting,
        t.source,
        t.prompts,
        t.scorer == REFERENCE,
        t.scorer,
        t.origin,
        t.variant,
    )


def dtype_of(table: Table, tables: Iterable[Table]) -> str:
    """Its dtype, where `tables` has its model in several; otherwise empty, because nothing depends on it."""
    return table.dtype if len({other.dtype for other in tables if other.model == table.model}) > 1 else ""
