"""The generated README: what a reader sees on a code host without opening the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..stats import Interval
from .claims import Analysis, Cell, Table, dtype_of, method_of
from .equal import Entry, Matrix, matrices
from .gates import Gate, tally
from .loading import Row
from .numbers import NONE, fixed, percent, points, probability, span
from .presses import spaced

_HOW_TO_READ = """\
Generated from the result rows by `kvpress_eval.report`; edit nothing here. The page
[`index.html`](index.html) has the same numbers with charts, filters, every column and the command
that reproduces each row; it opens from disk, offline.

- **score**: mean over sessions, 0 to 100; with several tasks the macro mean, every task counting
  the same. In brackets its 95 % interval: sessions are resampled, not turns, because turns share a
  context (10,000 resamples; BCa with fewer than 40 sessions in a task).
- **\u0394 full**: the same sessions answered with the compressed cache minus with the full cache,
  in points, with its paired 95 % interval. **p**: sign-flip test over sessions, Holm-adjusted over
  the methods of the table. An asterisk marks p < 0.05.
- **detects**: the smallest true difference this many sessions would find (5 % level, power 80 %). A
  smaller \u0394 without an asterisk is not evidence of equality.
- **first**, **later**: score on the first turn and on the turns after it. In multi-turn mode a
  press that fires after a prompt with the question in it has seen the first question and no other;
  in multi-request mode no question is seen. **turn effect**: (later - first) minus the same of the
  full cache, paired, with its 95 % interval: below zero, the method loses more on later turns.
- **bytes/dense**: bytes really held (codes, scales, indices, positions, masks, window) over those
  of the dense cache. \u25c6 marks the Pareto front: nothing with as few bytes scores higher.
- Rows are ordered by bytes, from more to fewer: compare neighbours, which cost about the same
  memory.
- A press **at** an amount was solved for it: its free parameter is the largest that the ledger
  allows, for each task's length. **Equal bytes** puts such presses side by side, best in bold.
"""
_HEAD = (
    *(
        "press",
        "bytes/dense",
        "score [95 %]",
        "\u0394 full [95 %]",
        "p",
        "detects",
        "first",
        "later",
        "turn effect [95 %]",
    ),
    *("TTFT s", "press s", "ms/token", "n"),
)


def render_markdown(analysis: Analysis, gates: Sequence[Gate]) -> str:
    """The whole README."""
    parts = ["# Results", _counts(analysis), _HOW_TO_READ, "## Sanity gates", _gates(gates)]
    equal = matrices(analysis)
    for model in sorted({table.model for table in analysis.tables}):
        notes = sorted({r.model_note for r in analysis.rows if r.model == model and r.model_note})
        parts += [f"## {text(model)}", *[f"{text(note)}." for note in notes]]
        for table in analysis.tables:
            if table.model == model:
                parts += [f"### {_title(table, analysis.tables)}", _table(analysis, table)]
                parts += [_equal(matrix) for matrix in equal if matrix.table == table]
    parts += [
        "## Failed cells",
        _failed(analysis.rows),
        "## Files that are not rows",
        _ignored(analysis),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def text(value: str) -> str:
    """Plain text in Markdown: nothing in it is markup, a link or HTML, and it stays on one line."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~$&@:])", r"\\\1", " ".join(value.split()))


def code(value: str) -> str:
    """A code span safe in a table cell, whatever backticks and bars the value has."""
    value = " ".join(value.split()) or " "
    fence = "`" * (max((len(run) for run in re.findall(r"`+", value)), default=0) + 1)
    pad = " " if value.startswith("`") or value.endswith("`") else ""
    return f"{fence}{pad}{value}{pad}{fence}".replace("|", r"\|")


def _grid(head: Sequence[str], right_from: int, lines: Iterable[Sequence[str]]) -> str:
    rule = ["---" if i < right_from else "---:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def _counts(analysis: Analysis) -> str:
    done = sum(row.ok for row in analysis.rows)
    presses = len({method_of(row)[:2] for row in analysis.rows})
    tasks = len({row.task for row in analysis.rows})
    return (
        f"{len(analysis.rows)} rows ({done} ok, {len(analysis.rows) - done} failed): "
        f"{presses} presses, {tasks} tasks, {len({row.model for row in analysis.rows})} models."
    )


def _title(table: Table, tables: Sequence[Table]) -> str:
    parts = [f"{table.length:,} tokens", table.mode, table.history and f"{table.history} history"]
    return ", ".join(text(part) for part in [*parts, table.rendering, dtype_of(table, tables)] if part)


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
    grid = _grid(("verdict", "gate", "checked", "failures"), 2, lines)
    return "\n\n".join(filter(None, (f"{tally(gates)}.", grid, "\n".join(found + more + notes))))


def _table(analysis: Analysis, table: Table) -> str:
    macros = analysis.macros(table)
    tasks = sorted({row.task for cell in macros for row in cell.rows})
    grid = _grid(_HEAD, 1, [_line(cell, macros) for cell in macros])
    full = [cell for cell in macros if cell.method.is_full]
    where = sorted({f"{r.device} {r.dtype}".strip() for cell in macros for r in cell.rows})
    about = [
        f"Tasks: {', '.join(map(text, tasks))}.",
        f"Measured on {', '.join(map(text, where)) or 'an unknown device'}.",
    ]
    chance = full[0].mean_of("chance") if full else float("nan")
    if chance == chance:
        about.append(f"Guessing scores {points(chance)}.")
    if len(where) > 1:
        about.append("Times from different devices do not compare.")
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
    tpot = cell.mean_of("tpot_s")
    ordered = cell.table.mode != "multi-request"  # there the order of questions means nothing
    turns = sum(row.turns for row in cell.rows)
    return [
        *(name, percent(cell.bytes_ratio), score),
        *(_difference(cell), probability(contrast.p_holm) if contrast else NONE),
        points(contrast.detectable) if contrast else NONE,
        *((points(cell.first), points(cell.later)) if ordered else (NONE, NONE)),
        _effect(cell.interaction),
        *(fixed(cell.mean_of("ttft_s"), 2), fixed(cell.mean_of("press_s"), 3), fixed(1000 * tpot)),
        f"{sum(row.sessions for row in cell.rows):,}/{turns:,}",
    ]


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
    if matrix.full is not None:
        about.append(f"Full cache: {points(matrix.full.score.mean)}.")
    if any(entry.cell is not None and not entry.cell.complete for entry in entries):
        about.append("\u2020 Some tasks are missing: the score does not compare with the others.")
    if any(entry.failed for entry in entries):
        about.append(f"{NONE} Not reached or failed, for the reason below.")
    notes = [f"- {_name(*e.method[:2])} {text(e.reason)}" for e in entries if e.failed]
    parts = ["#### Equal bytes", " ".join(about), _grid(head, 1, lines), "\n".join(notes)]
    return "\n\n".join(part for part in parts if part)


def _entry(entry: Entry) -> str:
    if entry.cell is None:
        return NONE if entry.failed else "not run"
    score = points(entry.cell.score.mean)
    return f"**{score}**" if entry.best else score if entry.cell.complete else f"{score} \u2020"


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
        if not row.ok
    ]
    return _grid(("model", "press", "task", "mode", "length", "error"), 6, lines) if lines else "None."


def _short(error: str) -> str:
    flat = " ".join(error.split())
    return code(flat[:300] + ("\u2026" if len(flat) > 300 else "")) if flat else "no message"


def _ignored(analysis: Analysis) -> str:
    lines = [[code(item.path), text(item.reason)] for item in analysis.ignored]
    return _grid(("file", "reason"), 2, lines) if lines else "None."
