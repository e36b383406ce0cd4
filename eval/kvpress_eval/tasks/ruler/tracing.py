"""Variable tracing, RULER's: chains of four hops in repeated noise, after one worked example.

Paper: RULER (arXiv 2404.06654). A further turn asks about a further chain. The dialect is that of ``vt``: it
follows a chain hop by hop down to its number, and has no noise.
"""

from __future__ import annotations

import random
import re
import string

from ...episode import Episode, Request, Turn
from ..base import Fact, Filler, Task, Text, finish, places
from ..dialect import builder, solver
from ..haystack import noise
from .words import SUITE

__all__ = ["TASKS"]

_HOPS = 4
_NAME = 5  # capital letters
_HEAD = "Memorize and track the chains of variable assignment hidden in the following text.\n\n"


def _names(rng: random.Random, taken: set[str]) -> list[str]:
    """The names of a chain."""
    names: list[str] = []
    while len(names) <= _HOPS:
        name = "".join(rng.choices(string.ascii_uppercase, k=_NAME))
        if name not in taken:
            taken.add(name)
            names.append(name)
    return names


def _statements(value: str, names: list[str]) -> list[str]:
    sources = [value, *(f"VAR {name}" for name in names)]
    return [f"VAR {name} = {source}." for name, source in zip(names, sources, strict=False)]


def _question(value: str) -> tuple[str, str]:
    return (
        f"Question: Find all variables that are assigned the value {value} in the text above.",
        f"Answer: According to the chain of variable assignment in the text above, {_HOPS + 1} variables are "
        f"assigned the value {value}, they are:",
    )


def _example(rng: random.Random, value: str, taken: set[str]) -> str:
    names, filler = _names(rng, taken), noise()
    lines = [line for statement in _statements(value, names) for line in (statement, next(filler))]
    return _HEAD + " ".join(lines) + "\n" + " ".join((*_question(value), *names)) + "\n\n"


def _natural(request: Request) -> Episode:
    rng, placing = request.rng("facts"), request.rng("placement")
    taken: set[str] = set()
    # the example first, so that it is the same however many turns there are
    values = [str(value) for value in rng.sample(range(10000, 100000), request.turns + 1)]
    head = _example(request.rng("example"), values[-1], taken) + _HEAD
    facts, turns = list[Fact](), list[Turn]()
    for t, value in enumerate(values[:-1]):
        names = _names(rng, taken)
        at = places(request, t, len(names), placing)
        facts += [Fact(d, text, t) for d, text in zip(at, _statements(value, names), strict=True)]
        question, opening = _question(value)
        turns.append(Turn(question, " ".join(names), (), tuple(names), opening=opening))
    return finish(request, Text(Filler(noise()), facts, " ", head, instruction=head), turns)


def _solve(context: str, question: str) -> str:
    assigned = re.findall(r"VAR (\w+) = (?:VAR )?(\w+)\.", context[context.rindex(_HEAD) :])
    if len({name for name, _ in assigned}) != len(assigned):
        raise ValueError("a variable is assigned twice")
    (value,) = re.findall(r"value (\d+)", question)
    held = [value]
    for name, source in assigned:  # sources come first, so one pass is enough
        if source in held:
            held.append(name)
    return " ".join(held[1:])


TASKS = (
    Task(
        name="ruler_vt",
        about="RULER-like: variable tracing in repeated noise (dialect: hop by hop to the number, without noise)",
        build={"natural": _natural, "dialect": builder("trace")},
        solve={"natural": _solve, "dialect": solver("trace")},
        chance=lambda rendering, turns: 1e-2 if rendering == "dialect" else 0.0,
        suite=SUITE,
    ),
)
