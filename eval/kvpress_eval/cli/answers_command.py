"""``kvpress answers``: what a press said, question by question, alone or beside another press."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unicodedata import category

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..errors import UsageError
from ..machine.console import Console, console
from ..rows.answers import Transcript, read_answers
from ..rows.claims import method_of, precedence, run_key
from ..rows.compare import Asked, spelled
from ..rows.numbers import fixed, points
from ..rows.parsing import read_rows
from ..rows.press_text import named
from ..rows.row import Row
from ..rows.row_files import answers_path, is_row

__all__ = ["answers"]

_PROMPT = 220  # characters of a prompt's end that are shown
_TEXT = 1200  # characters of an answer
_BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they would reorder what is around
_LISTED = 3
_ANSWERS = ".answers.jsonl.gz"

Question = Mapping[str, Any]
Against = tuple[Row, Mapping[tuple[str, float], Question]]


def answers(options: argparse.Namespace, out: Console | None = None) -> int:
    """Print the answers of a row; exit code 0.

    Raises:
        UsageError: where no row, or more than one, is meant, or its answers are not there.
    """
    out = out or console()
    results, rows = _rows(options)
    row = _chosen(options, rows)
    ours = _read(results, row)
    against: Against | None = None
    if options.diff:
        other = _same_cell(options.diff, row, rows)
        against = other, {_key(question): question for question in _read(results, other).questions}
    asked = [question for question in ours.questions if not options.wrong or not _right(question)]
    shown = asked[: options.limit] if options.limit > 0 else asked
    out.print(_heading(row, ours, len(asked) if options.wrong else None))
    for question in shown:
        out.print()
        out.print(_question(question, row, against))
    if len(shown) < len(asked):
        out.print(Text(f"\n{len(asked) - len(shown)} more; --limit 0 shows all", style="dim"))
    return 0


def _rows(options: argparse.Namespace) -> tuple[Path, list[Row]]:
    """The folder of the rows, that of a row's file where one is named; and its rows, each run once."""
    folder = options.results
    if (file := _file(options.row)) is not None:
        if not is_row(file):
            raise UsageError(f"no such file: {file}; name the .json file of a row, its run id, or a press")
        folder = file.resolve().parent.parent
    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}; run a cell first, or name it with --results")
    return folder, [row for row in read_rows(folder)[0] if not row.twin]


def _file(word: str) -> Path | None:
    """The file of the row that is named by it, or by the file of its answers."""
    if word.endswith(_ANSWERS):
        return Path(word.removesuffix(_ANSWERS) + ".json")
    return Path(word) if word.endswith(".json") else None


def _chosen(options: argparse.Namespace, rows: Sequence[Row]) -> Row:
    """The row that is meant: by its file, its run id (or the beginning of it), or as a press with its cell."""
    if (file := _file(options.row)) is not None:
        path = f"{file.resolve().parent.name}/{file.name}"
        if there := [row for row in rows if row.path == path]:
            return _only(there, path)
        raise UsageError(f"{file} is not a row; name the .json file of a row, its run id, or a press")
    word = options.row
    if by_id := [row for row in rows if len(word) > 3 and row.run_id.startswith(word)]:
        return _only(by_id, f"the run id {word}")
    asked = Asked.of(spelled(word, rows), options.bytes)
    names = ("model", "task", "mode", "length", "seed", "depth")
    wanted = {name: value for name in names if (value := getattr(options, name)) is not None}
    found = [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]
    return _only([row for row in found if asked.has(row)], str(asked))


def _only(found: Sequence[Row], what: str) -> Row:
    """The one row; of several runs of a cell the one that counts.

    Raises:
        UsageError: where there is none, or several cells are meant.
    """
    if not found:
        raise UsageError(f"no row of {what}; `kvpress report` lists those that are there, --results names the folder")
    done = [row for row in found if row.ok]
    if not done:
        raise UsageError(f"{what} failed: {found[0].error}"[:280])
    if len({(run_key(row), method_of(row)) for row in done}) > 1:
        told = "; ".join(f"{row.run_id} ({row.task}, {row.mode}, {row.length})" for row in done[:_LISTED])
        more = f"; and {len(done) - _LISTED} more" if len(done) > _LISTED else ""
        raise UsageError(f"{len(done)} rows of {what}; give --task, --mode or --length, or a run id: {told}{more}")
    return max(done, key=precedence)


def _same_cell(press: str, row: Row, rows: Sequence[Row]) -> Row:
    """The row of another press that answered the same sessions."""
    asked = spelled(press, rows)
    there = [other for other in rows if other.ok and other.press == asked and run_key(other) == run_key(row)]
    if shared := [other for other in there if other.scores.keys() & row.scores.keys()]:
        return max(shared, key=lambda other: (len(other.scores.keys() & row.scores.keys()), precedence(other)))
    raise UsageError(
        f"no row of {asked} with the sessions of {row.run_id} ({row.task}, {row.mode}, {row.length} tokens); run it "
        "with the same --model, --task, --mode, --length, --seed and --dtype"
    )


