"""Read result rows without trusting them: what is not a valid row is named with its reason."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..machine.printable import plain
from .report_row import CORRECTED, GENERATED, SCBENCH, Ignored, Row, usual_scorer
from .row_files import PACKED, row_files, row_text

__all__ = ["FORMAT", "Ignored", "Row", "parse_row", "read_rows"]

FORMAT = 1
NAME = 1000
"""Characters that what names something may have: a press, a model, a suite."""


def read_rows(results_dir: Path) -> tuple[list[Row], list[Ignored]]:
    """All rows under `results_dir` in the order of their paths, each followed by its twin under the released scorer
    where it has one; and the other files with reasons.

    Raises:
        FileNotFoundError: `results_dir` is not a folder.
    """
    if not results_dir.is_dir():
        raise FileNotFoundError(
            f"{results_dir} is not a folder; expected <model>/<run_id>.json files in it. Run a sweep first."
        )
    rows: list[Row] = []
    ignored: list[Ignored] = []
    packed = set(results_dir.glob(f"*/*{PACKED}"))
    files = {path for path in results_dir.rglob("*") if path.is_file() and path not in packed}
    files.update(row_files(results_dir))
    for path in sorted(files, key=lambda path: path.relative_to(results_dir).as_posix()):
        name = path.relative_to(results_dir).as_posix()
        if any(part.startswith(".") for part in name.split("/")) or _is_output(name):
            continue
        try:
            if path.suffix != ".json" and PACKED not in path.name:
                raise ValueError("not a .json file")
            row = parse_row(json.loads(row_text(path)), plain(name))
            rows += [row, twin] if (twin := row.by_reference()) else [row]
        except (json.JSONDecodeError, UnicodeDecodeError):
            ignored.append(Ignored(plain(name), "not valid JSON"))  # the decoder's words vary with Python
        except (ValueError, OverflowError, RecursionError, OSError) as problem:
            ignored.append(Ignored(plain(name), plain(" ".join(str(problem).split())[:200])))
    return _with_variants(rows), ignored


def _with_variants(rows: list[Row]) -> list[Row]:
    """The rows with what tells them apart: a model trained again under its name is another one; the newest is usual."""
    newest = {(r.model, r.dtype): r.weights for r in sorted(rows, key=lambda r: r.started) if r.weights}
    told = []
    for row in rows:
        older = bool(row.weights) and row.weights != newest[row.model, row.dtype]
        parts = [f"weights {row.weights}" if older else "", "chat template" if row.chat else "", _forced(row)]
        told.append(replace(row, variant=", ".join(filter(None, parts))))
    return told


def _forced(row: Row) -> str:
    """How much text was forced, and how."""
    if not row.forced:
        return ""
    return f"{row.forced} forced" + (f", {row.forced_step} at a time" if row.forced_step else "")


def _is_output(name: str) -> bool:
    """Whether it is what the report itself writes, perhaps next to the rows, or the answers of a row."""
    page = "/" not in name and name.endswith(".html")
    answers = name.endswith(".answers.jsonl.gz") or (name.startswith("answers/") and name.endswith(".js"))
    return name == "README.md" or page or answers


def parse_row(data: Any, path: str) -> Row:
    """One row from decoded JSON. Raises ValueError naming the first thing that is wrong."""
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    if data.get("format") != FORMAT:
        raise ValueError(f"format is {str(data.get('format'))[:20]}, expected {FORMAT}")
    if data.get("status") not in ("ok", "failed", "unreachable"):
        raise ValueError(f"status is {str(data.get('status'))[:20]!r}, expected 'ok', 'failed' or 'unreachable'")
    ok = data["status"] == "ok"
    scores = _scores(data, "session_scores") if ok else {}
    kinds = data.get("bytes_by_kind") or {}
    if not isinstance(kinds, dict) or any(_number(size) is None for size in kinds.values()):
        raise ValueError("bytes_by_kind is not an object of numbers")
    visible, exact, chat, quiet = (data.get(name) for name in ("question_visible", "reload_exact", "chat", "quiet"))
    values: dict[str, Any] = {
        **{name: _required_text(data, name) for name in ("model", "press", "task", "mode")},
        **{name: _text(data.get(name)) for name in _TEXTS},
        **{name: _short(data, name) for name in _NAMES},
        # A failed run measured nothing: its zeros are placeholders, not results.
        **{name: _number(data.get(name)) if ok else None for name in _FLOATS},
        **{name: _integer(data.get(name)) if ok else None for name in _INTEGERS},
    }
    values |= {name: values[name] or None for name in _NEVER_ZERO}
    values["suite"] = SCBENCH if values["suite"] in ("", "core") else values["suite"]  # what rows of before said
    values["source"] = values["source"] or GENERATED
    values["prompts"] = values["prompts"] or CORRECTED
    values["scorer"] = values["scorer"] or usual_scorer(values["rendering"])
    return Row(
        path=path,
        run_id=_text(data.get("run_id")) or path.rsplit("/", 1)[-1].removesuffix(".json"),
        status=_status(data),
        scores=scores,
        sessions=len(scores),
        turns=sum(len(turns) for turns in scores.values()),
        bytes_by_kind={plain(kind): int(kinds[kind]) for kind in sorted(kinds)} if ok else {},
        asked=_short(data, "asked") or _text(data["press"]),
        question_visible=visible if isinstance(visible, bool) else None,
        threads=_integer(data.get("threads")),
        chat=chat if isinstance(chat, bool) else None,
        length=_required_int(data, "length"),
        seed=_integer(data.get("seed")) or 0,
        depth=_integer(data.get("depth")),
        reference_scores=_scores(data, "reference_scores") if ok and data.get("reference_scores") else {},
        turn_tasks=_turn_tasks(data) if ok else {},
        subtasks=_means(data, "subtasks") if ok else {},
        extras=_means(data, "extras") if ok else {},
        unmet=_unmet(data),
        measures=_measures(data) if ok else {},
        forced=_integer(data.get("forced")) or 0,
        forced_step=_integer(data.get("forced_step")) or 0,
        disturbance=_means(data, "disturbance") if ok else {},
        quiet=quiet if ok and isinstance(quiet, bool) else None,
        answers=_answers(data) if ok else {},
        kept_all=ok and data.get("kept_all") is True,
        reload_exact=exact if ok and isinstance(exact, bool) else None,
        **values,
    )


_TEXTS = ("error", "model_note", "not_measured", "versions", "command")
_NAMES = (
    *("suite", "press_spec", "target", "history", "schedule", "rendering", "peak_kind", "source", "prompts", "scorer"),
    *("origin", "weights", "device", "dtype", "attn", "commit", "started"),
)
_FLOATS = (
    *("score", "chance", "hit_limit", "empty", "bytes_ratio", "logical_length"),
    *("ttft_s", "tpot_s", "press_s", "prefill_s", "seconds"),
    *("cut", "evidence_cut", "prefill_tps", "fired", "fork_s", "save_s", "load_s", "decode_length"),
)
_INTEGERS = ("bytes", "bytes_dense", "peak_memory", "file_bytes", "step_bytes", "session_bytes")
# a new field that is zero was not measured
_NEVER_ZERO = ("prefill_tps", "decode_length", "file_bytes", "step_bytes", "session_bytes")


def _status(data: dict[str, Any]) -> str:
    """ok, failed or unreachable; rows of before called an amount that cannot be held a failure."""
    error = data.get("error")
    if data["status"] == "failed" and data.get("target") and isinstance(error, str):
        return "unreachable" if error.startswith("BudgetError: ") and " cannot hold " in error else "failed"
    return str(data["status"])


def _scores(data: dict[str, Any], name: str) -> dict[str, tuple[float, ...]]:
    ids, scores = data.get("session_ids"), data.get(name)
    if not isinstance(ids, list) or not isinstance(scores, list) or not scores:
        raise ValueError(f"session_ids and {name} are missing or empty")
    if len(ids) != len(scores) or len({plain(str(i)) for i in ids}) != len(ids):
        raise ValueError(f"{len(ids)} session_ids (repeats?) for {len(scores)} {name}")
    for turns in scores:
        if not isinstance(turns, list) or not turns:
            raise ValueError(f"a session without turns in {name}")
        if any((value := _number(turn)) is None or not 0 <= value <= 1 for turn in turns):
            raise ValueError(f"a score in {name} is not a number from 0 to 1")
    pairs = zip(ids, scores, strict=True)
    return {plain(str(i)): tuple(float(turn) for turn in turns) for i, turns in pairs}


def _turn_tasks(data: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    tasks = data.get("turn_tasks")
    if not tasks:
        return {}
    ids = data["session_ids"]
    lists = isinstance(tasks, list) and all(isinstance(turns, list) for turns in tasks)
    if not lists or len(tasks) != len(ids):
        raise ValueError("turn_tasks is not a list of names for each session")
    return {plain(str(i)): tuple(map(_text, turns)) for i, turns in zip(ids, tasks, strict=True)}


def _means(data: dict[str, Any], name: str) -> dict[str, float]:
    value = data.get(name)
    if not value:
        return {}
    if not isinstance(value, dict) or any(_number(mean) is None for mean in value.values()):
        raise ValueError(f"{name} is not an object of numbers")
    return {_text(key): float(value[key]) for key in sorted(value)}


def _unmet(data: dict[str, Any]) -> tuple[str, ...]:
    """What the press takes for granted and the model does not have."""
    found = data.get("premises")
    told = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    return tuple(
        f"{_text(one.get('method'))}: {_text(one.get('says'))} does not hold ({_text(one.get('measures'))} "
        f"{_number(one.get('figure')) or 0.0:.2f}, at least {_number(one.get('bound')) or 0.0:.2f})"
        for one in told
        if one.get("holds") is False
    )


def unmet(rows: Iterable[Row]) -> dict[tuple[str, str], list[str]]:
    """(model, premise that does not hold on it, without its figure) -> what was said of it, in order of rows."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for line in row.unmet:
            found.setdefault((row.model, line.partition(" (")[0]), []).append(line)
    return found


