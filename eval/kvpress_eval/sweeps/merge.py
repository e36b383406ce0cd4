"""Rows of several folders: brought together, and compared but for what a second run measures anew."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..machine.files import check_folder, write_all
from ..rows.answers import read_answers, state
from ..rows.row import Row
from ..rows.row_faults import decoded
from ..rows.row_files import PACKED, answers_path, load_row, packed_lines, row_files, row_text, write_pair
from ..rows.row_types import SCBENCH

__all__ = ["MEASURED", "Merged", "compared", "merge", "pack", "same_results"]

_NEAR = {"measures": 1e-3, "gold_logprob": 1e-3, "figure": 1e-3, "kl": 1e-4, "nll": 1e-4, "agree": 1e-4}
"""How far floats of a name may be apart in two runs and count as the same: absolute, or relative to the larger where
that is above 1. Those of another name follow what holds them, and are exact where nothing does.

What is made of logits, and a premise's figure, is rounded in another way by another machine or number of threads. That
moves the log-probability of a gold answer, which has few tokens, most. The measures of forced texts are means over many
tokens, which it moves less, and they are told apart more finely: the KL of a good press is itself under 1e-3, and
0.0002 nats against 0.0009 are no rounding.
"""

MEASURED = frozenset(
    {"seconds", "started", "threads", "peak_memory", "peak_kind", "prefill_tps", "not_measured", "versions", "commit"}
    | {"disturbance", "quiet"},
)
"""What two runs of a cell need not share, beside names that end in ``_s`` (seconds): when, where and how fast."""
_APART = MEASURED | {"answers"}  # compared by what they say, not by the hash that the row has


@dataclass
class Merged:
    """Rows that were new, that took another's place, or were left; and files that are no rows, with reasons.

    ``lacking`` are rows that came without the answers they claim, because those are gone or damaged.
    """

    new: int = 0
    replaced: int = 0
    kept: int = 0
    lacking: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)


def merge(sources: Sequence[Path], into: Path) -> Merged:
    """Copy the rows of folders into one. Of two rows of a cell a finished one wins over a failed, then the later.

    Rows keep their folder (the model's) and every byte, so that a copied row is the row. Their answers come with them;
    a row that is there already gets those it lacks. Copying the files with any other tool gives the same, as long as
    no two folders hold the same cell.

    Raises:
        UsageError: for a source that is no folder.
        StorageError: where nothing can be written, or there is no room.
    """
    for source in sources:
        if not source.is_dir():
            raise UsageError(f"no such folder: {source}; name folders that hold <model>/<run_id>.json files")
    check_folder(into, "--into")
    found = Merged()
    for source in sources:
        for path in row_files(source):
            target = into / path.parent.name / path.name
            try:
                text, _, row = _read(path)
                if row.run_id != path.stem:
                    raise ValueError(f"the row of {row.run_id}; a row's file has its name")
            except (OSError, ValueError) as problem:
                found.invalid.append(f"{path}: {' '.join(str(problem).split())[:200]}")
                continue
            try:
                there: Row | None = _read(target)[2]
            except (OSError, ValueError):
                there = None  # nothing, or a damaged file
            if there is not None and _rank(row) <= _rank(there):
                found.kept += 1
                if there.answers == row.answers and _answers(target, there) is None and (held := _answers(path, row)):
                    write_pair(target, row_text(target).encode("utf-8"), held, True)
                continue
            held = _answers(path, row) or _answers(target, row)  # another run of the cell may have said the same
            if row.answers and held is None:
                found.lacking.append(str(path))
            write_pair(target, text.encode("utf-8"), held, held is not None)
            if there is None:
                found.new += 1
            else:
                found.replaced += 1
    return found


def pack(folder: Path) -> Iterator[tuple[Path, int]]:
    """Bring the rows of each model and suite under ``folder`` into one file, and say which it was and how many rows it
    holds now.

    Files that are no rows, and answers, stay where they are; so does a row that is written meanwhile.

    Raises:
        UsageError: for what is no folder, and a packed file that cannot be read.
        StorageError: where a file cannot be written; then no row of its suite is gone.
    """
    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}; name a folder that holds <model>/<run_id>.json files")
    for model in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        loose: dict[str, dict[Path, str]] = defaultdict(dict)
        for path in sorted(model.glob("[!.]*.json")):
            row = load_row(path)
            if row is not None and f"{row.run_id}.json" == path.name:
                loose[_suite(row.suite)][path] = path.read_text(encoding="utf-8")
        for suite, texts in loose.items():
            packed = model / f"{suite}{PACKED}"
            lines = dict(packed_lines(packed)) if packed.exists() else {}
            if packed.name in lines:  # written anew it would lose what it holds
                raise UsageError(f"cannot read {packed}; mend it or move it away, then pack again")
            lines |= {
                path.name: json.dumps(json.loads(text), ensure_ascii=False) + "\n" for path, text in texts.items()
            }
            write_all([(packed, "".join(lines[name] for name in sorted(lines)).encode("utf-8"))])
            for path, text in texts.items():
                if path.read_text(encoding="utf-8") == text:
                    path.unlink()
            yield packed, len(lines)


def _suite(name: str) -> str:
    """The name of its file; rows of before say "core" for SCBench."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "" if name == "core" else name).strip(".")[:100] or SCBENCH


def _answers(path: Path, row: Row) -> bytes | None:
    """The file of a row's answers; None where it claims none, or they are gone or damaged."""
    if not row.answers:
        return None
    try:
        return read_answers(answers_path(path), row.answers)[1]
    except (FileNotFoundError, UsageError):
        return None


def _read(path: Path) -> tuple[str, Any, Row]:
    """Its text, what that is as JSON, and as a row."""
    text = row_text(path)
    data = decoded(text)
    return text, data, Row.from_dict(data)


def _rank(row: Row) -> tuple[bool, datetime]:
    try:
        started = datetime.fromisoformat(row.started)
    except (ValueError, TypeError):  # other programs may write null
        started = datetime.min
    return row.status == "ok", started if started.tzinfo else started.replace(tzinfo=timezone.utc)


def same_results(first: Path, second: Path) -> list[str]:
    """What differs between the rows of two folders, a line each; nothing where they agree.

    Everything is compared but times, memory, versions and the commit (``MEASURED``), the answers included; what is
    made of logits within ``_NEAR``. Files that are no rows differ, and so do answers that are gone or damaged.

    Raises:
        UsageError: for what is no folder.
    """
    for folder in (first, second):
        if not folder.is_dir():
            raise UsageError(f"no such folder: {folder}; name two folders of rows")
    return list(_differences(first, second))


def _differences(first: Path, second: Path) -> Iterator[str]:
    ours, theirs = ({_name(path): path for path in row_files(folder)} for folder in (first, second))
    for name in sorted({*ours, *theirs}):
        if name not in ours or name not in theirs:
            yield f"{name}: only in {first if name in ours else second}"
            continue
        try:
            read = [_read(path) for path in (ours[name], theirs[name])]
        except (OSError, ValueError) as problem:
            yield f"{name}: {' '.join(str(problem).split())[:200]}"
            continue
        left, right = (_judged(data) for _, data, _ in read)
        keys = [key for key in sorted({*left, *right}) if not _same(left.get(key), right.get(key), _NEAR.get(key, 0))]
        if keys:
            shown = _short(left.get(keys[0])), _short(right.get(keys[0]))
            yield f"{name}: {', '.join(keys)} ({keys[0]} is {shown[0]} and {shown[1]})"
        elif differs := _other_answers(ours[name], read[0][2], theirs[name], read[1][2]):
            yield f"{name}: answers ({differs})"


def _other_answers(first: Path, ours: Row, second: Path, theirs: Row) -> str:
    """Where the answers of two rows differ; empty where they do not."""
    found = []
    for path, row in ((first, ours), (second, theirs)):
        there = state(path, row)
        if there in ("missing", "damaged"):
            return f"{there}: {answers_path(path)}"
        found.append(read_answers(answers_path(path), row.answers)[0] if there == "whole" else None)
    left, right = found
    if left is None or right is None:
        return "" if left is right else f"only {second if left is None else first} has them"
    if len(left.questions) != len(right.questions):
        return f"{len(left.questions)} and {len(right.questions)} questions"
    for number, (one, other) in enumerate(zip(left.questions, right.questions, strict=True), 1):
        for key in sorted({*one, *other}):
            if not _same(one.get(key), other.get(key), _NEAR.get(key, 0)):
                return f"question {number}: {key} is {_short(one.get(key))} and {_short(other.get(key))}"
    return ""


def _same(left: Any, right: Any, near: float) -> bool:
    """Whether two values are equal, floats within ``near``, or what ``_NEAR`` has for the name that holds them: ``kl``
    for ``kl@2-16``.
    """
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=near, abs_tol=near)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(_same(one, other, near) for one, other in zip(left, right, strict=True))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(
            _same(left[key], right[key], _NEAR.get(key.partition("@")[0], near)) for key in left
        )
    return bool(left == right)


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _judged(value: Any) -> Any:
    """What two runs must share, nested objects included."""
    if isinstance(value, dict):
        return {key: _judged(item) for key, item in value.items() if key not in _APART and not key.endswith("_s")}
    return [_judged(item) for item in value] if isinstance(value, list) else value


def compared(first: Path, second: Path) -> int:
    """How many cells have a row in either folder."""
    return len({_name(path) for folder in (first, second) for path in row_files(folder)})
