"""Haystacks for few needles: repeated noise, and the dialect's documents of one record or a few.

The dialect's other documents hold records throughout. Here nearly everything is filler: sentences that
differ, or one sentence again and again.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from ...models.bundled.record_kinds import RECORDS, filler_words
from ..episode import Episode, Request, Turn
from ..fitting import limits
from ..task import Fact, Filler, Text, at_most, depth, finish

__all__ = ["needle_builder", "noise"]

_NOISE = (
    "The grass is green.",
    "The sky is blue.",
    "The sun is yellow.",
    "Here we go.",
    "There and back again.",
)
_ANSWER = 6  # words of the longest answer, and one more
_RECORD = 8  # words of the longest fact of the dialect: of a request for n times as many, n are certain


def noise() -> Iterator[str]:
    """The five sentences of the passkey test, again and again."""
    return itertools.cycle(_NOISE)


def needle_builder(records: int = 1, repeated: bool = False, turns: int | None = None) -> Callable[[Request], Episode]:
    """A generator of dialect episodes with facts in filler, at the request's depth where it names one.

    Args:
        records: facts in the document; more where there are more turns, each of which asks about one.
        repeated: the filler is one sentence again and again, drawn anew for each session.
        turns: most turns of an episode.
    """
    return partial(_build, records=records, repeated=repeated, turns=turns)


def _build(request: Request, records: int, repeated: bool, turns: int | None) -> Episode:
    request = request if turns is None else at_most(request, turns)
    rng, placing = request.rng("facts"), request.rng("placement")
    n = max(records, request.turns)
    part = RECORDS["fact"](rng, n * _RECORD, False)
    facts = [Fact(depth(request, t, placing), " ".join(part.records[t]), t) for t in range(request.turns)]
    facts += [Fact(placing.random(), " ".join(record)) for record in part.records[request.turns : n]]
    asked = [Turn(" ".join(prompt), " ".join(answer), ()) for _, prompt, answer, _ in part.questions[: request.turns]]
    words = request.rng("filler")
    pieces = itertools.repeat(_sentence(words)) if repeated else _sentences(words)
    # as many words for any answer, and one for its end, which is fed with the next question
    answers = request.turns * (_ANSWER + 1 - limits(request, asked)[""])
    room = replace(request, overhead=request.overhead + answers)
    return replace(finish(room, Text(Filler(pieces), facts, " "), asked), max_new_tokens=_ANSWER)


def _sentences(rng: random.Random) -> Iterator[str]:
    while True:
        yield _sentence(rng)


def _sentence(rng: random.Random) -> str:
    return " ".join(filler_words(rng, rng.randint(6, 14)))
