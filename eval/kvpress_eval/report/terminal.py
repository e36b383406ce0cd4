"""The summary printed after a sweep, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table as Grid
from rich.text import Text

from ..machine.console import Console
from ..rows.claims import Analysis, Cell, Method, Table, dtype_of
from ..rows.measures import SHOWN, shown
from ..rows.numbers import DISTURBED, NONE, marked, millis, nats, nats_span, percent, points
from ..rows.parsing import unmet
from .gates import Gate, tally
from .measure_changes import Forced, forced, is_forced


def print_analysis(analysis: Analysis, gates: Sequence[Gate], console: Console) -> None:
    """One table per model, length, history, rendering, dtype, modes as columns; then what is wrong."""
    if not analysis.rows:
        console.print("No result rows found.")
    for texts in forced(analysis):
        console.print(Text(f"\n{_setting(texts.table, analysis)}", style="bold"))
        console.print(_forced(texts))
    asked = {cell.table for cell in analysis.cells if not is_forced(cell)}
    for key in dict.fromkeys(t._replace(mode="") for t in analysis.tables if t in asked):
        tables = [table for table in analysis.tables if table._replace(mode="") == key]
        console.print(Text(f"\n{_setting(key, analysis)}", style="bold"))
        console.print(_grid(analysis, tables))
        for name in shown(row for table in tables for cell in analysis.macros(table) for row in cell.rows):
            console.print(_measured(analysis, tables, name))
    _print_problems(analysis, gates, console)


def _setting(key: Table, analysis: Analysis) -> str:
    parts = [key.model, key.tokens, key.history and f"{key.history} history", key.rendering]
    parts += [dtype_of(key, analysis.tables), *key.special, key.suite if len(analysis.suites) > 1 else ""]
    return ", ".join(part for part in parts if part)


def _forced(found: Forced) -> Grid:
    grid = Grid(box=None, pad_edge=False, collapse_padding=True, header_style="dim", caption_justify="left")
    grid.add_column("press", overflow="fold", ratio=1)
    for name in ("bytes/\ndense", "KL", "95 %", "\u0394 NLL", "95 %", "equal\ntokens"):
        grid.add_column(name, justify="right", no_wrap=True)
    for line in found.lines:
        press = Text(line.cell.method.name + ("" if line.complete else "\u2020"))
        if line.cell.table.origin:
            press.append(f" ({line.cell.table.origin})", style="dim")
        change = ["", ""]
        if line.nll is not None:
            diff = line.nll.difference
            change = [nats(diff.mean, sign=True), nats_span(diff.low, diff.high, digits=2)]
        kl = [nats(line.kl.mean), nats_span(line.kl.low, line.kl.high, digits=2)]
        grid.add_row(press, percent(line.cell.bytes_ratio), *kl, *change, percent(line.agree.mean))
    grid.caption = "nats a token, mean over texts; equal tokens: the most likely one is the full cache's"
    if not all(line.complete for line in found.lines):
        grid.caption += "; \u2020 some texts are missing: does not compare"
    return grid


def _grid(analysis: Analysis, tables: Sequence[Table]) -> Grid:
    grid = Grid(box=None, pad_edge=False, collapse_padding=True, header_style="dim", caption_justify="left")
    grid.add_column("press", overflow="fold", ratio=1)
    grid.add_column("bytes/\ndense", justify="right", no_wrap=True)
    for table in tables:
        grid.add_column(table.mode.replace("-", "-\n"), justify="right", no_wrap=True)
        grid.add_column("\u0394\nfull", justify="right", no_wrap=True)
    grid.add_column("first\nturn", justify="right", no_wrap=True)
    grid.add_column("later\nturns", justify="right", no_wrap=True)
    grid.add_column("ms/\ntoken", justify="right", no_wrap=True)
    for (press, note), found in _presses(analysis, tables):
        main = found.get(tables[0]) or next(iter(found.values()))
        scores = [part for table in tables for part in _score(found.get(table))]
        grid.add_row(
            _text(press, note),
            percent(main.bytes_ratio),
            *scores,
            points(main.first),
            points(main.later),
            marked(millis(main.time("tpot_s")), main.disturbed),
        )
    cells = [cell for table in tables for cell in analysis.macros(table)]
    first = f"; first and later turns are those of {tables[0].mode}" if len(tables) > 1 else ""
    if any(0 < len(cell.later_tasks) < cell.tasks for cell in cells):
        first += "; later turns only of tasks that have them"
    if any(cell.disturbed for cell in cells):
        first += f"; {DISTURBED} other programs disturbed this time"
    grid.caption = f"macro mean over tasks, points; * p < 0.05 (Holm); \u2020 not all tasks{first}"
    return grid


def _measured(analysis: Analysis, tables: Sequence[Table], name: str) -> Grid:
    """What is measured beside the score: its mean and the paired difference to the full cache in each mode."""
    measure = SHOWN[name]
    grid = Grid(box=None, pad_edge=False, collapse_padding=True, header_style="dim", caption_justify="left")
    grid.add_column(f"press: {measure.title}", overflow="fold", ratio=1)
    for table in tables:
        grid.add_column(table.mode.replace("-", "-\n"), justify="right", no_wrap=True)
        grid.add_column("\u0394 full\n95 %", justify="right", no_wrap=True)
    for (press, note), found in _presses(analysis, tables):
        values = []
        for table in tables:
            one = found[table].measures.get(name) if table in found else None
            diff = NONE if one is None or one.diff is None else measure.difference(one.diff).replace(" [", "\n[")
            values += [measure.text(one.mean.mean) if one else NONE, diff]
        grid.add_row(_text(press, note), *values)
    grid.caption = f"{measure.about}; mean over tasks, paired by session"
    return grid


def _presses(analysis: Analysis, tables: Sequence[Table]) -> list[tuple[tuple[str, str], dict[Table, Cell]]]:
    """Every press of the tables, with a note on when it fires, and its macro cell in each; in the order shown."""
    cells = {table: {cell.method: cell for cell in analysis.macros(table)} for table in tables}
    presses: dict[tuple[str, str], dict[Table, Cell]] = {}
    for table in tables:
        for method, cell in cells[table].items():
            presses.setdefault(_name(method, cells[table]), {})[table] = cell
    return sorted(presses.items(), key=lambda entry: _order(list(entry[1].values())))


def _text(press: str, note: str) -> Text:
    name = Text(press)
    return name.append(f" {note}", style="dim") if note else name


def _name(method: Method, cells: dict[Method, Cell]) -> tuple[str, str]:
    """The press, and when it fires where the table has it more than once."""
    alone = sum(other.name == method.name for other in cells) == 1
    return method.name, "" if alone else f"({method.schedule})"


def _order(cells: Sequence[Cell]) -> tuple[bool, float, str]:
    ratio = cells[0].bytes_ratio
    return (
        not cells[0].method.is_full,
        -ratio if ratio == ratio else 0.0,
        cells[0].method.name,
    )


def _score(cell: Cell | None) -> tuple[str, str]:
    if cell is None:
        return NONE, NONE
    score = points(cell.score.mean) + ("" if cell.complete else "\u2020")
    if cell.contrast is None:
        return score, NONE
    star = "*" if cell.contrast.p_holm < 0.05 else " "
    return score, points(cell.contrast.diff.mean, sign=True) + star


def _print_problems(analysis: Analysis, gates: Sequence[Gate], console: Console) -> None:
    for (model, _), said in unmet(analysis.rows).items():
        console.print(Text(f"\non {model}, {said[0]}", style="yellow"))
    if failed := sum(row.failed for row in analysis.rows):
        console.print(Text(f"\n{failed} failed runs", style="red"))
    if beyond := sum(row.unreachable for row in analysis.rows):
        console.print(Text(f"\n{beyond} amounts of bytes cannot be reached by their press; the report says why"))
    for item in analysis.ignored:
        console.print(Text(f"ignored {item.path}: {item.reason}", style="yellow"))
    wrong = [gate for gate in gates if gate.failures]
    console.print(f"\nsanity gates: {tally(gates)}")
    for gate in wrong:
        console.print(Text(f"\u2717 {gate.name} ({len(gate.failures)} of {gate.checked})", style="red"))
        for failure in gate.failures[:5]:
            console.print(Text(f"    {failure}"))
