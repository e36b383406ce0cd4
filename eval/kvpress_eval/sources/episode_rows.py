"""Generated episodes as rows of SCBench's schema, and back: ``meta`` holds what the schema has no place for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import EpisodeError, UsageError
from ..metrics.golds import Gold
from ..models.rendering import Rendering
from ..suites.episode import VERSION, Episode, Turn
from ..suites.texts.release_prompts import HEADS, told
from .scbench_records import Record

__all__ = ["as_row", "is_stored", "packed", "stored", "unpacked"]

_OPTION = re.compile(r"^([A-D])\. (.*)$", re.MULTILINE)


def as_row(episode: Episode, suite: str) -> dict[str, Any]:
    """The row of an episode. SCBench's own runner can read it: what that adds around context and question is left out
    of them where the generator has the same words.
    """
    head = HEADS.get(episode.task, "")
    before = f"{head}\n\n" if head and episode.context.startswith(f"{head}\n\n") else ""
    golds = [turn.reference for turn in episode.turns]
    row: dict[str, Any] = {
        "id": episode.session,
        "context": episode.context[len(before) :],
        "multi_turns": [_turn(episode.task, turn) for turn in episode.turns],
    }
    languages = [gold["lang"] for gold in golds if isinstance(gold, Mapping) and "lang" in gold]
    if languages:
        row |= {"lang": languages[0], "repo": f"kvpress-{episode.seed}-{episode.session}"}
    row["meta"] = {
        "task": episode.task,
        "suite": suite,
        "version": VERSION,
        "rendering": episode.rendering,
        "length": episode.length,
        "seed": episode.seed,
        "session": episode.session,
        "max_new_tokens": episode.max_new_tokens,
        "before": before,
        "instruction": episode.instruction,
        "evidence": [
            [[start - len(before), end - len(before)] for start, end in turn.evidence] for turn in episode.turns
        ],
        "turns": [
            {
                "question": turn.question,
                "answer": turn.answer,
                "gold": packed(turn.gold),
                "task": turn.task,
                "max_new_tokens": turn.max_new_tokens,
                "later": turn.later,
                "alone": turn.alone,
                "opening": turn.opening,
            }
            for turn in episode.turns
        ],
    }
    return row


def _turn(task: str, turn: Turn) -> dict[str, Any]:
    gold, kind = turn.reference, turn.task or task
    text: dict[str, Any] = {"input": turn.question, "answer": gold}
    if kind in ("qa_eng", "qa_chn", "choice_eng"):
        text["input"] = told(kind, turn.question)
    if kind == "mf":
        text["input"] = turn.question.rpartition("\n\n")[2]
    if isinstance(gold, Mapping):
        name = gold.get("func_name", "")
        # the schema has the function itself, the history of a generated session may have a code block of it
        found = [needle["needle"] for needle in gold.get("needles", ()) if needle["name"] == name]
        text |= {"answer": found[0] if found else turn.answer, "name": name}
    elif isinstance(gold, Sequence) and not isinstance(gold, str):
        text["answer"] = gold[0] if kind in ("qa_eng", "qa_chn") and len(gold) == 1 else list(gold)
    if kind == "choice_eng" and isinstance(gold, Sequence):
        text |= {"answer": gold[0], "options": [option for _, option in _OPTION.findall(turn.question)]}
    if turn.task:
        text["task"] = f"scbench_{turn.task}"
    return text


def is_stored(record: Record) -> bool:
    """Whether a row holds a generated episode whole."""
    return "turns" in record.meta


def stored(record: Record, length: int, rendering: Rendering) -> Episode:
    """The episode of a row, word for word, with as many turns as the record has.

    Raises:
        UsageError: where it is the other rendering's, longer than ``length`` in the dialect (which is not cut), or
            damaged.
    """
    meta = record.meta
    try:
        if meta["rendering"] != rendering:
            raise UsageError(
                f"{record.where} is {meta['rendering']} text and this model reads {rendering}; make rows for it with "
                "kvpress data --model"
            )
        if rendering == "dialect" and meta["length"] > length:
            raise EpisodeError(f"{record.where} is {meta['length']} tokens long; use --length {meta['length']} or more")
        before = str(meta["before"])
        turns = tuple(
            Turn(
                question=turn["question"],
                answer=turn["answer"],
                evidence=tuple((start + len(before), end + len(before)) for start, end in question.evidence or ()),
                gold=unpacked(turn["gold"]),
                task=turn["task"],
                max_new_tokens=turn["max_new_tokens"],
                later=turn["later"],
                alone=turn["alone"],
                opening=turn["opening"],
            )
            for turn, question in zip(meta["turns"], record.questions)
        )
        return Episode(
            task=record.task,
            rendering=rendering,
            context=before + record.context,
            turns=turns,
            max_new_tokens=meta["max_new_tokens"],
            length=length,
            seed=meta["seed"],
            session=meta["session"],
            instruction=meta["instruction"],
        )
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"{record.where} has a damaged meta ({type(error).__name__}: {error}); write it again with kvpress data"
        ) from None


def packed(gold: Gold | None) -> Any:
    """A gold as JSON that keeps what JSON has no word for: keys that are numbers."""
    if isinstance(gold, Mapping):
        return {"pairs": [[key, value] for key, value in gold.items()]}
    return list(gold) if isinstance(gold, Sequence) and not isinstance(gold, str) else gold


def unpacked(gold: Any) -> Gold | None:
    """What :func:`packed` was given; a list has become a tuple."""
    if isinstance(gold, Mapping):
        return dict(gold["pairs"])
    return tuple(gold) if isinstance(gold, list) else gold
