"""Two presses on the same sessions: paired differences with intervals, by mode and by turn; and of the measures that
both have beside the score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kvpress.errors import nearest, short

from ..errors import UsageError
from . import stats
from .amounts import amount, falling
from .analysis import superseded
from .claims import Table, precedence, run_key, table_order
from .measures import MEASURES
from .paired_sessions import Shift, paired, shift
from .press_text import named
from .row import Row

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
    measures: Mapping[str, Shift]  # beside the score, where both have them in every task


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
        """Its finished rows, the one that counts last.

        Raises UsageError where there is none: it names those that are there, or what failed.
        """
        mine = [row for row in rows if self.has(row) and (not tasks or row.task in tasks)]
        if finished := [row for row in mine if row.ok]:
            return sorted(finished, key=precedence)
        if mine:
            raise UsageError(f"no finished row of {self}: {mine[0].error}")
        targets = sorted({row.target for row in rows if row.ok and row.asked == self.press and row.target}, key=falling)
        if targets:
            raise UsageError(f"no finished row of {self}; it was solved for --bytes {' or '.join(targets)}")
        known = sorted({named(row.asked, row.target) for row in rows if row.ok})
        if not known:
            raise UsageError(f"no finished row of {short(self)}; there is none of any press")
        listed = ", ".join(known)
        told = f"there are: {listed}" if len(listed) <= 120 else nearest(str(self), known, "kvpress report")
        raise UsageError(f"no finished row of {short(self)}; {told}")


def spelled(text: str, rows: Sequence[Row]) -> str:
    """A press as rows spell it. One that a row spells like this needs no parsing, and thus no torch."""
    if any(text in (row.press, row.asked) for row in rows):
        return text
    from kvpress.recipe import glance

    glance.check(text)

    from kvpress import Press

    return str(Press.parse(text))


def compare(rows: Sequence[Row], first: Asked, second: Asked, tasks: Sequence[str] = ()) -> Iterator[Comparison]:
    """Compare two presses over every table both have rows in; tasks: only these.

    Sessions count once, as in a report: of the largest run, of the newest if several are, whatever depth it names.

    Raises UsageError when one of them has no finished row, or they share no session.
    """
    a, b = ({run_key(row): row for row in asked.rows(rows, tasks)} for asked in (first, second))
    old = superseded(a[key] for key in a.keys() & b.keys())
    shared = sorted(
        (key for key in a.keys() & b.keys() if a[key].path not in old),
        key=lambda key: (table_order(key[0]), key[1:3], -1 if key[3] is None else key[3]),
    )
    if not shared:
        raise UsageError(
            f"{first} and {second} were not measured on the same task, mode, length, dtype and seed; run both with the "
            "same --model, --task, --mode, --length, --dtype and --seed"
        )
    found = 0
    for table in dict.fromkeys(key[0] for key in shared):
        pairs = [(a[key], b[key]) for key in shared if key[0] == table]
        for turns, part in TURNS.items():
            if turns != "all" and table.mode != "multi-turn":
                continue
            if (one := _compare(table, turns, part, pairs)) is not None:
                found += 1
                yield one
    if not found:
        raise UsageError(f"{first} and {second} share no session; run both with the same sessions and --seed")


def _compare(table: Table, turns: str, part: slice, pairs: Sequence[tuple[Row, Row]]) -> Comparison | None:
    """None where no task has a session with such turns on both sides; a task without one is left out."""
    by_task: dict[str, list[tuple[Row, Row]]] = {}
    for pair in pairs:
        by_task.setdefault(pair[0].task, []).append(pair)
    found = {task: mine for task, mine in by_task.items() if paired(mine, part).differences.size}
    tasks = list(found.values())
    score = shift(tasks, "", part)
    if score is None:
        return None

    def ratio(side: int) -> float:
        ratios = [[r for pair in mine if (r := pair[side].bytes_ratio) is not None] for mine in tasks]
        return _mean([_mean(of_task) for of_task in ratios if of_task])

    return Comparison(
        table,
        turns,
        tuple(found),
        score.means,
        (ratio(0), ratio(1)),
        score.difference,
        score.p,
        {name: one for name in MEASURES if (one := shift(tasks, name, part)) is not None},
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
