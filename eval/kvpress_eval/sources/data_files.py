"""Rows of a local file or folder, one at a time: JSONL or parquet in SCBench's schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UsageError

__all__ = ["find", "is_local", "read"]

Located = tuple[str, dict[str, Any]]
"""Where a row stands, for messages, and the row."""


def is_local(source: str) -> bool:
    """Whether a source is a path, rather than ``scbench`` or another ``owner/name`` of the hub."""
    if source == "scbench":
        return False
    path = Path(source).expanduser()
    outside = source.startswith(("/", ".", "~", "\\")) or path.suffix in (".jsonl", ".parquet")
    return outside or path.exists() or source.count("/") != 1


def find(source: str, task: str) -> list[Path]:
    """The files that hold a task: the source itself, or those of a folder with the task's name.

    Raises:
        UsageError: where there is none; names what was looked for.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix not in (".jsonl", ".parquet"):
            raise UsageError(f"cannot read {path}: expected a .jsonl or .parquet file, or a folder of them")
        return [path]
    if not path.is_dir():
        raise UsageError(
            f"no such source: {source}; choose generated, scbench, a hub id (owner/name), or a folder or file that is "
            "there"
        )
    names = (f"scbench_{task}", task)
    for folder in (path, path / "data"):
        for name in names:
            for file in (folder / f"{name}.jsonl", folder / f"{name}.parquet"):
                if file.is_file():
                    return [file]
            shards = sorted((folder / name).glob("*.parquet"))
            if shards:
                return shards
    raise UsageError(
        f"{source} holds nothing for task {task!r}: expected scbench_{task}.jsonl or {task}.jsonl, or one of them as "
        ".parquet"
    )


def read(files: list[Path]) -> Iterator[Located]:
    """The rows of files, each read when it is asked for.

    Raises:
        UsageError: for a file or line that cannot be read; names it.
    """
    for file in files:
        yield from _parquet(file) if file.suffix == ".parquet" else _jsonl(file)


def _jsonl(file: Path) -> Iterator[Located]:
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{file}, line {number}", _object(line, f"{file}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file}: {' '.join(str(error).split())}; expected UTF-8 text") from None


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where} is not JSON ({error}); expected one object a line") from None
    if not isinstance(row, dict):
        raise UsageError(f"{where} holds {type(row).__name__}; expected an object with context and multi_turns")
    return row


def _parquet(file: Path) -> Iterator[Located]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        number = 0
        with ParquetFile(file) as table:
            # few at a time: a row may hold megabytes of text
            for batch in table.iter_batches(batch_size=4):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}, row {number}", row
    except (OSError, ArrowException) as error:
        raise UsageError(f"cannot read {file}: {' '.join(str(error).split())}; expected a parquet file") from None
