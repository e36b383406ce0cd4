"""The answers of a row: one compressed file of JSON lines beside it, which the row knows by its hash.

The first line says whose answers they are and how many. Each further line is one question:

- ``session`` the episode's id, ``turn`` from 1, ``task`` the sub-task of a mixed task;
- ``prompt`` the end of what the model had read, ``answer`` what it said, ``finish`` "stop", or "length" where the limit
  ended the answer;
- ``gold`` the text of the right answer, ``expected`` what the scorers compare with where that is something else;
- ``score`` and ``reference`` by the row's scorer and by the released one (null without one);
- ``gold_logprob`` and ``gold_argmax``, see ``gold_logprobs``; null where there are none;
- ``evidence`` ranges ``[start, end)`` of the prompt's tokens that hold the answer, ``depth`` where their middle stands
  in percent of the context, ``kept`` the share of their slots that the cache still held when the question was
  answered, mean over layers and KV heads; null where it is not known.

The same answers give the same bytes. A row keeps at most ``CAP`` bytes of JSON; where that cuts, row and file say so.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import UsageError
from .row import Row
from .row_files import answers_path, load_row

__all__ = ["CAP", "FORMAT", "Transcript", "finished_row", "packed", "read_answers", "seal", "state", "unpacked"]

FORMAT = 1
CAP = 4 << 20
"""Bytes of JSON that a row's answers may have, before they are compressed."""

_HEAD = 4096  # bytes that a first line may have beyond the cap
_IDENTITY = ("run_id", "model", "press", "task", "mode", "length", "seed")


@dataclass(frozen=True)
class Transcript:
    """What a file of answers says: the header, and one record a question in the order they were asked."""

    header: Mapping[str, Any]
    questions: tuple[Mapping[str, Any], ...]

    @property
    def cut(self) -> str:
        """What the cap took away; empty where all questions are there."""
        return str(self.header.get("cut", ""))


def seal(row: Row, records: Sequence[Mapping[str, Any]], cap: int | None = None) -> None:
    """Give a row the file of its answers, which ``write_row`` writes with it.

    Args:
        cap: bytes of JSON that are kept at most, the first questions first; None takes ``CAP``.
    """
    cap = CAP if cap is None else cap
    lines, size = list[bytes](), 0
    for record in records:
        line = _line(record)
        size += len(line)
        if size > cap:
            break
        lines.append(line)
    head = {"format": FORMAT, **{name: getattr(row, name) for name in _IDENTITY}}
    counts: dict[str, Any] = {"questions": len(lines), "of": len(records)}
    if len(lines) < len(records):
        limit = f"{cap >> 20} MiB" if cap >= 1 << 20 else f"{cap} bytes"
        counts["cut"] = f"the first {len(lines)} of {len(records)} answers: a row keeps at most {limit} of them"
    text = b"".join([_line({**head, **counts}), *lines])
    row.answers = {"sha256": hashlib.sha256(text).hexdigest(), **counts}
    row.transcript = packed(text)


def packed(text: bytes) -> bytes:
    """Compressed, without name and date: the same text gives the same bytes."""
    return gzip.compress(text, compresslevel=9, mtime=0)


def unpacked(data: bytes, most: int = CAP + _HEAD) -> bytes:
    """The text of a compressed file.

    Raises:
        UsageError: for what is no such file, or unpacks to more than ``most`` bytes.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            text = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"not a file of answers: {error}") from None
    if len(text) > most:
        raise UsageError(f"not a file of answers: more than {most} bytes of text")
    return text


def read_answers(path: Path, claimed: Mapping[str, Any]) -> tuple[Transcript, bytes]:
    """The answers in a file, and the file's bytes, if they are those that a row claims.

    Args:
        path: of the answers.
        claimed: ``Row.answers``.

    Raises:
        FileNotFoundError: where there is no file.
        UsageError: where it is not what the row claims.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    text = unpacked(data)
    if hashlib.sha256(text).hexdigest() != claimed.get("sha256"):
        raise UsageError(f"{path.name} holds other answers than its row claims")
    try:
        header, *questions = (json.loads(line) for line in text.decode("utf-8").split("\n") if line)
    except ValueError as error:  # also UnicodeDecodeError, and no line at all
        raise UsageError(f"{path.name} is not a file of answers: {error}") from None
    if not all(isinstance(line, dict) for line in (header, *questions)) or header.get("format") != FORMAT:
        raise UsageError(f"{path.name} is not a file of answers of format {FORMAT}; run the cell again")
    return Transcript(header, tuple(questions)), data


def state(row_file: Path, row: Row) -> Literal["none", "whole", "missing", "damaged"]:
    """Whether a row has answers: it claims none, they are there, they are gone, or what is there is something else."""
    if not row.answers:
        return "none"
    try:
        read_answers(answers_path(row_file), row.answers)
    except FileNotFoundError:
        return "missing"
    except UsageError:
        return "damaged"
    return "whole"


def finished_row(path: Path) -> Row | None:
    """The finished row of a file; None where it has to be run again.

    That is so where its answers are damaged, as for a damaged row. Where somebody took them away the row still counts:
    its figures need no answers, and running a cell again can take hours.
    """
    row = load_row(path)
    if row is None or row.status != "ok" or state(path, row) == "damaged":
        return None
    return row


def _line(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"  # a lone surrogate as JSON writes it: \ud800
