"""What ``kvpress sweep --dry-run`` prints at 80 columns: the cells of a sweep, and those that cannot be built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..machine.console import Console
from ..rows.press_text import named
from ..runs.buildable import Unbuildable
from ..runs.config import RunConfig
from ..sweeps.estimate import Estimator, time_text
from ..sweeps.grid import LARGE
from .printing import bytes_text

__all__ = ["print_plan", "print_too_many", "print_unbuildable"]

_LISTED = 300  # cells that are listed one by one; of more, the presses
_PRESSES = 100  # of more, the first ones
_NAMES = ("press", "time", "cache", "state")
_WIDTH = 9  # of all columns but the press
_DAY = 24 * 60 * 60

# what cells may differ in beside their press: its words in a line, and in the heading of a group
_SETTINGS: tuple[tuple[str, Callable[[RunConfig], str]], ...] = (
    ("model", lambda config: config.model),
    ("task", lambda config: config.task),
    ("mode", lambda config: config.mode),
    ("length", lambda config: f"{config.length} tokens"),
    ("seed", lambda config: f"seed {config.seed}"),
    ("depth", lambda config: "" if config.depth < 0 else f"depth {config.depth} %"),
    ("questions", lambda config: _questions(config)),
)


def _questions(config: RunConfig) -> str:
    if config.continues:
        return f"{config.sessions} passages, {config.forced} tokens forced"
    return f"{config.sessions} x {config.turns or 'all'} question{'' if config.turns == 1 else 's'}"


def print_plan(
    console: Console,
    configs: Sequence[RunConfig],
    there: Sequence[bool],
    judge: Estimator,
    problems: Sequence[Unbuildable],
) -> None:
    """Print the cells with the time and bytes that rows like them suggest: all of them, or each press where many."""
    shared = [text for _, text in _SETTINGS if len({text(config) for config in configs}) == 1]
    own = [text for _, text in _SETTINGS if text not in shared]
    counted = (f"{_cells(len(configs))}, {sum(there)} finished", "bold")
    console.print(Text.assemble(counted, f"; all: {_joined(shared, configs[0])}"))
    bad = {problem.config: "refused" if problem.least is None else "too short" for problem in problems}
    state = {
        config: "finished" if done else bad.get(config, "to run") for config, done in zip(configs, there, strict=True)
    }
    if len(configs) > _LISTED:
        _print_presses(console, configs, state, judge)
        return
    rows = {config: (_press(config), *_about(judge, config, state[config]), state[config]) for config in configs}
    columns = [i for i in range(4) if any(row[i] for row in rows.values())]
    groups = [(heading, list(group)) for heading, group in groupby(configs, key=lambda config: _joined(own, config))]
    console.print(_table([[_NAMES[i] for i in columns]], columns, "bold"))
    for heading, group in groups:
        if all(config in bad for config in group):
            console.print(Text.assemble(f"{heading}: ", (bad[group[0]], "yellow"), f", {_cells(len(group))}"))
            continue
        if heading:
            console.print(heading)
        console.print(_table([[rows[config][i] for i in columns] for config in group], columns))


def _joined(texts: Sequence[Callable[[RunConfig], str]], config: RunConfig) -> str:
    return " · ".join(filter(None, (text(config) for text in texts)))


def _about(judge: Estimator, config: RunConfig, state: str) -> tuple[str, str]:
    seconds, size = judge.seconds(config), judge.cache_bytes(config)
    time = "" if seconds is None or state != "to run" else "< 1 s" if seconds < 1 else time_text(seconds)
    return time, "" if size is None else bytes_text(size)


def _print_presses(
    console: Console, configs: Sequence[RunConfig], state: dict[RunConfig, str], judge: Estimator
) -> None:
    kinds: dict[str, list[RunConfig]] = {}
    for config in configs:
        kinds.setdefault(_press(config), []).append(config)
    rows = [["press", "time", "cells", "to run"]]
    for press, cells in list(kinds.items())[:_PRESSES]:
        left = [config for config in cells if state[config] == "to run"]
        seconds = judge.total(left, 1) if left else None
        rows.append([press, "" if seconds is None else time_text(seconds), str(len(cells)), str(len(left))])
    console.print(_table(rows, range(4)))
    if len(kinds) > _PRESSES:
        console.print(f"  and {len(kinds) - _PRESSES:,} presses more")


def _table(rows: Sequence[Sequence[str]], columns: Sequence[int], style: str = "") -> Padding:
    """Rows of columns that are as wide in every such table."""
    table = Table(box=None, padding=(0, 0, 0, 2), pad_edge=False, expand=True, show_header=False)
    for i in columns:
        if i == 0:
            table.add_column(overflow="fold", ratio=1)
        else:
            table.add_column(justify="left" if i == 3 else "right", width=_WIDTH, overflow="fold")
    for row in rows:
        table.add_row(*row, style=style)
    return Padding(table, (0, 0, 0, 2))


def _press(config: RunConfig) -> str:
    return named(config.press, config.bytes)


def print_unbuildable(console: Console, problems: Sequence[Unbuildable], unknown: Sequence[str]) -> None:
    """Say which cells cannot be built and the least length that each needs."""
    if problems:
        told = (f"{_cells(len(problems))} cannot be built", "yellow")
        console.print(Text.assemble(told, "; each will be a failed row:"))
    for problem, count in _told(problems).items():
        console.print(Padding(f"{problem} ({_cells(count)})", (0, 0, 0, 2)))
    for model in unknown:
        console.print(f"the tokenizer of {model} is not on this machine: what its cells need is estimated")


def _told(problems: Sequence[Unbuildable]) -> dict[str, int]:
    """Each thing to say, and of how many cells."""
    models = len({problem.config.model for problem in problems})
    counts: dict[str, int] = {}
    for problem in problems:
        config = problem.config
        told = f"{config.model}: " if models > 1 else ""
        if problem.least is not None:
            seed = f", seed {config.seed}" if config.seed else ""
            turns = "1 turn" if config.turns == 1 else f"{config.turns} turns"
            told += f"{config.task} at length {config.length}, {turns}{seed}: "
        told += problem.reason
        counts[told] = counts.get(told, 0) + 1
    return counts


def print_too_many(console: Console, count: int) -> None:
    """Say that a sweep is larger than what is run or listed."""
    console.print(f"{count:,} cells", style="bold")
    about = f": more than {LARGE:,}, the most that a sweep runs or lists; even at a second a cell they take "
    about += f"{count / _DAY:,.1f} days. Give it shorter lists, or make several of it."
    console.print(Text.assemble(("warning", "yellow"), about))


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count:,} cells"
