"""Two presses on the same sessions: paired differences with intervals, by mode and by turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from . import stats
from .config import amount
from .errors import UsageError
from .page.claims import Table, dtype_of, run_key, table_order
from .page.numbers import percent, points, probability, span
from .page.presses import falling, named
from .page.row import Row

TURNS: Mapping[str, slice] = {"all": slice(None), "first": slice(0, 1), "later": slice(1, None)}


@dataclass(frozen=True)
class Comparison:
    """First minus second in one table: mean over tasks of the paired session differences, score fractions."""

    table: Table
    turns: str
    tasks: tuple[str, ...]
    scores: tuple[float, float]
    bytes_ratio: tuple[float, float]
    difference: stats.Interval
    p: float


@dataclass(frozen=True)
class Asked:
    """A press by its text, or one that was solved for an amount of bytes by the text that was asked and the amount."""

    press: str
    target: str = ""

    @classmethod
    def of(cls, press: str, target: str) -> Asked:
        """The press for an amount, as a user writes it; the full cache is never solved."""
        return cls(press, "" if press == "full" else amount(target))

    def __str__(self) -> str:
        return named(self.press, self.target)

    def has(self, row: Row) -> bool:
        """Whether it is measured by a row."""
        return (row.asked, row.target) == (self.press, self.target) if self.target else row.press == self.press

    def rows(self, rows: Sequence[Row], tasks: Sequence[str]) -> list[Row]:
        """Its finished rows. Raises UsageError where there is none: it names those that are there, or what failed."""
        mine = [row for row in rows if self.has(row) and (not tasks or row.task in tasks)]
        if finished := [row for row in mine if row.ok]:
            return sorted(finished, key=lambda row: row.started)
        if mine:
            raise UsageError(f"no finished row of {self}: {mine[0].error}")
        targets = sorted({row.target for row in rows if row.ok and row.asked == self.press and row.target}, key=falling)
        if targets:
            raise UsageError(f"no finished row of {self}; it was solved for --bytes {' or '.join(targets)}")
        known = sorted({named(row.asked, row.target) for row in rows if row.ok})
        raise UsageError(f"no finished row of {self}; there are: {', '.join(known) or 'none'}")


def compare(rows: Sequence[Row], first: Asked, second: Asked, tasks: Sequence[str] = ()) -> Iterator[Comparison]:
    """Compare two presses over every table both have rows in; tasks: only these.

    Raises UsageError when one of them has no finished row, or they share no session.
    """
    a, b = ({run_key(row): row for row in asked.rows(rows, tasks)} for asked in (first, second))
    shared = sorted(a.keys() & b.keys(), key=lambda key: (table_order(key[0]), key[1:3], key[3] or 0))
    if not shared:
        raise UsageError(f"{first} and {second} were not measured on the same task, mode, length and dtype")
    for table in dict.fromkeys(key[0] for key in shared):
        keys = [key for key in shared if key[0] == table]
        for turns, part in TURNS.items():
            if turns != "all" and table.mode != "multi-turn":
                continue
            yield _compare(table, turns, part, [(a[key], b[key]) for key in keys])


def _compare(table: Table, turns: str, part: slice, pairs: list[tuple[Row, Row]]) -> Comparison:
    by_task: dict[str, list[float]] = {}
    for one, other in pairs:
        mine, theirs = ({name: s[part] for name, s in row.scores.items()} for row in (one, other))
        by_task.setdefault(one.task, []).extend(stats.paired_differences(mine, theirs))
    strata = [values for values in by_task.values() if values]

    def mean(side: int) -> float:
        tasks = {pair[0].task: [] for pair in pairs}  # type: dict[str, list[float]]
        for pair in pairs:
            tasks[pair[0].task].extend(sum(s[part]) / len(s[part]) for s in pair[side].scores.values() if s[part])
        return sum(sum(values) / len(values) for values in tasks.values()) / len(tasks)

    def ratio(side: int) -> float:
        ratios = [ratio for pair in pairs if (ratio := pair[side].bytes_ratio) is not None]
        return sum(ratios) / len(ratios) if ratios else float("nan")

    return Comparison(
        table,
        turns,
        tuple(by_task),
        (mean(0), mean(1)),
        (ratio(0), ratio(1)),
        stats.bootstrap_interval(strata),
        stats.sign_flip_p(strata),
    )


def print_comparisons(found: Sequence[Comparison], first: Asked, second: Asked, console: Console) -> None:
    """One table per model, length and dtype, one line per mode and choice of turns."""
    console.print(Text(f"{first}  minus  {second}", style="bold"))
    for key in dict.fromkeys(one.table._replace(mode="") for one in found):
        setting = [key.model, key.tokens, dtype_of(key, [one.table for one in found]), *key.special]
        console.print(Text(", ".join(part for part in setting if part)))
        grid = Grid(box=None, pad_edge=False, collapse_padding=True, header_style="dim")
        grid.add_column("mode, turns", no_wrap=True)
        for name in ("first", "second", "diff.", "95 %", "p", "bytes/dense"):
            grid.add_column(name, justify="right", no_wrap=True)
        for one in found:
            if one.table._replace(mode="") == key:
                grid.add_row(
                    f"{one.table.mode}, {one.turns}",
                    points(one.scores[0]),
                    points(one.scores[1]),
                    points(one.difference.mean, sign=True),
                    span(one.difference.low, one.difference.high, sign=True),
                    probability(one.p),
                    f"{percent(one.bytes_ratio[0])}, {percent(one.bytes_ratio[1])}",
                )
        console.print(grid)
    tasks = ", ".join(dict.fromkeys(task for one in found for task in one.tasks))
    console.print(f"mean over {tasks}; paired by session, bootstrap over sessions, p by sign flips", style="dim")
