"""What every importer shares: one answered item, and a row made of many."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..rows.row import Row
from ..rows.row_files import run_id

__all__ = ["UNREADABLE", "Damaged", "Found", "Session", "Skipped", "digest", "make_row", "name_under"]

_NOT_MEASURED = (
    *("bytes", "bytes_dense", "bytes_ratio", "logical_length", "step_bytes", "decode_length", "session_bytes"),
    *("ttft_s", "tpot_s", "prefill_s", "prefill_tps", "seconds", "fired", "threads"),
    *("chance", "hit_limit", "empty", "cut", "evidence_cut"),
)


class Damaged(Exception):
    """A result that cannot be read; its text is the reason."""


UNREADABLE = (Damaged, UsageError, OSError, UnicodeDecodeError, RecursionError, OverflowError)
"""What reading a result may raise that is the file's fault."""


@dataclass(frozen=True)
class Found:
    """A row, and the file or folder under the imported one that it was made of."""

    row: Row
    path: str


@dataclass(frozen=True)
class Skipped:
    """What was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Session:
    """One context with its answers; scores in 0..1. ``tasks`` names the sub-task of every turn of a mixed task."""

    id: str
    scores: Sequence[float]
    reference: Sequence[float] = ()
    tasks: Sequence[str] = ()


def digest(text: str) -> str:
    """Eight hex digits that tell two texts apart."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def name_under(path: Path, folder: Path) -> str:
    """How ``path`` is called in messages: from ``folder`` on."""
    name = path.relative_to(folder).as_posix()
    return folder.name if name == "." else name


def make_row(
    settings: Mapping[str, Any], sessions: Sequence[Session], identity: Mapping[str, Any] | None = None
) -> Row:
    """The row of ``sessions``.

    Args:
        settings: fields of :class:`~kvpress_eval.rows.Row` that are known; what is neither here nor follows from the
            sessions is null, which a report shows as not measured.
        sessions: at least one, each with at least one score.
        identity: further settings that tell this row from others (a fraction of the data, say).
    """
    named = ("origin", "suite", "source", "model", "press", "task", "mode", "history", "schedule", "question_visible")
    own = {name: settings[name] for name in (*named, "length", "seed")}
    columns: list[list[float]] = [[] for _ in range(max(len(session.scores) for session in sessions))]
    by_task: dict[str, list[float]] = {}
    for session in sessions:
        for column, score in zip(columns, session.scores, strict=False):
            column.append(score)
        for task, score in zip(session.tasks, session.scores, strict=False):
            by_task.setdefault(task, []).append(score)
    turns = sum(map(len, columns))
    values: dict[str, Any] = {
        **dict.fromkeys(_NOT_MEASURED),
        "status": "ok",
        "press_spec": settings["press"],
        "rendering": "natural",
        "command": "",
        **settings,
        "run_id": run_id({**own, **(identity or {})}),
        "sessions": len(sessions),
        "turns": turns,
        "session_ids": [session.id for session in sessions],
        "session_scores": [list(session.scores) for session in sessions],
        "reference_scores": [list(session.reference) for session in sessions if session.reference],
        "turn_tasks": [list(session.tasks) for session in sessions if session.tasks],
        "subtasks": {task: sum(scores) / len(scores) for task, scores in sorted(by_task.items())},
        "score": sum(map(sum, columns)) / turns,
        "score_by_turn": [sum(column) / len(column) for column in columns],
        "n_by_turn": [len(column) for column in columns],
    }
    return Row(**values)
