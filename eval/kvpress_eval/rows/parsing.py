"""Rows as a report shows them: read without trusting them; what is not a valid row is named with its reason."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from ..machine.printable import plain
from .row import HINTS, MAY_BE_NULL, Row
from .row_faults import RowError, decoded
from .row_files import PACKED, row_files, row_text
from .row_types import CORRECTED, GENERATED, SCBENCH, usual_scorer

__all__ = ["Ignored", "parse_row", "read_rows", "unmet"]

_TEXTS = tuple(name for name, hint in HINTS.items() if hint is str)
_BY_NAME = ("bytes_by_kind", "subtasks", "extras", "measures", "disturbance")
_MEASURED = tuple(one for one in fields(Row) if one.metadata)
_UNKNOWN = {one.name: None for one in _MEASURED if one.name in MAY_BE_NULL}
_NEVER_ZERO = ("prefill_tps", "decode_length", "file_bytes", "step_bytes", "session_bytes")
"""What was added later: a zero there was not measured."""


@dataclass(frozen=True)
class Ignored:
    """A file in the results folder that is not a row, and why."""

    path: str
    reason: str


def read_rows(results_dir: Path) -> tuple[list[Row], list[Ignored]]:
    """All rows under `results_dir` in the order of their paths, each followed by its twin under the released scorer
    where it has one; and the other files with reasons.

    Raises:
        FileNotFoundError: `results_dir` is not a folder.
    """
    if not results_dir.is_dir():
        raise FileNotFoundError(
            f"{results_dir} is not a folder; expected <model>/<run_id>.json files in it. Run a sweep first."
        )
    rows: list[Row] = []
    ignored: list[Ignored] = []
    packed = set(results_dir.glob(f"*/*{PACKED}"))
    files = {path for path in results_dir.rglob("*") if path.is_file() and path not in packed}
    files.update(row_files(results_dir))
    for path in sorted(files, key=lambda path: path.relative_to(results_dir).as_posix()):
        name = path.relative_to(results_dir).as_posix()
        if any(part.startswith(".") for part in name.split("/")) or _is_output(name):
            continue
        try:
            if path.suffix != ".json" and PACKED not in path.name:
                raise RowError("not a .json file")
            row = parse_row(decoded(row_text(path)), plain(name))
            rows += [row, twin] if (twin := row.by_reference()) else [row]
        except RowError as problem:
            ignored.append(Ignored(plain(name), problem.fault))
        except UnicodeDecodeError:
            ignored.append(Ignored(plain(name), "not valid JSON"))
        except OSError as problem:
            ignored.append(Ignored(plain(name), plain(" ".join(str(problem).split())[:200])))
    return _with_variants(rows), ignored


def _with_variants(rows: list[Row]) -> list[Row]:
    """The same rows, told apart: a model trained again under its name is another one; the newest is usual."""
    newest = {(r.model, r.dtype): r.weights for r in sorted(rows, key=lambda r: r.started) if r.weights}
    for row in rows:
        older = bool(row.weights) and row.weights != newest[row.model, row.dtype]
        parts = [f"weights {row.weights}" if older else "", "chat template" if row.chat else "", _forced(row)]
        row.variant = ", ".join(filter(None, parts))
    return rows


def _forced(row: Row) -> str:
    """How much text was forced, and how."""
    if not row.forced:
        return ""
    return f"{row.forced} forced" + (f", {row.forced_step} at a time" if row.forced_step else "")


def _is_output(name: str) -> bool:
    """Whether it is what the report itself writes, perhaps next to the rows, or the answers of a row."""
    page = "/" not in name and name.endswith(".html")
    answers = name.endswith(".answers.jsonl.gz") or (name.startswith("answers/") and name.endswith(".js"))
    return name == "README.md" or page or answers


def parse_row(data: object, path: str) -> Row:
    """The row of a JSON value as a report shows it: what was not measured is None, and every text is plain.

    Raises:
        RowError: where it is no valid row.
    """
    row = Row.from_dict({**_UNKNOWN, **data} if isinstance(data, dict) else data)
    for name in _TEXTS:
        setattr(row, name, plain(getattr(row, name)))
    row.path = path
    row.run_id = row.run_id or path.rpartition("/")[2].removesuffix(".json")
    row.suite = SCBENCH if row.suite in ("", "core") else row.suite  # what rows of before said
    row.source = row.source or GENERATED
    row.prompts = row.prompts or CORRECTED
    row.scorer = row.scorer or usual_scorer(row.rendering)
    if row.failed and row.target and re.match("BudgetError: .* cannot hold ", row.error, re.DOTALL):
        row.status = "unreachable"  # rows of before called it a failure
    if row.ok:
        for name in _NEVER_ZERO:
            setattr(row, name, getattr(row, name) or None)
        for name in _BY_NAME:
            setattr(row, name, {plain(key): value for key, value in sorted(getattr(row, name).items())})
        row.session_ids = [plain(one) for one in row.session_ids]
        row.turn_tasks = [[plain(one) for one in turns] for turns in row.turn_tasks]
    else:  # it measured nothing: its zeros are placeholders, not results
        for one in _MEASURED:
            nothing = None if one.name in MAY_BE_NULL else one.default
            setattr(row, one.name, nothing if one.default_factory is MISSING else one.default_factory())
    row.sessions, row.turns = len(row.session_ids), sum(map(len, row.session_scores))
    return row


def unmet(rows: Iterable[Row]) -> dict[tuple[str, str], list[str]]:
    """(model, premise that does not hold on it, without its figure) -> what was said of it, in order of rows."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for line in row.unmet:
            found.setdefault((row.model, line.partition(" (")[0]), []).append(line)
    return found
