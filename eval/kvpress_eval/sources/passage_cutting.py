"""Cutting texts into passages.

A passage is a piece of a document, or, where documents are too short, of several joined. No two passages of a cell
overlap, and each is of another document as long as there are others. The text is raw: no chat template, and the begin
token where the tokenizer puts one.
"""

from __future__ import annotations

import hashlib
import platform
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import EpisodeError, UsageError
from ..suites.episode import VERSION
from ..suites.prompt import Prompter
from . import data_files, genres
from .passages import Passage, Passages
from .wanted import Reader, Wanted

__all__ = ["check_texts", "cut", "open_passages"]

_JOINT = "\n\n\n"


def check_texts(config: Wanted) -> None:
    """Check what a configuration says of the text to be continued, without loading anything.

    Raises:
        UsageError: for files or a source that are missing, or given to a task that has a text of its own.
    """
    named = config.source != "generated"
    if config.task != "lm_text":
        if config.text or named:
            raise UsageError(f"task {config.task!r} has a text of its own; use --task lm_text with --text or --source")
        return
    if bool(config.text) == named:
        raise UsageError("task 'lm_text' needs a text: --text FILE ..., or --source with a data set of rows with text")
    if config.prompts != "corrected":
        raise UsageError("prompts are for tasks that ask something; task 'lm_text' asks nothing: leave it out")
    for path in config.text:
        if not Path(path).expanduser().is_file():
            raise UsageError(f"no such file: {path}; --text needs files of UTF-8 text")
    if named and data_files.is_local(config.source):
        data_files.find(config.source, config.task)


def open_passages(config: Wanted, loaded: Reader) -> Passages:
    """The passages of a cell, kept in ``loaded``: every press is asked the same.

    Raises:
        EpisodeError: for a text without one whole passage, or a model that cannot read it.
    """
    dates = tuple(Path(path).expanduser().stat().st_mtime_ns for path in config.text)
    sizes = (config.length, config.forced, config.sessions, config.seed)
    key = (config.task, *sizes, config.text, dates, config.source)
    if key not in loaded.passages:
        loaded.passages[key] = cut(config, loaded.prompter)
    return loaded.passages[key]


def cut(config: Wanted, prompter: Prompter) -> Passages:
    """The passages that a configuration names, cut by a tokenizer: as many as ``config.sessions``, or all there are.

    Raises:
        EpisodeError: where there is none, or the tokenizer is one of another rendering.
    """
    dialect = config.task == "lm_dialect"
    if dialect != (prompter.rendering == "dialect"):
        better = "--task lm_dialect" if not dialect else "--task lm_reference, lm_code, lm_docstrings or lm_text"
        raise EpisodeError(
            f"task {config.task!r} is not what model {config.model!r} reads ({prompter.rendering}); use {better}"
        )
    if dialect:
        return Passages(tuple(_records(config, prompter)), "generated")
    begin = _begin(prompter.tokenizer)
    need = config.length - len(begin) + config.forced
    if need <= config.forced:
        raise EpisodeError(f"length {config.length} leaves no text before the cut; use --length 16 or more")
    pieces = _pieces(_documents(config, need), prompter.tokenizer, need, config.sessions, config.seed)
    found = []
    for number, (name, ids) in enumerate(pieces):
        before, after = ids[: need - config.forced], ids[need - config.forced :]
        text, forced = (str(prompter.tokenizer.decode(part)) for part in (before, after))
        prefix = (*begin, *before)
        rendering = prompter.rendering
        found.append(Passage(config.task, rendering, name, prefix, tuple(after), text, forced, config.seed, number))
    if not found:
        raise EpisodeError(
            f"the text of task {config.task!r} has not {need} tokens, which a passage takes (length {config.length} "
            f"and forced {config.forced}); use a smaller --length or more text"
        )
    return Passages(tuple(found), _told(config))


def _told(config: Wanted) -> str:
    """Where the text is from, without the folders of this machine."""
    if config.text:
        names = [Path(path).name for path in config.text]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if config.source != "generated":
        return Path(config.source).expanduser().resolve().name if data_files.is_local(config.source) else config.source
    return f"Python {platform.python_version()}"


def _documents(config: Wanted, need: int) -> Iterator[genres.Document]:
    rng = _random(config.seed, config.task)
    if config.text:
        return genres.of_files(config.text, rng)
    if config.source != "generated":
        return genres.of_source(config.source, rng, enough=8 * need)
    return genres.library(config.task, rng)


def _random(*parts: object) -> random.Random:
    text = "|".join(map(str, ("passages", VERSION, *parts)))
    return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))


def _begin(tokenizer: Any) -> tuple[int, ...]:
    """The ids that a tokenizer puts before a text by itself."""
    usual = list(tokenizer("a")["input_ids"])
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    starts = [i for i in range(len(usual)) if usual[i : i + len(bare)] == bare]
    return tuple(usual[: starts[0]]) if starts and bare else ()


def _pieces(
    documents: Iterator[genres.Document], tokenizer: Any, need: int, most: int, seed: int
) -> Iterator[tuple[str, list[int]]]:
    """Up to ``most`` pieces of ``need`` tokens: one of every document that is long enough, then more of them, then
    pieces of short documents joined.
    """
    more: list[tuple[str, list[list[int]]]] = []
    short: list[genres.Document] = []
    for name, text in documents:
        if not most:
            return
        ids = _ids(tokenizer, text)
        windows = [ids[i : i + need] for i in range(0, len(ids) - need + 1, need)]
        if not windows:
            short.append((name, text))
            continue
        _random(seed, name).shuffle(windows)
        yield name, windows.pop()
        most -= 1
        more.append((name, windows))
    while most and (more := [(name, windows) for name, windows in more if windows]):
        for name, windows in more[:most]:
            yield name, windows.pop()
        most -= len(more[:most])
    held: list[genres.Document] = []
    for document in short:
        if not most:
            return
        held.append(document)
        ids = _ids(tokenizer, _JOINT.join(text for _, text in held))
        if len(ids) >= need:
            yield " + ".join(name for name, _ in held), ids[:need]
            most, held = most - 1, []


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _records(config: Wanted, prompter: Prompter) -> Iterator[Passage]:
    """Text of the bundled model's training: a document of records, then questions about it with their answers."""
    from ..models.bundled.dialect import document, encode
    from ..models.bundled.samples import LOOKUPS, MIXTURE

    if config.length < 33:
        raise EpisodeError(f"length {config.length} is too short for records; use --length 33 or more")
    for session in range(config.sessions):
        rng = _random(config.seed, config.task, session)
        kind = rng.choices(list(MIXTURE), weights=list(MIXTURE.values()))[0]
        kinds = rng.sample(LOOKUPS, rng.randint(2, 4)) if kind == "mixed" else [kind]
        records = document(rng, config.length, kinds, 0.0 if rng.random() < 0.6 else rng.uniform(0.1, 0.5))
        words = list(records.tokens)
        questions = list(records.questions)
        while len(words) < config.length + config.forced:
            for question in questions or records.questions:
                words += (*question.prompt, *question.answer)
            questions = rng.sample(records.questions, len(records.questions))
        words = words[: config.length + config.forced]
        before, after = words[: config.length], words[config.length :]
        yield Passage(
            config.task,
            "dialect",
            " and ".join(kinds),
            tuple(encode(before)),
            tuple(encode(after)),
            " ".join(before),
            " ".join(after),
            config.seed,
            session,
        )
