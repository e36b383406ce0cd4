"""Passages as JSON lines, for harnesses that measure the same text in an environment of their own.

One line a passage: what a peer has to feed and what its result has to say. ``prefix_ids`` are to be read and
compressed, the begin token among them where the tokenizer puts one; ``forced_ids`` are to be forced after them. ``row``
goes into the result unchanged: rows that differ in it never stand in one table (see ``importers.peer``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..files import write_whole
from ..prompt import Prompter
from .passages import Passage, Passages, cut

__all__ = ["as_line", "write_passages"]


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


def write_passages(configs: Sequence[RunConfig], prompter: Prompter, folder: Path) -> list[Path]:
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
