"""A result row: one cell of a sweep (model, press, task, mode, length, seed), one JSON file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import UsageError
from .files import write_whole

__all__ = ["FORMAT", "Row", "load_row", "load_rows", "row_path", "run_id", "write_row"]

FORMAT = 1


@dataclass
class Row:
    """Everything a number needs to be believed; times in seconds, memory in bytes, scores in 0..1.

    ``bytes`` is the mean over sessions of what the cache really holds right after the first
    compression, ``bytes_dense`` what a dense cache of as many tokens takes, ``bytes_ratio`` the
    mean of their quotients. ``ttft_s`` is the mean time from the first token fed to the first
    answer token known (context, question and compression included), ``tpot_s`` the mean time of a
    further decoding step, ``press_s`` the time that compressing session 0's first prompt takes by
    itself. ``asked`` is the press as the user named it and ``target`` the bytes it was solved for ("12.5%"; ""
    without): ``press`` then has the value that was found. A failed cell has ``status`` "failed", one line of
    ``error`` and no scores.
    ``peak_kind`` says what ``peak_memory`` is: "rss above loaded model" or "cuda allocated above
    model".

    ``kept_all`` says that the press changed nothing in any session's first prompt: it was shorter than the budget,
    the protected slots or the dense window.

    ``scorer`` made ``session_scores``; ``reference_scores`` are those of the released scorer for the same
    answers, where there is one. ``turn_tasks`` names the sub-task of every turn of a mixed task, ``subtasks``
    their mean scores. ``extras`` are means of what is measured beside the score, over the turns that have it (see
    ``tasks.extras``). ``chat`` says whether the tokenizer's chat template was used, ``source`` where the sessions
    come from, ``origin`` whose measurement it is ("" = this harness). ``cut`` is the share of sessions whose context
    was truncated, ``evidence_cut`` the share of turns that lost evidence by it.

    The life of a cache: ``prefill_tps`` prompt tokens read per second; ``fired`` how often the press was applied to a
    session; ``fork_s`` time of a copy that shares the compressed prefix, ``save_s`` and ``load_s`` of writing it to
    ``file_bytes`` on disk and reading it back, ``reload_exact`` whether the next logits and the bytes read were then
    the same, ``not_measured`` why any of these is missing;
    ``step_bytes`` what a decoding step reads of the cache, ``decode_length`` at how many tokens seen (mean), and
    ``session_bytes`` the most that a session's cache held with an answer: what a further row of a batch needs, the
    prompt while it is read not counted.
    """

    run_id: str
    status: str
    model: str
    press: str
    press_spec: str
    task: str
    mode: str
    history: str
    schedule: str
    question_visible: bool
    rendering: str
    length: int
    seed: int
    sessions: int
    command: str
    asked: str = ""
    target: str = ""
    suite: str = "scbench"
    format: int = FORMAT
    error: str | None = None
    model_note: str = ""
    weights: str = ""
    turns: int = 0
    session_ids: list[str] = field(default_factory=list)
    session_scores: list[list[float]] = field(default_factory=list)
    score: float = 0.0
    score_by_turn: list[float] = field(default_factory=list)
    n_by_turn: list[int] = field(default_factory=list)
    chance: float | None = 0.0
    hit_limit: float = 0.0
    empty: float = 0.0
    bytes: int = 0
    bytes_dense: int = 0
    bytes_ratio: float = 0.0
    bytes_by_kind: dict[str, int] = field(default_factory=dict)
    logical_length: float = 0.0
    kept_all: bool = False
    peak_memory: int | None = None
    peak_kind: str | None = None
    ttft_s: float = 0.0
    tpot_s: float = 0.0
    press_s: float | None = None
    prefill_s: float = 0.0
    seconds: float = 0.0
    device: str = ""
    dtype: str = ""
    attn: str = ""
    threads: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    started: str = ""
    source: str = "generated"
    prompts: str = "corrected"
    scorer: str = ""
    origin: str = ""
    depth: int | None = None
    reference_scores: list[list[float]] = field(default_factory=list)
    turn_tasks: list[list[str]] = field(default_factory=list)
    subtasks: dict[str, float] = field(default_factory=dict)
    extras: dict[str, float] = field(default_factory=dict)
    cut: float = 0.0
    evidence_cut: float = 0.0
    prefill_tps: float = 0.0
    fired: float = 0.0
    fork_s: float | None = None
    save_s: float | None = None
    load_s: float | None = None
    file_bytes: int | None = None
    reload_exact: bool | None = None
    step_bytes: int = 0
    decode_length: float = 0.0
    session_bytes: int = 0
    not_measured: str = ""
    chat: bool | None = None

    def __post_init__(self) -> None:
        self.asked = self.asked or self.press  # rows of before there were amounts do not say

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """The row of a JSON object; keys that this version does not know are dropped.

        Raises:
            UsageError: for another format or a missing key.
        """
        if data.get("format") != FORMAT:
            raise UsageError(f"row format {data.get('format')!r} is not {FORMAT}; run the cell again")
        names = {f.name for f in fields(cls)}
        try:
            return cls(**{key: value for key, value in data.items() if key in names})
        except TypeError as error:
            raise UsageError(f"not a result row: {error}; remove the file and run the cell again") from None


def run_id(config: Mapping[str, Any]) -> str:
    """First 12 hex digits of the sha256 of ``config`` as sorted JSON: the same cell has the same id
    anywhere.
    """
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def row_path(results: Path, model: str, run: str) -> Path:
    """``results/<model>/<run_id>.json``; a folder's name stands for its path, ``org/name`` becomes
    ``org--name``.
    """
    is_path = model.startswith(("/", ".", "~")) or Path(model).expanduser().is_dir()
    name = Path(model).expanduser().resolve().name if is_path else model.replace("/", "--")
    return results / (re.sub(r"[^A-Za-z0-9._-]+", "-", name) or "model") / f"{run}.json"


def write_row(row: Row, results: Path) -> Path:
    """Write ``row`` so that a reader sees the old file or the whole new one, never a part; returns
    the path.

    Raises:
        StorageError: where there is no room for it.
    """
    path = row_path(results, row.model, row.run_id)
    write_whole(path, json.dumps(row.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def load_row(path: Path) -> Row | None:
    """The row of a file, or None where there is none (also for a damaged file: its cell is simply
    run again).
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Row.from_dict(data) if isinstance(data, dict) else None
    except (OSError, ValueError, UsageError):
        return None


def load_rows(results: Path) -> list[Row]:
    """All rows under ``results``, in the order of their paths."""
    rows = (load_row(path) for path in sorted(results.glob("*/*.json")) if not path.name.startswith("."))
    return [row for row in rows if row is not None]
