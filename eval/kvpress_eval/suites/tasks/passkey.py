"""Passkey: a number in noise that repeats five sentences (in the dialect one sentence).

After the passkey test (Mohtashami and Jaggi) as used by InfiniteBench. A needle in noise may be easy to keep where
a record among records is not: compare with ``needle_grid`` (filler that does not repeat itself) and ``kv``. One
question, so one turn.
"""

from __future__ import annotations

import re

from ..dialect_rendering import solver
from ..episode import Episode, Request, Turn
from ..task import Fact, Filler, Task, Text, at_most, depth, finish
from ..texts.haystack import needle_builder, noise
from ..texts.release_prompts import HEADS

__all__ = ["TASK"]

_DIGITS = 5
_HEAD = f"{HEADS['passkey']}\n\n"
_QUESTION = "What is the pass key?"


def _natural(request: Request) -> Episode:
    request = at_most(request, 1)
    key = str(request.rng("facts").randrange(10 ** (_DIGITS - 1), 10**_DIGITS))
    needle = f"The pass key is {key}. Remember it. {key} is the pass key."
    facts = [Fact(depth(request, 0, request.rng("placement")), needle, 0)]
    turn = Turn(_QUESTION, key, (), opening="The pass key is")
    return finish(request, Text(Filler(noise()), facts, " ", _HEAD, instruction=_HEAD), [turn])


def _solve(context: str, question: str) -> str:
    found = re.findall(r"\d+", context)
    if question != _QUESTION or len(found) != 2 or found[0] != found[1]:
        raise ValueError(f"the text holds {len(found)} numbers, expected one pass key, twice")
    return str(found[0])


TASK = Task(
    name="passkey",
    about="a number hidden in repeated noise: one turn",
    build={"dialect": needle_builder(repeated=True, turns=1), "natural": _natural},
    solve={"dialect": solver("fact"), "natural": _solve},
    chance=lambda rendering, turns: 1e-4 if rendering == "dialect" else 1 / (9 * 10 ** (_DIGITS - 1)),
    suite="needles",
)
