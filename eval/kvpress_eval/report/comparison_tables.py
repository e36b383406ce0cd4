"""Comparisons of two presses, as tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table as Grid
from rich.text import Text

from ..machine.console import Console
from ..rows.claims import dtype_of
from ..rows.compare import Asked, Comparison
from ..rows.measures import MEASURES
from ..rows.numbers import percent, points, probability, span

__all__ = ["print_comparisons"]


def print_comparisons(found: Sequence[Comparison], first: Asked, second: Asked, console: Console) -> None:
    """One table per model, length and dtype, one line per mode and choice of turns."""
    console.print(Text(f"{first}  minus  {second}", style="bold"))
    whole = {one.table: len(one.tasks) for one in found if one.turns == "all"}
    for key in dict.fromkeys(one.table._replace(mode="") for one in found):
        setting = [key.model, key.tokens, dtype_of(key, [one.table for one in found]), *key.special]
        console.print(Text(", ".join(part for part in setting if part)))
        grid = _grid("mode, turns", ("first", "second", "diff.", "95 %", "p", "bytes/dense"))
        for one in found:
            if one.table._replace(mode="") == key:
                few = len(one.tasks) < whole[one.table]  # tasks of one question have no later turns
                grid.add_row(
                    f"{one.table.mode}, {one.turns}"
                    + (f" ({len(one.tasks)} of {whole[one.table]} tasks)" if few else ""),
                    points(one.scores[0]),
                    points(one.scores[1]),
                    points(one.difference.mean, sign=True),
                    span(one.difference.low, one.difference.high, sign=True),
                    probability(one.p),
                    f"{percent(one.bytes_ratio[0])}, {percent(one.bytes_ratio[1])}",
                )
        console.print(grid)
        here = [one for one in found if one.table._replace(mode="") == key]
        for name in [name for name in MEASURES if any(name in one.measures for one in here)]:
            console.print(_measured(name, here))
    tasks = ", ".join(dict.fromkeys(task for one in found for task in one.tasks))
    console.print(f"mean over {tasks}; paired by session, bootstrap over sessions, p by sign flips", style="dim")
    told = [measure for name, measure in MEASURES.items() if any(name in one.measures for one in found)]
    if told:
        console.print("; ".join(f"{measure.title}: {measure.about}" for measure in told), style="dim")


def _grid(first: str, names: Sequence[str]) -> Grid:
    grid = Grid(box=None, pad_edge=False, collapse_padding=True, header_style="dim")
    grid.add_column(first, no_wrap=True)
    for name in names:
        grid.add_column(name, justify="right", no_wrap=True)
    return grid


def _measured(name: str, found: Sequence[Comparison]) -> Grid:
    """A measure beside the score, a line per mode and choice of turns."""
    measure = MEASURES[name]
    grid = _grid(measure.title, ("first", "second", "diff.", "95 %", "p"))
    for one in found:
        if (change := one.measures.get(name)) is not None:
            grid.add_row(
                f"{one.table.mode}, {one.turns}",
                *map(measure.text, change.means),
                measure.text(change.difference.mean, sign=True),
                measure.span(change.difference, sign=True),
                probability(change.p),
            )
    return grid
