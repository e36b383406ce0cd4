"""The generated README: what a reader sees on a code host without opening the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..rows.amounts import spaced
from ..rows.claims import Analysis, Cell, Table, dtype_of, method_of, table_order
from ..rows.measures import SHOWN, shown
from ..rows.numbers import (
    DISTURBED,
    MINUS,
    NONE,
    fixed,
    marked,
    millis,
    nats,
    nats_span,
    percent,
    points,
    probability,
    span,
)
from ..rows.parsing import unmet
from ..rows.row import Row
from ..rows.stats import Flips, Interval
from .equal_bytes import Entry, Matrix, matrices
from .gates import Gate, tally
from .legend import FORCED_TOLD, HOW_TO_READ
from .measure_changes import Forced, ForcedLine, forced, is_forced
from .suite_names import pages, title

_HEAD = (
    *("press", "bytes/dense", "score [95 %]", "\u0394 full [95 %]", "p", "verdict", "detects", "retained", "flips"),
    *("first", "later", "turn effect [95 %]", "TTFT s", "press s", "ms/token", "batch in 1 GiB", "n"),
)
GIB = 1 << 30
_BATCH = _HEAD.index("batch in 1 GiB")
_MEASURES = _HEAD.index("first")  # what is measured beside the score stands before it


def render_markdown(analysis: Analysis, gates: Sequence[Gate]) -> str:
    """The whole README."""
    names = pages(analysis.suites)
    links = ", ".join(f"[{text(title(suite))}]({name})" for suite, name in names.items())
    one = len(names) == 1
    told = f"The page [`index.html`]({names[next(iter(names))]}) has" if one else f"The pages ({links}) have"
    continued = forced(analysis)
    how = HOW_TO_READ.replace("{pages}", told).replace("{opens}", "opens" if one else "open")
    how += FORCED_TOLD if continued else ""
    parts = ["# Results", _counts(analysis), how, "## Sanity gates", _gates(gates)]
    equal = matrices(analysis)
    by_table = {found.table: found for found in continued}
    beside = {line.cell.table for found in by_table.values() for line in found.lines} - by_table.keys()
    tables = sorted({*analysis.tables, *by_table} - beside, key=table_order)  # ours may hold imported lines alone
    for suite, model in dict.fromkeys((table.suite, table.model) for table in tables):
        notes = sorted({r.model_note for r in analysis.rows if r.model == model and r.model_note})
        parts += [f"## {text(title(suite))}: {text(model)}" if len(names) > 1 else f"## {text(model)}"]
        parts += [f"{text(note)}." for note in notes]
        for table in tables:
            if (table.suite, table.model) == (suite, model):
                body = _forced(by_table[table]) if table in by_table else _table(analysis, table)
                parts += [f"### {_title(table, analysis.tables)}", body]
                parts += [_equal(matrix) for matrix in equal if matrix.table == table]
                parts += [_subtasks(analysis, table), _depths(analysis, table)]
    parts += [
        _premises(analysis.rows),
        _kept_all(analysis.rows),
        "## Failed cells",
        _failed([row for row in analysis.rows if row.failed]),
        "## Amounts that cannot be reached",
        "A press asked to hold an amount of bytes that no value of its free parameter gives. Not failures: answers.",
        _failed([row for row in analysis.rows if row.unreachable]),
        "## Files that are not rows",
        _ignored(analysis),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def text(value: str) -> str:
    """Plain text in Markdown: nothing in it is markup, a link or HTML, and it stays on one line."""
    line = re.sub(r"([\\`*_{}\[\]()<>#+!|~$&@:])", r"\\\1", " ".join(value.split()))
    return re.sub(r"^(\d*)([-=.])", r"\1\\\2", line)  # a list, a rule, or the underline of a heading


def code(value: str) -> str:
    """A code span, whatever backticks the value has."""
    value = " ".join(value.split()) or " "
    fence = "`" * (max((len(run) for run in re.findall(r"`+", value)), default=0) + 1)
    pad = " " if value.startswith("`") or value.endswith("`") else ""
    return f"{fence}{pad}{value}{pad}{fence}"


def markdown_table(head: Sequence[str], right_from: int, lines: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown: `text`, `code`, or both; the columns from `right_from` on to the right."""
    rule = ["---" if i < right_from else "---:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(map(_bars_escaped, cells))} |" for cells in (head, rule, *lines))


def _bars_escaped(cell: str) -> str:
    """A bar ends a cell even in a code span; outside of spans `text` has escaped it, where a backslash may escape one
    of the backticks that begin a span.
    """
    return re.sub(r"\\.|(`+).*?[^`]\1(?!`)", lambda m: m[0].replace("|", r"\|") if m[1] else m[0], cell)


