"""Key-value look-up (Retr.KV): random UUID pairs in one JSON object, one key per turn.

Paper: SCBench (arXiv 2412.10319), after Lost in the Middle. Keys and values share no first eight
characters, so that the value of a look-alike key is never right by accident.
"""

from __future__ import annotations

import itertools
import json

from ..dialect_rendering import builder, solver
from ..episode import Episode, Request, Turn
from ..task import Fact, Filler, Task, Text, depth, finish
from ..texts.draws import unlike
from ..texts.release_prompts import HEADS

__all__ = ["TASK", "pair", "question"]

_INSTRUCTION = f"{HEADS['kv']}\n\n"
_HEAD = f"{_INSTRUCTION}JSON data:\n{{"
_FOOT = "}"


def pair(key: str, value: str) -> str:
    """As it stands in the context."""
    return f'"{key}": "{value}"'


def _natural(request: Request) -> Episode:
    taken: set[str] = set()
    facts, placing = unlike(request.rng("facts"), taken), request.rng("placement")
    golds = [(next(facts), next(facts)) for _ in range(request.turns)]
    items = [Fact(depth(request, t, placing), pair(*golds[t]), t) for t in range(request.turns)]
    others = unlike(request.rng("filler"), taken)
    filler = Filler(pair(next(others), next(others)) for _ in itertools.count())
    turns = [Turn(question(key), value, ()) for key, value in golds]
    text = Text(filler, items, ", ", _HEAD, _FOOT, _INSTRUCTION)
    return finish(request, text, turns)


def question(key: str) -> str:
    """How a value is asked for."""
    return f'Key: "{key}"\nThe value associated with the specified key is:'


def _solve(context: str, question: str) -> str:
    pairs = json.loads(context[context.index("{") :], object_pairs_hook=list)
    key = question.split('"')[1]
    values = [value for name, value in pairs if name == key]
    if len(values) != 1:
        raise ValueError(f"key {key} stands {len(values)} times")
    return str(values[0])


TASK = Task(
    name="kv",
    about="key-value look-up: one random key per turn",
    build={"dialect": builder("kv"), "natural": _natural},
    solve={"dialect": solver("kv"), "natural": _solve},
    chance=lambda rendering, turns: 1e-4 if rendering == "dialect" else 0.0,
)
