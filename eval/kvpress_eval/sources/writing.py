"""Generated sessions as files of SCBench's schema, which ``--source`` and SCBench's own runner read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..episode import Request
from ..errors import UsageError
from ..files import check_folder, storage_errors
from ..models import BUNDLED, load, locate
from ..prompt import Prompter
from ..ruler import asking, guessing
from ..tasks import build, get_task
from .stored import as_row

__all__ = ["tokens_of", "write"]


def write(
    tasks: list[str], folder: Path, length: int, sessions: int, turns: int, seed: int, model: str = ""
) -> list[Path]:
    """Write ``scbench_<task>.jsonl`` (``<task>.jsonl`` in other suites) for each task, one session a line.

    Args:
        length: most tokens of a session, counted by the tokenizer of ``model``; without one, four bytes are a token.
        model: ``tiny`` writes its dialect; any other one is only asked for its tokenizer.

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
    make = _requests(model)
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
                    request = make(task, length, turns, seed, session)
                    file.write(json.dumps(as_row(build(request), suite), ensure_ascii=False) + "\n")
            with storage_errors(path.name, folder):
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        written.append(path)
    return written


def _requests(model: str) -> Callable[[str, int, int, int, int], Request]:
    """What makes the request for a task, length, turns, seed and session."""
    if not model:
        return guessing
    return partial(asking, tokens_of(model))


def tokens_of(model: str) -> Prompter:
    """The tokenizer of a model by name, folder or hub id; its weights are not read, but for a bundled one.

    Raises:
        UsageError: where it cannot be had.
    """
    if model in BUNDLED:
        return load(model).prompter
    from transformers import AutoTokenizer

    place = locate(model)
    try:
        return Prompter(AutoTokenizer.from_pretrained(place.source, **place.options), "natural")
    except (OSError, ValueError) as error:
        told = " ".join(str(error).split())[:200]
        raise UsageError(f"cannot load the tokenizer of {model!r}: {told}; see `kvpress models`") from None
