"""Results that a script wrote for another library on exported inputs: one JSON object a press and task.

``{"kind": "kvpress-peer", "origin": ..., "press": ..., "model": ..., "row": {...}, "sessions": [...]}``, in files
``*.json``. ``row`` is that of the exported line, unchanged. A session of a forced text is ``{"id", "nll", "kl",
"agree"}``: a list of one value for every forced token each, in nats (``agree``: 1 or 0), against the full cache of the
same library. A session of questions is ``{"id", "answers", "expected", "stopped"}``, a list of one value for every
question each, which is scored here as answers of our own are; or ``{"id", "scores"}``. It has ``measures`` (a list for
each name) where there are any. Beside these, what was measured and is a field of a row: ``bytes``, ``bytes_dense``,
``bytes_ratio``, ``bytes_by_kind``, ``prefill_s``, ``seconds``, ``device``, ``dtype``, ``attn``, ``threads``,
``versions``, ``command``, ``press_spec``, ``target``, ``forced_step``, ``started``. What is not there is not known, and
never derived.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..metrics import score
from ..metrics.divergence import MEASURES, means
from ..metrics.golds import Gold
from ..runs.config import CONTINUATION
from ..sources.episode_rows import unpacked
from ..suites import TASKS
from .imported_rows import UNREADABLE, Damaged, Found, Session, Skipped, make_row, name_under

__all__ = ["KIND", "read"]

KIND = "kvpress-peer"
_KNOWN = (
    *("bytes", "bytes_dense", "bytes_ratio", "bytes_by_kind", "logical_length", "peak_memory", "peak_kind"),
    *("prefill_s", "ttft_s", "tpot_s", "seconds", "device", "dtype", "attn", "threads", "versions", "command"),
    *("press_spec", "target", "asked", "started", "forced_step", "weights", "mode", "history", "schedule"),
    *("question_visible", "scorer", "prompts", "chat", "depth"),
)


def read(folder: Path) -> Iterator[Found | Skipped]:
    """Rows of every result under ``folder``, in the order of their paths; other files with reasons."""
    for path in sorted(folder.rglob("*"), key=lambda path: path.as_posix()):
        name = name_under(path, folder)
        if path.is_dir() or any(part.startswith(".") for part in name.split("/")):
            continue
        try:
            yield Found(_row(path), name)
        except UNREADABLE as error:
            yield Skipped(name, " ".join(str(error).split()))


def _row(path: Path) -> Any:
    if path.suffix != ".json":
        raise Damaged("not a .json file")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise Damaged("not valid JSON") from None
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise Damaged(f"not the result of a peer (kind {KIND!r} is missing)")
    row, sessions = data.get("row"), data.get("sessions")
    if not isinstance(row, dict) or not isinstance(sessions, list) or not sessions:
        raise Damaged("has no row or no sessions")
    for name in ("origin", "press", "model"):
        if not isinstance(data.get(name), str) or not data[name].strip():
            raise Damaged(f"has no {name}")
    task = TASKS.get(str(row.get("task")))
    if task is None:
        raise Damaged(f"is of task {row.get('task')!r}, which is not known here")
    if not all(isinstance(one, dict) and isinstance(one.get("id"), str) for one in sessions):
        raise Damaged("has a session without an id")
    continues = task.kind == "continuation"
    usual: dict[str, Any] = {
        "mode": CONTINUATION if continues else "multi-request",
        "history": "" if continues else "gold",
        "schedule": "after_context",
        "question_visible": False,
        "scorer": "agreement" if continues else "exact" if row.get("rendering") == "dialect" else "corrected",
    }
    settings = {
        **usual,
        **{name: data[name] for name in _KNOWN if data.get(name) is not None},
        **{name: row[name] for name in ("task", "length", "seed", "source", "rendering") if name in row},
        **{name: data[name] for name in ("origin", "press", "model")},
        "suite": task.suite,
    }
    missing = [name for name in ("length", "seed", "source") if name not in settings]
    if missing:
        raise Damaged(f"its row has no {' and no '.join(missing)}")
    identity: dict[str, Any] = {
        name: settings[name] for name in ("dtype", "device", "target", "forced_step") if name in settings
    }
    if not continues:
        settings |= _ended(sessions)
        found = [_asked(one, settings["scorer"]) for one in sessions]
        return _with_measures(make_row(settings, found, identity), sessions)
    settings["forced"] = _whole(row.get("forced"))
    settings.setdefault("not_measured", "the cache's life: imported")
    forced = [_forced(one, settings["forced"]) for one in sessions]
    made = make_row(
        settings,
        [Session(one["id"], [values["agree"]]) for one, values in zip(sessions, forced, strict=True)],
        {**identity, "forced": settings["forced"]},
    )
    made.measures = {name: [[values[name]] for values in forced] for name in forced[0]}
    return made


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Damaged(f"its row has forced {value!r}, expected the number of forced tokens")
    return value


def _forced(session: Mapping[str, Any], tokens: int) -> dict[str, float]:
    """The means of a passage, by the bins that this harness has."""
    values = {name: session.get(name) for name in MEASURES}
    for name, one in values.items():
        numbers = isinstance(one, list) and all(
            isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in one
        )
        if not isinstance(one, list) or not numbers or len(one) != tokens:
            raise Damaged(f"passage {session['id']} has not {tokens} numbers in {name}, one for each forced token")
    return means({name: [float(v) for v in one or ()] for name, one in values.items()})


def _asked(session: Mapping[str, Any], scorer: str) -> Session:
    if "answers" in session:
        return _scored(session, scorer)
    scores = session.get("scores")
    if not isinstance(scores, list) or not scores:
        raise Damaged(f"session {session['id']} has no scores")
    return Session(session["id"], scores)


def _gold(expected: Mapping[str, Any]) -> Gold:
    """What an answer is compared with: its text, where the scorers need nothing else."""
    found = unpacked(expected["gold"])
    return expected["answer"] if found is None else found


def _scored(session: Mapping[str, Any], scorer: str) -> Session:
    """The session with the scores of its answers, as an answer of our own gets them."""
    answers, expected, stopped = (session.get(name) for name in ("answers", "expected", "stopped"))
    lists = [one for one in (answers, expected, stopped) if isinstance(one, list)]
    if len(lists) != 3 or not answers or len({len(one) for one in lists}) != 1:
        raise Damaged(f"session {session['id']} has not one of answers, expected and stopped for each question")
    try:
        golds = [_gold(one) for one in expected or ()]
        tasks = [str(one["task"]) for one in expected or ()]
    except (TypeError, KeyError, ValueError):
        raise Damaged(f"session {session['id']} has expected answers that kvpress data did not write") from None
    said = list(map(str, answers))
    if scorer == "exact":  # the stop token is part of what the dialect must say
        said = [text + (" ;" if stop else "") for text, stop in zip(said, stopped or (), strict=True)]
        golds = [one["answer"] for one in expected or ()]
        return Session(session["id"], [score(*one, "exact") for one in zip(tasks, said, golds, strict=True)])
    triples = list(zip(tasks, said, golds, strict=True))
    return Session(
        session["id"],
        [score(*one, "corrected") for one in triples],
        [score(*one, "reference") for one in triples],
        tasks if len(set(tasks)) > 1 else (),
    )


def _ended(sessions: list[Any]) -> dict[str, float]:
    """How answers ended, where all sessions say so: shares that ran to the limit, and that are empty."""
    if not all(isinstance(one.get("answers"), list) and isinstance(one.get("stopped"), list) for one in sessions):
        return {}
    stops = [stop for one in sessions for stop in one["stopped"]]
    said = [str(text) for one in sessions for text in one["answers"]]
    return {"hit_limit": stops.count(False) / max(1, len(stops)), "empty": said.count("") / max(1, len(said))}


def _with_measures(row: Any, sessions: list[Any]) -> Any:
    """The row with the measures that every session has; what they hold is checked with the row."""
    lists = [one.get("measures") or {} for one in sessions]
    if not all(isinstance(one, dict) for one in lists):
        raise Damaged("has measures that are no object of lists")
    names = set(lists[0]).intersection(*lists)
    row.measures = {name: [one[name] for one in lists] for name in sorted(names)}
    return row