def _counts(analysis: Analysis) -> str:
    runs = analysis.runs
    counted = {"ok": "ok", "failed": "failed", "unreachable": "cannot hold the bytes asked for"}
    found = [(sum(row.status == status for row in runs), words) for status, words in counted.items()]
    states = ", ".join(f"{count} {words}" for count, words in found if count or words == "ok")
    presses = len({method_of(row)[:2] for row in analysis.rows})
    tasks = len({row.task for row in analysis.rows})
    return f"{len(runs)} rows ({states}): {presses} presses, {tasks} tasks, {len({row.model for row in runs})} models."


def _title(table: Table, tables: Sequence[Table]) -> str:
    parts = [table.tokens, table.mode, table.history and f"{table.history} history"]
    return ", ".join(text(part) for part in [*parts, table.rendering, dtype_of(table, tables), *table.special] if part)


def _gates(gates: Sequence[Gate]) -> str:
    marks = {"pass": "\u2713 pass", "fail": "**\u2717 fail**", "not checked": "\u2013 not checked"}
    lines = [
        [
            marks[gate.verdict],
            f"{gate.name}: {gate.claim}",
            f"{gate.checked:,}",
            f"{len(gate.failures):,}",
        ]
        for gate in gates
    ]
    found = [f"- {gate.name}: {text(failure)}" for gate in gates for failure in gate.failures[:20]]
    more = [f"- {gate.name}: {len(gate.failures) - 20} more" for gate in gates if len(gate.failures) > 20]
    notes = [f"- {gate.name}: {gate.note}." for gate in gates if gate.note]
    grid = markdown_table(("verdict", "gate", "checked", "failures"), 2, lines)
    return "\n\n".join(filter(None, (f"{tally(gates)}.", grid, "\n".join(found + more + notes))))


def _table(analysis: Analysis, table: Table) -> str:
    macros = analysis.macros(table)
    tasks = sorted({row.task for cell in macros for row in cell.rows})
    lines = [list(_HEAD), *(_line(cell, macros) for cell in macros)]
    if not any(cell.session_bytes for cell in macros):  # rows of before do not say it
        lines = [line[:_BATCH] + line[_BATCH + 1 :] for line in lines]
    for name in reversed(shown(row for cell in macros for row in cell.rows)):  # nor these
        title = SHOWN[name].title
        beside = [[title, f"\u0394 {title} [95 %]"], *(_measured(cell, name) for cell in macros)]
        lines = [line[:_MEASURES] + more + line[_MEASURES:] for line, more in zip(lines, beside, strict=True)]
    grid = markdown_table(lines[0], 1, lines[1:])
    full = [cell for cell in macros if cell.method.is_full]
    where = sorted({f"{r.device} {r.dtype}".strip() for cell in macros for r in cell.rows})
    about = [
        f"Tasks: {', '.join(map(text, tasks))}.",
        f"Imported from {text(table.origin)}: not measured by this harness."
        if table.origin
        else f"Measured on {', '.join(map(text, where)) or 'an unknown device'}.",
    ]
    found = sorted(
        c.contrast.detectable for c in macros if c.contrast and c.contrast.detectable == c.contrast.detectable
    )
    if found:
        about.append(
            f"Detects differences of {points(found[0])} to {points(found[-1])} points, depending on the press."
        )
    chance = full[0].mean_of("chance") if full else float("nan")
    if chance == chance:
        about.append(f"Guessing scores {points(chance)}.")
    later = {task for cell in macros for task in cell.later_tasks}
    if table.mode != "multi-request" and later and later != set(tasks):
        short = ", ".join(text(task) for task in tasks if task not in later)
        about.append(f"later and turn effect: {len(later)} of {len(tasks)} tasks, without {short} (one question).")
    if len(where) > 1:
        about.append("Times from different devices do not compare.")
    if any(cell.disturbed for cell in macros):
        about.append(f"{DISTURBED} Other programs disturbed this time: it compares with no other.")
    if any(row.quiet is None and row.tpot_s for cell in macros for row in cell.rows):
        about.append("How quiet the machine was is not known of all times.")
    if any(not cell.complete for cell in macros):
        about.append("\u2020 Some tasks are missing: the score does not compare with the others.")
    few = min((row.sessions for cell in macros for row in cell.rows), default=0)
    if few < 10:
        about.append(f"With {few} sessions in a task the intervals are narrower than they should be.")
    return f"{' '.join(about)}\n\n{grid}"


