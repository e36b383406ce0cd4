"""Where the rows of a folder are: each in a file of its own as it is made, or those of a suite in one once they are
published.

``<model>/<run_id>.json`` is a row. ``<model>/<suite>.jsonl`` holds a row a line, in the order of their ids
(``kvpress pack``). Both have the same name, ``<model>/<run_id>.json``, and readers see no difference. Where a row has a
file of its own and a line too, the file counts: it was written later.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ..machine.files import write_all
from .row import Row
from .row_faults import decoded

__all__ = [
    *("PACKED", "answers_path", "is_row", "load_row", "load_rows", "packed_lines", "row_files", "row_path", "row_text"),
    *("run_id", "write_pair", "write_row"),
]

PACKED = ".jsonl"


def row_text(path: Path) -> str:
    """The text of the row of this name.

    Raises:
        FileNotFoundError: where there is none, neither in a file of its own nor in a line.
        OSError, UnicodeDecodeError: where it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        for packed in _packed(path.parent):
            if (line := packed_lines(packed).get(path.name)) is not None:
                return line
        raise


def is_row(path: Path) -> bool:
    """Whether there is a row of this name, be it readable or not."""
    return path.is_file() or any(path.name in packed_lines(packed) for packed in _packed(path.parent))


def _packed(folder: Path) -> list[Path]:
    """The packed files of a model."""
    return sorted(folder.glob(f"[!.]*{PACKED}"))


def row_files(folder: Path) -> list[Path]:
    """The names of the rows of all models under ``folder``, in their order."""
    found = {path for path in folder.glob("*/*.json") if not path.name.startswith(".")}
    for packed in folder.glob(f"*/[!.]*{PACKED}"):
        found.update(packed.parent / name for name in packed_lines(packed))
    return sorted(found)


def packed_lines(packed: Path) -> Mapping[str, str]:
    """The lines of a packed file by the names of their rows; of what is no row, by its place: ``lm.jsonl:3``."""
    try:
        seen = packed.stat()
        return _read(packed, seen.st_mtime_ns, seen.st_size)
    except (OSError, UnicodeDecodeError):
        return {packed.name: ""}  # named as what cannot be read


@lru_cache(maxsize=64)
def _read(packed: Path, date: int, size: int) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(packed.read_text(encoding="utf-8").split("\n"), 1):
        if line:
            found[_name(line) or f"{packed.name}:{number}"] = line + "\n"
    return found


class _Named(msgspec.Struct):
    """What names a row, read without the rest of it."""

    run_id: Annotated[str, msgspec.Meta(pattern=r"\A[\w.-]+\Z")]


def _name(line: str) -> str:
    try:
        return f"{msgspec.json.decode(line, type=_Named).run_id}.json"
    except (msgspec.DecodeError, RecursionError):
        return ""


def run_id(config: Mapping[str, Any]) -> str:
    """First 12 hex digits of the sha256 of ``config`` as sorted JSON: the same cell has the same id
    anywhere.
    """
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def row_path(results: Path, model: str, run: str) -> Path:
    """``results/<model>/<run_id>.json``; a name of a folder or file stands for its path, ``org/name`` becomes
    ``org--name``.
    """
    is_path = model.startswith(("/", ".", "~")) or Path(model).expanduser().is_dir() or model.endswith(".gguf")
    name = Path(model).expanduser().resolve().name if is_path else model.replace("/", "--")
    return results / (re.sub(r"[^A-Za-z0-9._-]+", "-", name) or "model") / f"{run}.json"


def write_row(row: Row, results: Path) -> Path:
    """Write ``row`` and its answers so that a reader sees the old file or the whole new one, never a part; returns the
    path of the row.

    The answers are there before the row that claims them. Those of a row that is replaced by one without go last.

    Raises:
        StorageError: where there is no room for it.
    """
    path = row_path(results, row.model, row.run_id)
    text = json.dumps(row.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_pair(path, text.encode("utf-8"), row.transcript or None, bool(row.answers))
    return path


def write_pair(path: Path, row: bytes, answers: bytes | None, claimed: bool) -> None:
    """Write a row to ``path`` and its answers beside it, so that no row is there before the answers it claims.

    Args:
        answers: None where there are none to write: those of a row that claims some may be there already.
        claimed: whether the row claims answers; those beside one that does not are removed.

    Raises:
        StorageError: where there is no room for them.
    """
    beside = answers_path(path)
    # both are on the disk before either is renamed: a full disk leaves the old pair
    write_all([*([] if answers is None else [(beside, answers)]), (path, row)])
    if not claimed:
        beside.unlink(missing_ok=True)


def answers_path(row: Path) -> Path:
    """Where the answers of a row are: ``<run_id>.answers.jsonl.gz`` beside ``<run_id>.json``."""
    return row.with_name(row.name.removesuffix(".json") + ".answers.jsonl.gz")


def load_row(path: Path) -> Row | None:
    """The row of a name (see ``row_files``), or None where there is none (also for a damaged one: its cell is simply
    run again).
    """
    try:
        return Row.from_dict(decoded(row_text(path)))
    except (OSError, ValueError):
        return None


def load_rows(results: Path) -> list[Row]:
    """All rows under ``results``, in the order of their paths."""
    rows = (load_row(path) for path in row_files(results))
    return [row for row in rows if row is not None]
