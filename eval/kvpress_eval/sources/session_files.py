"""Generated sessions as files of SCBench's schema, which ``--source`` and SCBench's own runner read."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

from ..errors import UsageError
from ..machine.files import check_folder, storage_errors
from ..models import BUNDLED, load_model, locate
from ..suites import build, get_task
from ..suites.prompt import Prompter
from ..suites.session_length import asking, guessing
from .episode_rows import as_row
from .peer_inputs import fed

__all__ = ["tokens_of", "write"]


def write(
    tasks: list[str], folder: Path, length: int, sessions: int, turns: int, seed: int, model: str = ""
) -> list[Path]:
    """Write ``scbench_<task>.jsonl`` (``<task>.jsonl`` in other suites) for each task, one session a line.

    Args:
        length: most tokens of a session, counted by the tokenizer of ``model``; without one, four bytes are a token.
        model: ``tiny`` writes its dialect; any other one is only asked for its tokenizer. With one, ``meta.fed`` of
            a line holds the session's token ids (see :func:`~.peer_inputs.fed`), for harnesses without our tokenizing.

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
    prompter = tokens_of(model) if model else None
    make = guessing if prompter is None else partial(asking, prompter)
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
                    episode = build(make(task, length, turns, seed, session))
                    row = as_row(episode, suite)
                    if prompter is not None:
                        row["meta"]["fed"] = fed(episode, prompter)
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            with storage_errors(path.name, folder):
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        written.append(path)
    return written


def tokens_of(model: str) -> Prompter:
    """The tokenizer of a model by name, folder or hub id; its weights are not read, but for a bundled one.

    Raises:
        UsageError: where it cannot be had.
    """
    if model in BUNDLED:
        loaded = load_model(model)
        return Prompter(loaded.tokenizer, loaded.rendering)
    from transformers import AutoTokenizer

    place = locate(model)
    try:
        return Prompter(AutoTokenizer.from_pretrained(place.source, **place.options), "natural")
    except (OSError, ValueError) as error:
        told = " ".join(str(error).split())[:200]
        raise UsageError(f"cannot load the tokenizer of {model!r}: {told}; see `kvpress models`") from None