def _line(cell: Cell, macros: Sequence[Cell]) -> list[str]:
    contrast = cell.contrast
    name = _name(cell.method.asked, cell.method.target) + (f" ({text(cell.solved)})" if cell.solved else "")
    name += " \u25c6" if cell.front else ""
    if sum(other.method.name == cell.method.name for other in macros) > 1:
        seen = {True: ", question visible", False: ", question hidden", None: ""}
        name += f" ({text(cell.method.schedule)}{seen[cell.method.question_visible]})"
    score = f"{points(cell.score.mean)} {span(cell.score.low, cell.score.high)}".strip()
    if not cell.complete:
        score += f" \u2020 {cell.tasks} of {cell.tasks_in_table} tasks"
    tpot = cell.time("tpot_s")
    ordered = cell.table.mode != "multi-request"  # there the order of questions means nothing
    turns = sum(row.turns for row in cell.rows)
    measured = not cell.table.origin or cell.bytes_ratio == cell.bytes_ratio  # few imported rows know their bytes
    return [
        *(name, percent(cell.bytes_ratio) if measured else "not measured", score),
        *(_difference(cell), probability(contrast.p_holm) if contrast else NONE),
        contrast.verdict or NONE if contrast else NONE,
        points(contrast.detectable) if contrast else NONE,
        percent(contrast.retention) if contrast else NONE,
        _flips(contrast.flips) if contrast else NONE,
        *((points(cell.first), points(cell.later)) if ordered else (NONE, NONE)),
        _effect(cell.interaction),
        *(_time(cell, fixed(cell.time("ttft_s"), 2)), _time(cell, fixed(cell.time("press_s"), 3))),
        _time(cell, millis(tpot)) + (" \u25c6" if cell.fast_front else ""),
        f"{GIB // cell.session_bytes:,}" if cell.session_bytes else NONE,
        f"{cell.score.n:,}/{turns:,}",
    ]


def _forced(found: Forced) -> str:
    """Forced texts: what a press changes in the predictions of what follows, presses of other harnesses marked."""
    rows = [row for line in found.lines for row in line.cell.rows]
    about = [
        f"Texts: {', '.join(map(text, sorted({row.task for row in rows})))}.",
        "\u2020 Some texts are missing: the line does not compare with the others."
        if any(not line.complete for line in found.lines)
        else "",
        f"With {few} passages in a text the intervals are narrower than they should be."
        if (few := min(row.sessions for row in rows)) < 10
        else "",
    ]
    head = (
        "press",
        "bytes/dense",
        "KL [95 %]",
        "\u0394 NLL [95 %]",
        "equal tokens [95 %]",
        "n",
        *(f"KL {b}" for b in found.bins),
    )
    return f"{' '.join(filter(None, about))}\n\n{markdown_table(head, 1, map(_forced_line, found.lines))}"


def _forced_line(line: ForcedLine) -> list[str]:
    cell, change = line.cell, line.nll
    name = _method(cell) + (f" ({text(cell.solved)})" if cell.solved else "")
    name += f" (*{text(cell.table.origin)}*)" if cell.table.origin else ""
    name += "" if line.complete else " \u2020"
    nll = f"{nats(change.difference.mean, sign=True)} {_nats_range(change.difference, sign=True)}" if change else NONE
    return [
        *(name, percent(cell.bytes_ratio), f"{nats(line.kl.mean)} {_nats_range(line.kl)}", nll),
        f"{percent(line.agree.mean)} {span(line.agree.low, line.agree.high)}",
        *(f"{line.agree.n:,}", *map(nats, line.bins)),
    ]


def _nats_range(found: Interval, sign: bool = False) -> str:
    return nats_span(found.low, found.high, sign=sign)


def _time(cell: Cell, text: str) -> str:
    return marked(text, cell.disturbed)


def _measured(cell: Cell, name: str) -> list[str]:
    """A measure beside the score, and its paired difference to the full cache."""
    if (found := cell.measures.get(name)) is None:
        return [NONE, NONE]
    return [SHOWN[name].text(found.mean.mean), SHOWN[name].difference(found.diff) if found.diff else NONE]


def _flips(found: Flips | None) -> str:
    if found is None:
        return NONE
    if not found.lost + found.won:
        return f"none of {found.of:,}"
    return f"{MINUS if found.lost else ''}{found.lost:,} {'+' if found.won else ''}{found.won:,} of {found.of:,}"


def _subtasks(analysis: Analysis, table: Table) -> str:
    """Sub-tasks of mixed tasks: presses x sub-tasks."""
    cells = {(cell.method, cell.task): cell.by_subtask() for cell in analysis.cells if cell.table == table}
    columns = sorted({(task, name) for (_, task), found in cells.items() for name in found})
    if not columns:
        return ""
    lines = [
        [_method(cell), *(points(cells.get((cell.method, task), {}).get(name)) for task, name in columns)]
        for cell in analysis.macros(table)
    ]
    grid = markdown_table(["press", *(f"{text(task)}: {text(name)}" for task, name in columns)], 1, lines)
    return f"#### Sub-tasks\n\nMean over the turns that ask it; what a session does not ask is left out.\n\n{grid}"


