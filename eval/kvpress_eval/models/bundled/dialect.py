"""Documents and questions of the small retrieval language that the bundled model reads.

Five kinds of records, each asked about in its own form (the answer always ends with ``;``):

======  ==========================  ==========================  ====================
kind    record in the document      question                    answer
======  ==========================  ==========================  ====================
kv      ``ba de = 12 75 93 ;``      ``? ba de =``               ``12 75 93 ;``
fact    ``age echo is 07 33 ;``     ``? age echo is``           ``07 33 ;``
prefix  ``str ba de fi go ;``       ``? pre ba de :``           ``fi go ;``
trace   ``let de = ba ;``           ``? trace de =``            ``ba = 45 ;`` (each hop)
label   ``fu ba -> L3 ;``           ``? ko be ->``              ``L3 ;``
======  ==========================  ==========================  ====================

A label's class is the consonant of the last syllable, so the word asked about need not occur in the
document. Pure standard library, and the same result in every process for the same
``random.Random``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .record_kinds import RECORDS, Part, filler_words
from .words import TOKEN_ID, VOCAB

__all__ = ["KINDS", "TOKEN_ID", "VOCAB", "Document", "Question", "decode", "document", "encode"]

KINDS = ("kv", "fact", "prefix", "trace", "label")


@dataclass(frozen=True)
class Question:
    """One question about a document.

    ``evidence`` holds token spans ``[start, end)`` of the document (index 0 is ``<bos>``): the
    record that answers, for ``trace`` the record of every hop, for ``label`` every demonstration of
    the class.
    """

    task: str
    prompt: tuple[str, ...]
    answer: tuple[str, ...]
    evidence: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Document:
    """A context (``tokens[0] == "<bos>"``, no questions in it) and what can be asked about it.

    The questions come in random order.
    """

    tokens: tuple[str, ...]
    questions: tuple[Question, ...]


def encode(tokens: Iterable[str]) -> list[int]:
    """Token ids of words; a word outside the vocabulary becomes ``<unk>``."""
    return [TOKEN_ID.get(word, TOKEN_ID["<unk>"]) for word in tokens]


def decode(ids: Iterable[int]) -> str:
    """Words of token ids, separated by one space; an id without a word reads ``<unk>``."""
    return " ".join(VOCAB[i] if 0 <= i < len(VOCAB) else "<unk>" for i in ids)


def document(
    rng: random.Random,
    length: int,
    kinds: Sequence[str],
    filler: float = 0.0,
    easy: bool = False,
    max_questions: int | None = None,
) -> Document:
    """A document of at most ``length`` tokens (and within a few records of it).

    Args:
        rng: the only source of randomness.
        length: tokens, ``<bos>`` included; at least 32.
        kinds: record kinds of :data:`KINDS`; several are interleaved, each with an equal share.
        filler: fraction of the document that is filler words.
        easy: shorter keys and values (the first steps of training).
        max_questions: keep at most this many.

    Raises:
        ValueError: for an unknown kind, a ``length`` under 32 or a ``filler`` outside [0, 0.95].
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"kinds must name one or more of {KINDS}, got {tuple(kinds)}")
    if length < 32 or not 0.0 <= filler <= 0.95:
        raise ValueError(f"need length >= 32 and filler in [0, 0.95], got {length} and {filler}")
    room = length - 1
    share = max(16, int(room * (1 - filler))) // len(kinds)
    parts = [RECORDS[kind](rng, share, easy) for kind in kinds]
    tokens, spans = _interleave(rng, parts, room, pad=filler > 0)
    questions = [
        Question(task, tuple(prompt), tuple(answer), tuple(spans[p][i] for i in records))
        for p, part in enumerate(parts)
        for task, prompt, answer, records in part.questions
    ]
    rng.shuffle(questions)
    return Document(tuple(tokens), tuple(questions[:max_questions]))


def _interleave(
    rng: random.Random, parts: list[Part], room: int, pad: bool
) -> tuple[list[str], list[list[tuple[int, int]]]]:
    """Shuffle the kinds together, keeping each one's order; tokens, and record spans per part."""
    order = [p for p, part in enumerate(parts) for _ in part.records]
    rng.shuffle(order)
    gaps = [0] * (len(order) + 1)
    left = room - sum(part.size for part in parts) if pad else 0
    while left > 2:
        gap = min(left, rng.randint(3, 24))
        gaps[rng.randrange(len(gaps))] += gap
        left -= gap
    tokens = ["<bos>"]
    spans: list[list[tuple[int, int]]] = [[] for _ in parts]
    for gap, p in zip(gaps, order, strict=False):
        tokens += filler_words(rng, gap)
        record = parts[p].records[len(spans[p])]
        spans[p].append((len(tokens), len(tokens) + len(record)))
        tokens += record
    return tokens + filler_words(rng, gaps[-1]), spans
