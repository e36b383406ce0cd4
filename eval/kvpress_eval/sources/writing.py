"""Generated sessions as files of SCBench's schema, which ``--source`` and SCBench's own runner read."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..episode import Count, Rendering, Request
from ..errors import UsageError
from ..files import check_folder, storage_errors
from ..models import BUNDLED, load
from ..prompt import Prompter
from ..tasks import build, get_task
from .stored import as_row

__all__ = ["write"]

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
        StorageError: where nothing can be written, or there is no room.
    """
    for name, value in (("length", length), ("sessions", sessions), ("turns", turns)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    for task in tasks:
        get_task(task)
    check_folder(folder, "--out")
    rendering, count, overhead = _counting(model, turns)
    with storage_errors("sessions", folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = []
    for task in tasks:
        suite = get_task(task).suite
        path = folder / (f"scbench_{task}.jsonl" if suite == "scbench" else f"{task}.jsonl")
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            with storage_errors(path.name, folder), part.open("w", encoding="utf-8") as file:
                for session in range(sessions):
                    request = Request(task, rendering, length, turns, seed, session, count, overhead)
                    file.write(json.dumps(as_row(build(request), suite), ensure_ascii=False) + "\n")
            with storage_errors(path.name, folder):
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        written.append(path)
    return written


def _counting(model: str, turns: int) -> tuple[Rendering, Count, int]:
    """The rendering, how to count its tokens, and how many a session has beside its text."""
    if not model:
        return "natural", lambda text: -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES), 1
    if model in BUNDLED:
        loaded = load(model)
        return loaded.rendering, loaded.prompter.count, loaded.prompter.overhead_for(turns)
    from transformers import AutoTokenizer

    try:
        prompter = Prompter(AutoTokenizer.from_pretrained(str(Path(model).expanduser())), "natural")
    except (OSError, ValueError) as error:
        told = " ".join(str(error).split())[:200]
        raise UsageError(f"cannot load the tokenizer of {model!r}: {told}; give a folder or a hub id") from None
    return "natural", prompter.count, prompter.overhead_for(turns)