def _measures(data: dict[str, Any]) -> dict[str, dict[str, tuple[float | None, ...]]]:
    """Of every measure the values of each session, which need not be as many as its scores."""
    value = data.get("measures")
    if not value:
        return {}
    if not isinstance(value, dict):
        raise ValueError("measures is not an object of lists")
    ids, found = data["session_ids"], {}
    for name in sorted(value):
        sessions = value[name]
        if not isinstance(sessions, list) or len(sessions) != len(ids):
            raise ValueError(f"the measure {_text(name)[:40]} has not a list for each session")
        if any(not isinstance(turns, list) for turns in sessions):
            raise ValueError(f"the measure {_text(name)[:40]} has not a list for each session")
        if any(turn is not None and _number(turn) is None for turns in sessions for turn in turns):
            raise ValueError(f"a value of the measure {_text(name)} is not a number")
        pairs = zip(ids, sessions, strict=True)
        found[_text(name)] = {plain(str(i)): tuple(map(_number, turns)) for i, turns in pairs}
    return found


def _answers(data: dict[str, Any]) -> dict[str, str | int]:
    claimed = data.get("answers")
    if not claimed:
        return {}
    if not isinstance(claimed, dict) or not isinstance(claimed.get("sha256"), str):
        raise ValueError("answers is not what a row says of its answers")
    counts = {name: _integer(claimed.get(name)) or 0 for name in ("questions", "of")}
    return {"sha256": _text(claimed["sha256"]), **counts, "cut": _text(claimed.get("cut"))}


def _required_text(data: dict[str, Any], name: str) -> str:
    if not isinstance(data.get(name), str) or not data[name].strip():
        raise ValueError(f"{name} is missing or not text")
    return _short(data, name)


def _short(data: dict[str, Any], name: str) -> str:
    """A text that names something: tables have it in every line, and patterns are looked for in it."""
    text = _text(data.get(name))
    if len(text) > NAME:
        raise ValueError(f"{name} has {len(text):,} characters, a name at most {NAME:,}")
    return text


def _required_int(data: dict[str, Any], name: str) -> int:
    value = _integer(data.get(name))
    if value is None:
        raise ValueError(f"{name} is missing or not a whole number")
    return value


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return plain(", ".join(f"{key} {_text(item)}" for key, item in sorted(value.items())))
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _integer(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == int(number) else None