def _read(results: Path, row: Row) -> Transcript:
    again = "run its command again with --force"
    if row.forced:
        raise UsageError(f"row {row.run_id} has no answers: {row.task} continues a text and asks nothing")
    if not row.answers:
        raise UsageError(f"row {row.run_id} has no answers: it is older than they are, or imported; {again}")
    path = answers_path(results / row.path)
    try:
        return read_answers(path, row.answers)[0]
    except FileNotFoundError:
        raise UsageError(
            f"the answers of row {row.run_id} are gone: there is no {path.name} beside it; {again}"
        ) from None
    except UsageError as error:
        raise UsageError(f"{error}; {again}") from None


def _heading(row: Row, found: Transcript, wrong_shown: int | None) -> Group:
    wrong = sum(not _right(question) for question in found.questions)
    counts = f"{len(found.questions)} questions, {wrong} not wholly right"
    told = [
        Text(_clean(_name(row)), style="bold"),
        Text(_clean(f"{row.model}, {row.task}, {row.mode}, {row.length} tokens, {row.history} history, {row.run_id}")),
        Text(f"score {points(row.score)}; {counts}" + ("" if wrong_shown is None else "; only those follow")),
    ]
    if found.cut:
        told.append(Text(_clean(found.cut), style="yellow"))
    return Group(*told)


def _name(row: Row) -> str:
    return named(row.asked, row.target) if row.target else row.press


def _key(question: Question) -> tuple[str, float]:
    """What a question is called in every file that has it."""
    return _text(question.get("session")), _number(question.get("turn")) or 0


def _question(question: Question, row: Row, against: Against | None) -> Group:
    session, turn = _key(question)
    task = f" {_clean(_text(question['task']))}" if question.get("task") else ""
    head = Text(f"{_clean(session)} turn {turn:.0f}{task}", style="bold")
    prompt = _clean(_text(question.get("prompt")))
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold", ratio=1)
    grid.add_row("prompt", Text(("\u2026" if len(prompt) > _PROMPT else "") + prompt[-_PROMPT:], style="dim"))
    grid.add_row("gold", Text(_short(question.get("gold"))))
    if "expected" in question:
        grid.add_row("expected", Text(_short(question["expected"])))
    if against is None:
        grid.add_row("answer", _said(question))
        grid.add_row("", Text(_facts(question), style="dim"))
        return Group(head, grid)
    other, theirs = against
    sides = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    for side in (row, other):
        sides.add_column(Text(_clean(_name(side))), overflow="fold", ratio=1)
    their = theirs.get(_key(question))
    sides.add_row(_said(question), Text("not asked", style="dim") if their is None else _said(their))
    sides.add_row(Text(_facts(question), style="dim"), Text("" if their is None else _facts(their), style="dim"))
    return Group(head, grid, sides)


def _said(question: Question) -> Text:
    answer = _short(question.get("answer"))
    cut = " [cut by the limit]" if question.get("finish") == "length" else ""
    said = Text(answer or "(empty)", style="green" if _right(question) else "red")
    return said.append(cut, style="dim")


def _facts(question: Question) -> str:
    """What was measured of a question, in a line."""
    parts = [f"score {points(_number(question.get('score')))}"]
    if (reference := _number(question.get("reference"))) is not None:
        parts.append(f"released {points(reference)}")
    if (logprob := _number(question.get("gold_logprob"))) is not None:
        parts.append(f"gold log p {fixed(logprob, 3)}" + (" (argmax)" if question.get("gold_argmax") else ""))
    if (kept := _number(question.get("kept"))) is not None:
        depth, where = fixed(_number(question.get("depth")), 0), _ranges(question.get("evidence"))
        parts.append(f"evidence {fixed(100 * kept, 0)} % kept, at depth {depth} % ({where})")
    return ", ".join(parts)


def _ranges(found: Any) -> str:
    """`tokens 216-223`, the first few where there are many."""
    spans = found if isinstance(found, list) else []
    ends = [[_number(end) for end in span] for span in spans if isinstance(span, list) and len(span) == 2]
    told = [f"{start:.0f}-{stop - 1:.0f}" for start, stop in ends[:3] if start is not None and stop is not None]
    return f"tokens {', '.join(told)}" + (f" and {len(ends) - 3} more" if len(ends) > 3 else "")


def _right(question: Question) -> bool:
    score = _number(question.get("score"))
    return score is not None and score >= 1


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _short(value: Any) -> str:
    text = _clean(_text(value))
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}\u2026 ({len(text) - _TEXT} characters more)"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return "" if value is None else str(value)


def _clean(text: str) -> str:
    """Nothing in it reaches the terminal as a command: control characters but line ends and tabs are shown as such."""
    if text.isprintable():
        return text
    return "".join("\ufffd" if (category(c) in ("Cc", "Cs") and c not in "\n\t") or c in _BIDI else c for c in text)
