"""Read result rows without trusting them: what is not a valid row is named with its reason."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unicodedata import category

FORMAT = 1
_OWN_OUTPUT = ("README.md", "index.html")  # what the report itself writes, perhaps next to the rows


@dataclass(frozen=True)
class Row:
    """One press on one task in one mode; scores are fractions 0..1, times seconds, sizes bytes.

    What a row does not say is None (or empty); `scores` maps session id to the score of each turn. `press` has every
    value that was solved for; `asked` is what the user named, for `target` bytes ("12.5%"; "" without).
    """

    path: str
    run_id: str
    status: str
    error: str
    suite: str
    model: str
    model_note: str
    press: str
    press_spec: str
    asked: str
    target: str
    task: str
    mode: str
    history: str
    schedule: str
    question_visible: bool | None
    rendering: str
    length: int
    seed: int
    sessions: int
    turns: int
    scores: Mapping[str, tuple[float, ...]] = field(repr=False)
    score: float | None
    chance: float | None
    hit_limit: float | None
    empty: float | None
    bytes: int | None
    bytes_dense: int | None
    bytes_ratio: float | None
    bytes_by_kind: Mapping[str, int]
    logical_length: float | None
    peak_memory: int | None
    peak_kind: str
    ttft_s: float | None
    tpot_s: float | None
    press_s: float | None
    prefill_s: float | None
    seconds: float | None
    device: str
    dtype: str
    attn: str
    threads: int | None
    versions: str
    commit: str
    started: str
    command: str

    @property
    def ok(self) -> bool:
        """Whether the run finished; only then are there scores."""
        return self.status == "ok"

    @property
    def is_full(self) -> bool:
        """Whether this is the full-cache baseline."""
        return self.press == "full"


@dataclass(frozen=True)
class Ignored:
    """A file in the results folder that is not a row, and why."""

    path: str
    reason: str


def read_rows(results_dir: Path) -> tuple[list[Row], list[Ignored]]:
    """All rows under `results_dir` in the order of their paths, and the other files with reasons.

    Raises:
        FileNotFoundError: `results_dir` is not a folder.
    """
    if not results_dir.is_dir():
        raise FileNotFoundError(
            f"{results_dir} is not a folder; expected <model>/<run_id>.json files in it. Run a sweep first."
        )
    rows: list[Row] = []
    ignored: list[Ignored] = []
    files = [path for path in results_dir.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.relative_to(results_dir).as_posix()):
        name = path.relative_to(results_dir).as_posix()
        if any(part.startswith(".") for part in name.split("/")) or name in _OWN_OUTPUT:
            continue
        try:
            if path.suffix != ".json":
                raise ValueError("not a .json file")
            rows.append(parse_row(json.loads(path.read_text(encoding="utf-8")), name))
        except (json.JSONDecodeError, UnicodeDecodeError):
            ignored.append(Ignored(name, "not valid JSON"))  # the decoder's words vary with Python
        except (ValueError, OverflowError, RecursionError, OSError) as problem:
            ignored.append(Ignored(name, " ".join(str(problem).split())[:200]))
    return rows, ignored


def parse_row(data: Any, path: str) -> Row:
    """One row from decoded JSON. Raises ValueError naming the first thing that is wrong."""
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    if data.get("format") != FORMAT:
        raise ValueError(f"format is {data.get('format')!r}, expected {FORMAT}")
    if data.get("status") not in ("ok", "failed"):
        raise ValueError(f"status is {data.get('status')!r}, expected 'ok' or 'failed'")
    ok = data["status"] == "ok"
    scores = _scores(data) if ok else {}
    kinds = data.get("bytes_by_kind") or {}
    if not isinstance(kinds, dict) or any(_number(size) is None for size in kinds.values()):
        raise ValueError("bytes_by_kind is not an object of numbers")
    visible = data.get("question_visible")
    values: dict[str, Any] = {
        **{name: _required_text(data, name) for name in ("model", "press", "task", "mode")},
        **{name: _text(data.get(name)) for name in _TEXTS},
        # A failed run measured nothing: its zeros are placeholders, not results.
        **{name: _number(data.get(name)) if ok else None for name in _FLOATS},
        **{name: _integer(data.get(name)) if ok else None for name in _INTEGERS},
    }
    return Row(
        path=path,
        run_id=_text(data.get("run_id")) or path.rsplit("/", 1)[-1].removesuffix(".json"),
        status=data["status"],
        scores=scores,
        sessions=len(scores),
        turns=sum(len(turns) for turns in scores.values()),
        bytes_by_kind={str(kind): int(kinds[kind]) for kind in sorted(kinds)} if ok else {},
        asked=_text(data.get("asked")) or _text(data["press"]),
        question_visible=visible if isinstance(visible, bool) else None,
        threads=_integer(data.get("threads")),
        length=_required_int(data, "length"),
        seed=_integer(data.get("seed")) or 0,
        **values,
    )


_TEXTS = (
    *(
        "error",
        "suite",
        "model_note",
        "press_spec",
        "target",
        "history",
        "schedule",
        "rendering",
        "peak_kind",
    ),
    *("device", "dtype", "attn", "versions", "commit", "started", "command"),
)
_FLOATS = (
    *("score", "chance", "hit_limit", "empty", "bytes_ratio", "logical_length"),
    *("ttft_s", "tpot_s", "press_s", "prefill_s", "seconds"),
)
_INTEGERS = ("bytes", "bytes_dense", "peak_memory")


def _scores(data: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    ids, scores = data.get("session_ids"), data.get("session_scores")
    if not isinstance(ids, list) or not isinstance(scores, list) or not scores:
        raise ValueError("session_ids and session_scores are missing or empty")
    if len(ids) != len(scores) or len({str(i) for i in ids}) != len(ids):
        raise ValueError(f"{len(ids)} session_ids (repeats?) for {len(scores)} session_scores")
    for turns in scores:
        if not isinstance(turns, list) or not turns:
            raise ValueError("a session without turns in session_scores")
        if any((value := _number(turn)) is None or not 0 <= value <= 1 for turn in turns):
            raise ValueError("a score in session_scores is not a number from 0 to 1")
    pairs = zip(ids, scores, strict=True)
    return {str(i): tuple(float(turn) for turn in turns) for i, turns in pairs}


def _required_text(data: dict[str, Any], name: str) -> str:
    if not isinstance(data.get(name), str) or not data[name].strip():
        raise ValueError(f"{name} is missing or not text")
    return _text(data[name])


def _required_int(data: dict[str, Any], name: str) -> int:
    value = _integer(data.get(name))
    if value is None:
        raise ValueError(f"{name} is missing or not a whole number")
    return value


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in sorted(value.items()))
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False)
    # Lone surrogates cannot be written as UTF-8; control and bidi characters would spoof a name.
    spoils = ("Cc", "Cf", "Cs")
    return "".join("\ufffd" if category(c) in spoils and c not in "\n\t" else c for c in value)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _integer(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == int(number) else None
