"""Prefix-suffix look-up (Retr.Prefix-Suffix): find the string with a given beginning and end.

Paper: SCBench (arXiv 2412.10319). For every target two strings share its prefix and two its suffix,
so that neither half of the question suffices (random strings alone would hardly ever collide). The
dialect asks for prefixes only.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterator

from ..dialect_rendering import builder, solver
from ..episode import Episode, Request, Turn
from ..task import Fact, Filler, Task, Text, depth, finish

__all__ = ["TASK"]

_LENGTH = 25  # characters of a string
_PART = 4  # characters of a prefix or suffix
_HEAD = "A list of strings, one per line:\n\n"


def _letters(rng: random.Random, n: int) -> str:
    return "".join(rng.choices(string.ascii_letters, k=n))


def _others(rng: random.Random, prefixes: set[str], suffixes: set[str]) -> Iterator[str]:
    """Strings that share neither their prefix nor their suffix with anything asked about."""
    while True:
        text = _letters(rng, _LENGTH)
        if text[:_PART] not in prefixes and text[-_PART:] not in suffixes:
            yield text


def _natural(request: Request) -> Episode:
    rng, placing = request.rng("facts"), request.rng("placement")
    prefixes: set[str] = set()
    suffixes: set[str] = set()
    targets: list[str] = []
    while len(targets) < request.turns:
        drawn = _letters(rng, _LENGTH)
        if drawn[:_PART] not in prefixes and drawn[-_PART:] not in suffixes:
            prefixes.add(drawn[:_PART])
            suffixes.add(drawn[-_PART:])
            targets.append(drawn)
    fresh = _others(rng, prefixes, suffixes)
    items = []
    for t, target in enumerate(targets):
        items.append(Fact(depth(request, t, placing), target, t))
        for _ in range(2):
            items.append(Fact(placing.random(), target[:_PART] + next(fresh)[_PART:]))
            items.append(Fact(placing.random(), next(fresh)[:-_PART] + target[-_PART:]))
    filler = Filler(_others(request.rng("filler"), prefixes, suffixes))
    turns = [Turn(_question(text), text, ()) for text in targets]
    text = Text(filler, items, "\n", _HEAD)
    return finish(request, text, turns)


def _question(text: str) -> str:
    return (
        f'Which string of the list starts with "{text[:_PART]}" and ends with "{text[-_PART:]}"? '
        "Repeat it exactly.\nThe string is:"
    )


def _solve(context: str, question: str) -> str:
    head, tail = re.findall(r'"(\w+)"', question)
    found = [s for s in context[len(_HEAD) :].split("\n") if s.startswith(head) and s.endswith(tail)]
    if len(found) != 1:
        raise ValueError(f"{head}...{tail} matches {len(found)} strings")
    return found[0]


TASK = Task(
    name="prefix_suffix",
    about="find the string with a given prefix and suffix (dialect: prefix)",
    build={"dialect": builder("prefix"), "natural": _natural},
    solve={"dialect": solver("prefix"), "natural": _solve},
    chance=lambda rendering, turns: 1e-4 if rendering == "dialect" else 0.0,
)
