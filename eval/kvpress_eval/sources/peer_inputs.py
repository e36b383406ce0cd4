"""Passages as JSON lines, and the token ids of sessions of questions, for harnesses that measure the same inputs in an
environment of their own.

One line a passage: what a peer has to feed and what its result has to say. ``prefix_ids`` are to be read and
compressed, the begin token among them where the tokenizer puts one; ``forced_ids`` are to be forced after them. ``row``
goes into the result unchanged: rows that differ in it never stand in one table (see ``importers.peer``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..machine.files import write_whole
from ..suites.episode import Episode
from ..suites.prompt import Prompter
from .episode_rows import packed
from .passage_cutting import cut
from .passages import Passage, Passages
from .wanted import Wanted

__all__ = ["as_line", "fed", "write_passages"]


def as_line(passage: Passage, told: str) -> dict[str, Any]:
    """The object of a passage."""
    return {
        "id": passage.id,
        "prefix_ids": list(passage.prefix),
        "forced_ids": list(passage.ids),
        "text": passage.text,
        "forced_text": passage.forced,
        "document": passage.name,
        "row": {
            "task": passage.task,
            "length": len(passage.prefix),
            "forced": len(passage.ids),
            "seed": passage.seed,
            "source": told,
            "rendering": passage.rendering,
        },
    }


def fed(episode: Episode, prompter: Prompter) -> dict[str, Any]:
    """The token ids of a generated session in multi-request mode: ``context_ids`` are to be read and compressed, each
    question answered from a copy of that. ``stop_ids`` end an answer, beside those of the model; ``expected`` goes
    into the result unchanged, for the scorer.
    """
    prompt = prompter.prompt(episode)
    return {
        "id": episode.id,
        "context_ids": prompt.context,
        "questions": [
            {
                "ids": ids,
                "gold_ids": gold,
                "max_new_tokens": turn.max_new_tokens or episode.max_new_tokens,
                "expected": {"task": turn.task or episode.task, "answer": turn.answer, "gold": packed(turn.gold)},
            }
            for turn, ids, gold in zip(episode.turns, prompt.alone, prompt.golds, strict=True)
        ],
        "stop_ids": sorted(prompter.stops([])),
        "chat": prompter.chat,
        "row": {
            "task": episode.task,
            "length": episode.length,
            "seed": episode.seed,
            "source": "generated",
            "rendering": episode.rendering,
        },
    }


def write_passages(configs: Sequence[Wanted], prompter: Prompter, folder: Path) -> list[Path]:
    """Write ``<task>.jsonl`` for each configuration; returns the files.

    Raises:
        UsageError: for a text without a whole passage.
        StorageError: where there is no room.
    """
    written = []
    for config in configs:
        found: Passages = cut(config, prompter)
        lines = [json.dumps(as_line(one, found.told), ensure_ascii=False) + "\n" for one in found.found]
        path = folder / f"{config.task}.jsonl"
        write_whole(path, "".join(lines))
        written.append(path)
    return written
