"""Generated sessions as files of SCBench's schema, which ``--source`` and SCBench's own runner read."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..episode import Count, Rendering, Request
from ..errors import UsageError
from ..models import BUNDLED, load
from ..prompt import Prompter
from ..tasks import build, get_task
from .stored import as_row

__all__ = ["tokens_of", "write"]

_BYTES = 4  # of UTF-8 a token, where no tokenizer counts


def write(
    tasks: list[str], folder: Path, length: int, sessions: int, turns: int, seed: int, model: str = ""
) -> list[Path]:
    """Write ``scbench_<task>.jsonl`` (``<task>.jsonl`` in other suites) for each task, one session a line.

    Args:
        length: most tokens of a session, counted by the tokenizer of ``model``; without one, four bytes are a token.
        model: ``tiny`` writes its dialect; a folder or a hub id is only asked for its tokenizer.

    Raises:
        UsageError: for a task, a length or a model that cannot be.
    """
    for name, value in (("length", length), ("sessions", sessions), ("turns", turns)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    for task in tasks:
        get_task(task)
    rendering, count, overhead = _counting(model, turns)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for task in tasks:
        suite = get_task(task).suite
        path = folder / (f"scbench_{task}.jsonl" if suite == "scbench" else f"{task}.jsonl")
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            with part.open("w", encoding="utf-8") as file:
                for session in range(sessions):
                    request = Request(task, rendering, length, turns, seed, session, count, overhead)
                    file.write(json.dumps(as_row(build(request), suite), ensure_ascii=False) + "\n")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        written.append(path)
    return written


def _counting(model: str, turns: int) -> tuple[Rendering, Count, int]:
    """The rendering, how to count its tokens, and how many a session has beside its text."""
    if not model:
        return "natural", lambda text: -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES), 1
    prompter = tokens_of(model)
    return prompter.rendering, prompter.count, prompter.overhead_for(turns)


def tokens_of(model: str) -> Prompter:
    """The tokenizer of a model by name, folder or hub id; its weights are not read, but for a bundled one.

    Raises:
        UsageError: where it cannot be had.
    """
    if model in BUNDLED:
        return load(model).prompter
    from transformers import AutoTokenizer

    try:
        return Prompter(AutoTokenizer.from_pretrained(str(Path(model).expanduser())), "natural")
    except (OSError, ValueError) as error:
        told = " ".join(str(error).split())[:200]
        raise UsageError(f"cannot load the tokenizer of {model!r}: {told}; give a folder or a hub id") from None
