"""From a row of SCBench's schema to a checked record; the deviations of the released rows are straightened here.

Schema: ``{id, context, multi_turns: [{input, answer, ...}]}``. Variable tracing has ``index`` and ``input`` instead;
Math.Find a list as its context; multiple choice ``options``; RepoQA ``lang`` and ``repo`` and, in its turns, ``name``;
the mixes ``task`` in their turns. ``meta`` is ours: ``meta.evidence`` holds for each turn the character spans of
``context`` that the answer stands in; rows that ``kvpress data`` wrote hold their whole text there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError
from ..metrics.golds import Gold
from ..suites.episode import Span
from ..suites.texts.release_prompts import LETTERS

__all__ = ["MIXES", "SCBENCH_TASKS", "Question", "Record", "record"]

MIXES = {
    "summary_with_needles": ("summary", "passkey"),
    "repoqa_and_kv": ("repoqa", "kv"),
}
SCBENCH_TASKS = (
    "kv",
    "prefix_suffix",
    "vt",
    "repoqa",
    "qa_eng",
    "qa_chn",
    "choice_eng",
    "mf",
    "many_shot",
    "summary",
    *MIXES,
)


@dataclass(frozen=True)
class Question:
    """One turn. ``answer`` is what the release's history says, ``gold`` what a scorer gets (None for RepoQA, whose gold
    needs the other rows of the repository: ``name`` is that of the function). ``evidence`` is None where the row does
    not say it.
    """

    text: str
    answer: str
    gold: Gold | None
    task: str = ""
    name: str = ""
    options: tuple[str, ...] = ()
    evidence: tuple[Span, ...] | None = None


@dataclass(frozen=True)
class Record:
    """One row. ``digest`` is a hash of all it holds, ``where`` names it in messages."""

    task: str
    id: str
    context: str
    questions: tuple[Question, ...]
    digest: str
    where: str
    repo: str = ""
    lang: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


def record(task: str, row: Mapping[str, Any], position: int, where: str, turns: int) -> Record:
    """The record of a row, with its first ``turns`` turns (0: all).

    Raises:
        UsageError: for a row that does not keep the schema, or says that it is of another task; names it and says
            what is wrong.
    """
    meta = row.get("meta") or {}
    if (meta.get("task") or task) != task:
        raise UsageError(f"{where} is of task {meta['task']!r}, not {task!r}; use --task {meta['task']}")
    given = _turns(row, where)[: turns or None]
    context = row.get("context") or row.get("input")
    if isinstance(context, list):
        context = str(context)  # the released prompts show a list as Python does
    if not isinstance(context, str) or not context.strip():
        raise _wrong(where, "has no text in context (or input)")
    spans = _spans(meta.get("evidence"), len(given), len(context), where)
    # the bundled model's dialect has answers of its own: its rows are read from meta alone
    known = "" if meta.get("rendering") == "dialect" else task
    questions = tuple(
        _question(known, turn, f"{where}, turn {t + 1}", span)
        for t, (turn, span) in enumerate(zip(given, spans, strict=True))
    )
    kinds = {question.task or known for question in questions}
    if "repoqa" in kinds and not (row.get("repo") and row.get("lang")):
        raise _wrong(where, "has no repo or no lang, which RepoQA needs")
    found = row.get("id")
    found = row.get("index") if found is None else found
    return Record(
        task=task,
        id=str(position if found is None else found),
        context=context,
        questions=questions,
        digest=_digest(row),
        where=where,
        repo=str(row.get("repo") or ""),
        lang=str(row.get("lang") or ""),
        meta=meta,
    )


def _wrong(where: str, what: str) -> UsageError:
    return UsageError(f"{where} {what}; the schema is {{id, context, multi_turns: [{{input, answer}}]}}")


def _turns(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    turns = row.get("multi_turns")
    if isinstance(turns, Mapping):  # datasets gives a sequence of structs as a struct of lists
        turns = [dict(zip(turns, values, strict=True)) for values in zip(*turns.values(), strict=False)]
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise _wrong(where, "has no multi_turns")
    if not all(isinstance(turn, Mapping) for turn in turns):
        raise _wrong(where, "has a turn that is no object")
    # arrow gives every turn the fields of all turns
    return [{key: value for key, value in turn.items() if value is not None} for turn in turns]


def _question(task: str, turn: Mapping[str, Any], where: str, evidence: tuple[Span, ...] | None) -> Question:
    text = turn.get("input")
    if not isinstance(text, str) or not text.strip():
        raise _wrong(where, "has no text in input")
    if "answer" not in turn:
        raise _wrong(where, "has no answer")
    part = ""
    if task in MIXES:
        part = str(turn.get("task", "")).removeprefix("scbench_")
        if part not in MIXES[task]:
            expected = " or ".join(f"scbench_{name}" for name in MIXES[task])
            raise _wrong(where, f"has task {turn.get('task')!r}, expected {expected}")
    kind = part or task
    answer, gold = turn["answer"], _gold(kind, turn, where)
    name = str(turn.get("name", "")) if kind == "repoqa" else ""
    if kind == "repoqa" and not name:
        raise _wrong(where, "has no name, which RepoQA needs")
    options = tuple(map(str, turn.get("options", ()))) if kind == "choice_eng" else ()
    return Question(text, str(answer), gold, part, name, options, evidence)


def _gold(kind: str, turn: Mapping[str, Any], where: str) -> Gold | None:
    """What a scorer compares with, checked: an empty gold would make every answer right."""
    answer = turn["answer"]
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        names = tuple(map(str, answer))
        listed = kind in ("vt", "qa_eng", "qa_chn") or kind not in _PLAIN
        if not listed or not names or not all(name.strip() for name in names):
            raise _wrong(where, f"has answer {answer!r}, expected {_PLAIN.get(kind, 'names')}")
        return names
    if kind == "mf":
        return _number(answer, where)
    if not isinstance(answer, str) or not answer.strip() or kind == "vt":
        if kind not in _PLAIN and isinstance(answer, (int, float)):
            return answer
        raise _wrong(where, f"has answer {answer!r}, expected {_PLAIN.get(kind, 'text')}")
    if kind == "choice_eng":
        return _option(answer, turn.get("options"), where)
    if kind == "many_shot":
        letter = re.fullmatch(r"\s*\(?([A-Z])\)?\s*", answer)
        if letter is None:
            raise _wrong(where, f"has answer {answer!r}, expected one option letter")
        return letter[1]
    if kind == "passkey" and not answer.isdigit():
        raise _wrong(where, f"has answer {answer!r}, expected digits")
    return None if kind == "repoqa" else answer


_PLAIN = {
    "kv": "text",
    "prefix_suffix": "text",
    "vt": "a list of variable names",
    "repoqa": "the source of a function",
    "qa_eng": "text",
    "qa_chn": "text",
    "choice_eng": "the text of an option",
    "mf": "a number",
    "many_shot": "one option letter",
    "summary": "text",
    "passkey": "digits",
}
"""What the answer of a (sub-)task is, for messages."""


def _number(answer: Any, where: str) -> int | float:
    text = str(answer).strip()
    if isinstance(answer, bool) or re.fullmatch(r"-?\d+(\.\d+)?", text) is None:
        raise _wrong(where, f"has answer {answer!r}, expected a number")
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _option(answer: str, options: Any, where: str) -> tuple[str, str]:
    if not isinstance(options, Sequence) or isinstance(options, str) or len(options) != len(LETTERS):
        raise _wrong(where, f"has options {options!r}, expected four texts")
    if list(options).count(answer) != 1:
        raise _wrong(where, f"has answer {answer!r}, which is {list(options).count(answer)} of the options {options!r}")
    return answer, LETTERS[list(options).index(answer)]


def _spans(found: Any, turns: int, end: int, where: str) -> list[tuple[Span, ...] | None]:
    if found is None:
        return [None] * turns
    try:
        spans = [tuple((int(start), int(stop)) for start, stop in turn) for turn in found][:turns]
    except (TypeError, ValueError):
        spans = []
    if len(spans) != turns or not all(0 <= start < stop <= end for turn in spans for start, stop in turn):
        raise _wrong(where, "has a meta.evidence that is not, for each turn, a list of [start, end) of its context")
    return list(spans)


def _digest(row: Mapping[str, Any]) -> str:
    """A hash that JSONL and parquet agree about."""
    kept = {key: value for key, value in row.items() if value is not None and key != "multi_turns"}
    kept["multi_turns"] = _turns(row, "")
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
