"""Training sequences: a document, then questions with answers, and which positions carry a loss.

A batch is a function of (seed, step, length): no generator state to save, and a resumed run sees
the same data.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .dialect import TOKEN_ID, Document, document, encode

MIXTURE = {"kv": 2.0, "fact": 1.3, "prefix": 2.2, "trace": 2.0, "label": 0.8, "mixed": 1.5}
"""Odds of what a training sequence holds."""
LOOKUPS = ("kv", "fact", "prefix", "trace")
DEMONSTRATION = 0.5  # loss weight of a label that the demonstrations before it already determine
BACKGROUND = 0.03  # loss weight of a random position of the document
MAX_LOSS = 0.30  # of the positions of a batch at most


@dataclass(frozen=True)
class Sequence:
    """One training sequence; ``answers`` as (start, end, task), ``demonstrations`` as positions."""

    ids: list[int]
    answers: list[tuple[int, int, str]]
    demonstrations: list[int]


@dataclass(frozen=True)
class Batch:
    """``ids`` (B, n); ``at`` (m,) flat positions to predict from; ``target``, ``weight`` (m,).

    ``answers`` are (start, end, task) ranges of the m rows.
    """

    ids: Tensor
    at: Tensor
    target: Tensor
    weight: Tensor
    answers: list[tuple[int, int, str]]


def sequence(rng: random.Random, length: int, mixture: Mapping[str, float], easy: bool = False) -> Sequence:
    """One sequence of exactly ``length`` ids (padded at the end)."""
    kind = rng.choices(list(mixture), weights=list(mixture.values()))[0]
    kinds = [kind] if kind != "mixed" else rng.sample(LOOKUPS, rng.randint(2, 4))
    if kind == "mixed" and rng.random() < 0.2:
        kinds[0] = "label"
    asked = rng.uniform(0.3, 0.55) if length <= 128 else rng.uniform(0.12, 0.5)
    filler = 0.0 if rng.random() < 0.6 else rng.uniform(0.1, 0.8)
    doc = document(rng, max(32, int(length * (1 - asked))), kinds, filler, easy)
    ids = encode(doc.tokens)
    questions = list(doc.questions)
    if questions:  # repeated questions fill what is left
        questions += rng.choices(questions, k=max(4, len(questions) // 4))
    answers = []
    for question in questions:
        start = len(ids) + len(question.prompt)
        end = start + len(question.answer)
        if end <= length:
            ids += encode(question.prompt + question.answer)
            answers.append((start, end, question.task))
    return Sequence(ids + [TOKEN_ID["<pad>"]] * (length - len(ids)), answers, _demonstrations(doc))


def _demonstrations(doc: Document) -> list[int]:
    """Where a label stands whose class was shown before: fourth token of ``fu ba -> L3 ;``."""
    shown = {q.evidence for q in doc.questions if q.task == "label"}
    return sorted(start + 3 for evidence in shown for start, _ in sorted(evidence)[1:])


def batch(
    seed: int,
    step: int,
    length: int,
    tokens: int,
    mixture: Mapping[str, float] = MIXTURE,
    easy: bool = False,
) -> Batch:
    """The batch of a step: ``tokens // length`` sequences, a constant number of loss rows."""
    rng = random.Random(f"{seed}/{step}/{length}")
    rows, limit = tokens // length, int(tokens * MAX_LOSS) // 64 * 64
    ids: list[int] = []
    at: list[int] = []
    weight: list[float] = []
    answers: list[tuple[int, int, str]] = []
    for row in range(rows):
        seq = sequence(rng, length, mixture, easy and rng.random() < 0.85)
        ids += seq.ids
        for start, end, task in seq.answers:
            answers.append((len(at), len(at) + end - start, task))
            at += range(row * length + start - 1, row * length + end - 1)
        weight += [1.0] * (len(at) - len(weight))
        at += [row * length + position - 1 for position in seq.demonstrations]
        weight += [DEMONSTRATION] * (len(at) - len(weight))
    at, weight = at[:limit], weight[:limit]
    while len(at) < limit:
        position = rng.randrange(rows * length - 1)
        real = position % length != length - 1 and ids[position + 1] != TOKEN_ID["<pad>"]
        at.append(position if real else 0)
        weight.append(BACKGROUND if real else 0.0)
    flat, index = torch.tensor(ids, dtype=torch.int64, device="cpu"), torch.tensor(at, dtype=torch.int64, device="cpu")
    kept = [answer for answer in answers if answer[1] <= limit]
    return Batch(
        flat.view(rows, length), index, flat[index + 1], torch.tensor(weight, dtype=torch.float32, device="cpu"), kept
    )
