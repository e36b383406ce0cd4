"""A result row: one cell of a sweep (model, press, task, mode, length, seed), one JSON file."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, get_type_hints

from ..errors import UsageError
from ..machine.files import write_all
from ..machine.printable import cut
from .json_types import misfit
from .parsing import parse_row
from .row_files import row_files, row_text

__all__ = [
    "FORMAT",
    "Row",
    "answers_path",
    "load_row",
    "load_rows",
    "not_numbers",
    "row_path",
    "run_id",
    "write_pair",
    "write_row",
]

FORMAT = 1
_File = bytes  # a row has a field of that name


@dataclass
class Row:
    """Everything a number needs to be believed; times in seconds, memory in bytes, scores in 0..1.

    ``bytes`` is the mean over sessions of what the cache really holds right after the first
    compression, ``bytes_dense`` what a dense cache of as many tokens takes, ``bytes_ratio`` the
    mean of their quotients. ``ttft_s`` is the mean time from the first token fed to the first
    answer token known (context, question and compression included), ``tpot_s`` the mean time of a
    further decoding step, ``press_s`` the time that compressing session 0's first prompt takes by
    itself. ``asked`` is the press as the user named it and ``target`` the bytes it was solved for ("12.5%"; ""
    without): ``press`` then has the value that was found. A failed cell has ``status`` "failed", one that cannot hold
    ``target`` bytes "unreachable"; both have one line of ``error`` and no scores.
    ``peak_kind`` says what ``peak_memory`` is: "rss above loaded model" or "cuda allocated above
    model".

    ``kept_all`` says that the press changed nothing in any session: what was read and answered was shorter than the
    budget, the protected slots or the dense window.

    ``scorer`` made ``session_scores``; ``reference_scores`` are those of the released scorer for the same
    answers, where there is one. ``turn_tasks`` names the sub-task of every turn of a mixed task, ``subtasks``
    their mean scores. ``extras`` are means of what is measured beside the score, over the turns that have it (see
    ``suites.extras``). ``chat`` says whether the tokenizer's chat template was used, ``source`` where the sessions
    come from, ``origin`` whose measurement it is ("" = this harness). ``cut`` is the share of sessions whose context
    was truncated, ``evidence_cut`` the share of turns that lost evidence by it.

    The life of a cache: ``prefill_tps`` prompt tokens read per second; ``fired`` how often the press was applied to a
    session; ``fork_s`` time of a copy that shares the compressed prefix, ``save_s`` and ``load_s`` of writing it to
    ``file_bytes`` on disk and reading it back, ``reload_exact`` whether the next logits and the bytes read were then
    the same, ``not_measured`` why any of these is missing;
    ``step_bytes`` what a decoding step reads of the cache, ``decode_length`` at how many tokens seen (mean), and
    ``session_bytes`` the most that a session's cache held with an answer: what a further row of a batch needs, the
    prompt while it is read not counted.

    ``measures`` are measured beside the score, by name: one list a session in the order of ``session_ids``, one value a
    question, None where there is none. ``gold_logprob`` is the mean log-probability of the gold answer's tokens
    (natural logarithm), ``gold_argmax`` 1 where each of them was the likeliest, else 0 (see ``gold_logprobs``). On
    tasks that ask nothing a session is a passage with one value: "kl" and "nll" in nats a token, "agree" as a share,
    "kl@2-16" of the tokens at these distances from the cut. ``forced`` tokens of each were forced there,
    ``forced_step`` at a time (0: at once).

    ``disturbance`` is what other programs did meanwhile (see ``disturbance.Disturbance``); ``quiet`` says whether the
    times can be believed, and is None where nothing tells, as in rows of before. Scores do not depend on it.

    ``answers`` is what the row claims of the file of answers beside it (see ``answers``); nothing where it has none.
    ``transcript`` is that file until it is written; a row that was read from disk does not have it.
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
    tpot_s: float | None = 0.0
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
    premises: list[dict[str, Any]] = field(default_factory=list)
    measures: dict[str, list[list[float | None]]] = field(default_factory=dict)
    forced: int = 0
    forced_step: int = 0
    disturbance: dict[str, float] = field(default_factory=dict)
    quiet: bool | None = None
    answers: dict[str, Any] = field(default_factory=dict)
    transcript: _File = field(default=b"", repr=False, compare=False)

    def __post_init__(self) -> None:
        self.asked = self.asked or self.press  # rows of before there were amounts do not say

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON holds it."""
        return {name: value for name, value in asdict(self).items() if name != "transcript"}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """The row of a JSON object; keys that this version does not know are dropped.

        Raises:
            UsageError: for another format, a missing key, or a value that is not what it should be.
        """
        if data.get("format") != FORMAT:
            raise UsageError(f"row format {str(data.get('format'))[:20]!r} is not {FORMAT}; run the cell again")
        hints = _hints()
        try:
            parse_row(data, "")  # says what is wrong with what
            # other programs write null for a text that they do not have
            data = {key: value for key, value in data.items() if value is not None or hints.get(key) is not str}
            # another harness did not measure everything
            if problem := misfit(hints, data, bool(data.get("origin"))) or _premises(data.get("premises", [])):
                raise ValueError(problem)
            return cls(**{key: value for key, value in data.items() if key in hints})
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(
                f"not a result row: {cut(str(error), 150)}; remove the file and run the cell again"
            ) from None


@lru_cache(maxsize=1)
def _hints() -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(Row).items() if name != "transcript"}


def _premises(found: list[dict[str, Any]]) -> str:
    hints = {"says": str, "measures": str, "figure": float, "bound": float, "holds": bool}
    return "" if all(hints.keys() <= one.keys() and not misfit(hints, one) for one in found) else "premises lack a part"


def not_numbers(row: Row) -> str:
    """The first field that holds a number that JSON cannot write (infinite, or none at all); empty where none is."""
    return next((name for name, value in row.to_dict().items() if not _finite(value)), "")


def _finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


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
        data = json.loads(row_text(path))
        return Row.from_dict(data) if isinstance(data, dict) else None
    except (OSError, ValueError, RecursionError, UsageError):
        return None


def load_rows(results: Path) -> list[Row]:
    """All rows under ``results``, in the order of their paths."""
    rows = (load_row(path) for path in row_files(results))
    return [row for row in rows if row is not None]
