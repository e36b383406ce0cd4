"""Where the rows of a folder are: each in a file of its own as it is made, or those of a suite in one once they are
published.

``<model>/<run_id>.json`` is a row. ``<model>/<suite>.jsonl`` holds a row a line, in the order of their ids
(``kvpress pack``). Both have the same name, ``<model>/<run_id>.json``, and readers see no difference. Where a row has a
file of its own and a line too, the file counts: it was written later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

__all__ = ["PACKED", "is_row", "packed_lines", "row_files", "row_text"]

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


def _name(line: str) -> str:
    try:
        run = json.loads(line)["run_id"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return f"{run}.json" if isinstance(run, str) and re.fullmatch(r"[\w.-]+", run) else ""
