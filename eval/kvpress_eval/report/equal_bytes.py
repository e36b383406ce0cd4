"""Equal bytes: presses that were solved for the same amounts, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..rows.amounts import falling
from ..rows.claims import Analysis, Cell, Method, Table, method_of, run_key, table_of, table_order
from ..rows.numbers import nats, points
from ..rows.row import Row
from .measure_changes import is_forced, mean_of


@dataclass(frozen=True)
class Entry:
    """A press at one amount: its cell, the runs that failed (what cannot be reached), or neither: it was not run."""

    method: Method
    cell: Cell | None
    failed: tuple[Row, ...]
    best: bool = False
    value: float = -math.inf  # what is compared, higher is better
    text: str = ""  # what is shown of it

    @classmethod
    def of(cls, method: Method, cell: Cell | None, failed: Sequence[Row]) -> Entry:
        """By its score; by its divergence from the full cache where texts were forced."""
        if cell is None:
            return cls(method, None, tuple(failed))
        value, text = cell.score.mean, points(cell.score.mean)
        if is_forced(cell):
            value = -mean_of(cell.rows, "kl")
            text = nats(-value)
        return cls(method, cell, tuple(failed), value=value if cell.complete else -math.inf, text=text)

    @property
    def reason(self) -> str:
        """Why it has no score, or not that of every task: the message of the first run that failed."""
        if not self.failed:
            return ""
        tasks = list(dict.fromkeys(row.task for row in self.failed))
        more = f" and {len(tasks) - 1} more" if len(tasks) > 1 else ""
        error = " ".join(self.failed[0].error.split()).removeprefix("BudgetError: ") or "no message"
        return f"on {tasks[0]}{more}: {error}"


@dataclass(frozen=True)
class Line:
    """A press as asked, an entry per amount; `firing` is when it fires, where the matrix has it more than once."""

    asked: str
    firing: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Matrix:
    """The presses of a table on a task ("" = the macro mean): lines from the best at the fewest bytes, amounts fall."""

    table: Table
    task: str
    targets: tuple[str, ...]
    full: Cell | None
    lines: tuple[Line, ...]


def matrices(analysis: Analysis, task: str = "") -> list[Matrix]:
    """One matrix for each table with presses that were solved for an amount of bytes."""
    cells = {(cell.table, cell.method): cell for cell in analysis.cells if cell.task == task}
    finished = {(method_of(row), run_key(row)) for row in analysis.rows if row.ok}
    failed: dict[tuple[Table, Method], list[Row]] = {}
    for row in analysis.rows:
        key = (table_of(row), method_of(row))
        # a run that failed and was done again is not missing
        if not row.ok and task in ("", row.task) and (method_of(row), run_key(row)) not in finished:
            failed.setdefault(key, []).append(row)
    found = []
    for table in sorted({t for t, _ in (*cells, *failed)}, key=table_order):
        known = {m for t, m in (*cells, *failed) if t == table and m.target}
        targets = sorted({method.target for method in known}, key=falling)
        if not targets:
            continue
        lines = []
        for one in sorted({method._replace(target="") for method in known}, key=str):
            wanted = [one._replace(target=target) for target in targets]
            entries = [Entry.of(m, cells.get((table, m)), failed.get((table, m), ())) for m in wanted]
            lines.append(Line(one.asked, _firing(one, known), tuple(entries)))
        full = next((cell for (t, m), cell in cells.items() if t == table and m.is_full), None)
        found.append(Matrix(table, task, tuple(targets), full, tuple(_ranked(lines))))
    return found


def _firing(one: Method, known: set[Method]) -> str:
    if len({method[2:] for method in known if method.asked == one.asked}) == 1:
        return ""
    seen = {True: ", question visible", False: ", question hidden", None: ""}
    return one.schedule + seen[one.question_visible]


def _ranked(lines: Sequence[Line]) -> list[Line]:
    """The lines in order, the best of each column marked: all that print the same."""
    columns = zip(*(line.entries for line in lines), strict=True)
    best = [max(column, key=lambda entry: entry.value) for column in columns]
    marked = [
        replace(
            line,
            entries=tuple(
                replace(entry, best=min(entry.value, top.value) > -math.inf and entry.text == top.text)
                for entry, top in zip(line.entries, best, strict=True)
            ),
        )
        for line in lines
    ]
    return sorted(marked, key=lambda line: ([-entry.value for entry in reversed(line.entries)], line.asked))