def _depths(analysis: Analysis, table: Table) -> str:
    """Where the evidence stands: presses x depths, mean over tasks."""
    found = [(cell, cell.by_depth()) for cell in analysis.macros(table)]
    depths = sorted({depth for _, scores in found for depth in scores})
    if not depths:
        return ""
    lines = [[_method(cell), *(points(scores.get(depth)) for depth in depths)] for cell, scores in found]
    grid = markdown_table(["press", *(f"{depth} %" for depth in depths)], 1, lines)
    return f"#### By depth\n\nScore by where in the context all evidence stands; mean over tasks.\n\n{grid}"


def _method(cell: Cell) -> str:
    return _name(cell.method.asked, cell.method.target)


def _name(asked: str, target: str) -> str:
    return code(asked) + (f" at {text(spaced(target))}" if target else "")


def _equal(matrix: Matrix) -> str:
    """Presses x amounts, and under it what could not be reached."""
    head = ["press", *(text(spaced(target)) for target in matrix.targets)]
    lines = [
        [code(line.asked) + (f" ({text(line.firing)})" if line.firing else ""), *map(_entry, line.entries)]
        for line in matrix.lines
    ]
    entries = [entry for line in matrix.lines for entry in line.entries]
    about = ["Macro mean over tasks; each press was solved for the bytes at the top, as a share of the dense cache or"]
    about.append("an amount. Intervals are in the table above.")
    cells = [entry.cell for line in matrix.lines for entry in line.entries if entry.cell is not None]
    if cells and all(map(is_forced, cells)):
        about.insert(0, "KL to the full cache in nats a token, lower is better.")
    elif matrix.full is not None:
        about.append(f"Full cache: {points(matrix.full.score.mean)}.")
    if any(entry.cell is not None and not entry.cell.complete for entry in entries):
        about.append("\u2020 Some tasks are missing: the score does not compare with the others.")
    if any(entry.failed for entry in entries):
        about.append(f"{NONE} Not reached or failed, for the reason below.")
    notes = [f"- {_name(*e.method[:2])} {text(e.reason)}" for e in entries if e.failed]
    parts = ["#### Equal bytes", " ".join(about), markdown_table(head, 1, lines), "\n".join(notes)]
    return "\n\n".join(part for part in parts if part)


def _entry(entry: Entry) -> str:
    if entry.cell is None:
        return NONE if entry.failed else "not run"
    return f"**{entry.text}**" if entry.best else entry.text if entry.cell.complete else f"{entry.text} \u2020"


def _effect(found: Interval | None) -> str:
    if found is None:
        return NONE
    return f"{points(found.mean, sign=True)} {span(found.low, found.high, sign=True)}".strip()


def _difference(cell: Cell) -> str:
    if cell.contrast is None:
        return NONE if cell.method.is_full else "not paired"
    diff = cell.contrast.diff
    star = "\\*" if cell.contrast.p_holm < 0.05 else ""
    if diff.method == "constant" and diff.mean == 0:
        return "0.0 (no session differs)"
    interval = span(diff.low, diff.high, sign=True)
    return f"{points(diff.mean, sign=True)}{star} {interval}".strip()


def _premises(rows: Sequence[Row]) -> str:
    """What methods take for granted and a model does not have."""
    lines = [f"- {text(model)}: {text(said[0])}" for (model, _), said in unmet(rows).items()]
    about = "What a method builds on was measured on the first prompt of a cell; where it is not there, expect a loss."
    return "\n\n".join(["## Premises that do not hold", about, "\n".join(lines)]) if lines else ""


def _kept_all(rows: Sequence[Row]) -> str:
    """Runs that measured the full cache under another name."""
    lines = [
        [text(row.model), _name(row.asked, row.target), text(row.task), text(row.mode), f"{row.length:,}"]
        for row in rows
        if row.kept_all and not row.twin
    ]
    grid = markdown_table(("model", "press", "task", "mode", "length"), 5, lines)
    about = (
        "The press changed nothing (it keeps all, or no session is long enough): these runs measured the full cache."
    )
    return f"## Presses that kept everything\n\n{about}\n\n{grid}" if lines else ""


def _failed(rows: Sequence[Row]) -> str:
    lines = [
        [
            text(row.model),
            _name(row.asked, row.target),
            text(row.task),
            text(row.mode),
            f"{row.length:,}",
            _short(row.error),
        ]
        for row in rows
    ]
    return markdown_table(("model", "press", "task", "mode", "length", "error"), 6, lines) if lines else "None."


def _short(error: str) -> str:
    flat = " ".join(error.split())
    return code(flat[:300] + ("\u2026" if len(flat) > 300 else "")) if flat else "no message"


def _ignored(analysis: Analysis) -> str:
    lines = [[code(item.path), text(item.reason)] for item in analysis.ignored]
    return markdown_table(("file", "reason"), 2, lines) if lines else "None."
