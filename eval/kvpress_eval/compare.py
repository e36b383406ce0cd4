"""Two presses on the same sessions: paired differences with intervals, by mode and by turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from . import stats
from .errors import UsageError
from .page.claims import Table, table_of, table_order
from .page.loading import Row
from .page.numbers import percent, points, probability, span

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


def compare(rows: Sequence[Row], first: str, second: str, tasks: Sequence[str] = ()) -> Iterator[Comparison]:
    """Compare press texts over every table both have rows in; tasks: only these.

    Raises UsageError when one of them has no finished row, or they share no session.
    """
    found: dict[str, dict[tuple[Table, str, int], Row]] = {}
    for press in (first, second):
        mine = [row for row in rows if row.ok and row.press == press and (not tasks or row.task in tasks)]
        if not mine:
            known = ", ".join(sorted({row.press for row in rows if row.ok})) or "none"
            raise UsageError(f"no finished row of {press}; there are: {known}")
        found[press] = {(table_of(row), row.task, row.seed): row for row in sorted(mine, key=lambda row: row.started)}
    a, b = found[first], found[second]
    shared = sorted(a.keys() & b.keys(), key=lambda key: (table_order(key[0]), key[1:]))
    if not shared:
        raise UsageError(f"{first} and {second} were not measured on the same task, mode and length")
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
        return sum(pair[side].bytes_ratio or 0.0 for pair in pairs) / len(pairs)

    return Comparison(
        table,
        turns,
        tuple(by_task),
        (mean(0), mean(1)),
        (ratio(0), ratio(1)),
        stats.bootstrap_interval(strata),
        stats.sign_flip_p(strata),
    )


def print_comparisons(found: Sequence[Comparison], first: str, second: str, console: Console) -> None:
    """One table per model and length, one line per mode and choice of turns."""
    console.print(Text(f"{first}  minus  {second}", style="bold"))
    for model, length in dict.fromkeys((one.table.model, one.table.length) for one in found):
        console.print(Text(f"{model}, {length:,} tokens"))
        grid = Grid(box=None, pad_edge=False, collapse_padding=True, header_style="dim")
        grid.add_column("mode, turns", no_wrap=True)
        for name in ("first", "second", "diff.", "95 %", "p", "bytes/dense"):
            grid.add_column(name, justify="right", no_wrap=True)
        for one in found:
            if (one.table.model, one.table.length) == (model, length):
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
