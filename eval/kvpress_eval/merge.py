"""Rows of several folders: brought together, and compared but for what a second run measures anew."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .errors import UsageError
from .files import check_folder, write_whole
from .page.loading import parse_row
from .rows import Row

__all__ = ["MEASURED", "Merged", "compared", "merge", "same_results"]

MEASURED = frozenset(
    {"seconds", "started", "threads", "peak_memory", "peak_kind", "prefill_tps", "not_measured", "versions", "commit"}
    | {"disturbance", "quiet"},
)
"""What two runs of a cell need not share, beside names that end in ``_s`` (seconds): when, where and how fast."""


@dataclass
class Merged:
    """Rows that were new, that took another's place, or were left; and files that are no rows, with reasons."""

    new: int = 0
    replaced: int = 0
    kept: int = 0
    invalid: list[str] = field(default_factory=list)


def merge(sources: Sequence[Path], into: Path) -> Merged:
    """Copy the rows of folders into one. Of two rows of a cell a finished one wins over a failed, then the later.

    Rows keep their folder (the model's) and every byte, so that a copied row is the row. Copying the files with any
    other tool gives the same, as long as no two folders hold the same cell.

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
        for path in _files(source):
            target = into / path.parent.name / path.name
            try:
                text, _, row = _read(path)
                if row.run_id != path.stem:
                    raise ValueError(f"the row of {row.run_id}; a row's file has its name")
            except (OSError, ValueError, OverflowError, RecursionError, UsageError) as problem:
                found.invalid.append(f"{path}: {' '.join(str(problem).split())[:200]}")
                continue
            try:
                there: Row | None = _read(target)[2]
            except (OSError, ValueError, OverflowError, RecursionError, UsageError):
                there = None  # nothing, or a damaged file
            if there is not None and _rank(row) <= _rank(there):
                found.kept += 1
                continue
            write_whole(target, text)
            if there is None:
                found.new += 1
            else:
                found.replaced += 1
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*.json") if not path.name.startswith("."))


def _read(path: Path) -> tuple[str, Any, Row]:
    """Its text, what that is as JSON, and as a row."""
    text = path.read_text(encoding="utf-8")
    data = json.loads(text)
    parse_row(data, path.name)  # says what is wrong with what
    return text, data, Row.from_dict(data)


def _rank(row: Row) -> tuple[bool, datetime]:
    try:
        started = datetime.fromisoformat(row.started)
    except (ValueError, TypeError):  # other programs may write null
        started = datetime.min
    return row.status == "ok", started if started.tzinfo else started.replace(tzinfo=timezone.utc)


def same_results(first: Path, second: Path) -> list[str]:
    """What differs between the rows of two folders, a line each; nothing where they agree.

    Everything is compared but times, memory, versions and the commit (``MEASURED``). Files that are no rows differ.

    Raises:
        UsageError: for what is no folder.
    """
    for folder in (first, second):
        if not folder.is_dir():
            raise UsageError(f"no such folder: {folder}; name two folders of rows")
    return list(_differences(first, second))


def _differences(first: Path, second: Path) -> Iterator[str]:
    ours, theirs = ({_name(path): path for path in _files(folder)} for folder in (first, second))
    for name in sorted({*ours, *theirs}):
        if name not in ours or name not in theirs:
            yield f"{name}: only in {first if name in ours else second}"
            continue
        try:
            left, right = (_judged(_read(path)[1]) for path in (ours[name], theirs[name]))
        except (OSError, ValueError, OverflowError, RecursionError, UsageError) as problem:
            yield f"{name}: {' '.join(str(problem).split())[:200]}"
            continue
        keys = [key for key in sorted({*left, *right}) if left.get(key) != right.get(key)]
        if keys:
            shown = _short(left.get(keys[0])), _short(right.get(keys[0]))
            yield f"{name}: {', '.join(keys)} ({keys[0]} is {shown[0]} and {shown[1]})"


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _judged(value: Any) -> Any:
    """What two runs must share, nested objects included."""
    if isinstance(value, dict):
        return {key: _judged(item) for key, item in value.items() if key not in MEASURED and not key.endswith("_s")}
    return [_judged(item) for item in value] if isinstance(value, list) else value


def compared(first: Path, second: Path) -> int:
    """How many cells have a row in either folder."""
    return len({_name(path) for folder in (first, second) for path in _files(folder)})
