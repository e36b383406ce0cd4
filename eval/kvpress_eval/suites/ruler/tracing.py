"""Variable tracing, RULER's: chains of four hops in repeated noise, after one worked example.

Paper: RULER (arXiv 2404.06654). A further turn asks about a further chain. The dialect is that of ``vt``: it
follows a chain hop by hop down to its number, and has no noise.
"""

from __future__ import annotations

import random

from ..dialect_rendering import builder, solver
from ..episode import Episode, Request, Turn
from ..task import Fact, Filler, Task, Text, finish, places
from ..texts.chains import HEAD, names, solve, statements
from ..texts.haystack import noise
from .made_up import SUITE

__all__ = ["TASKS"]

_HOPS = 4


def _question(value: str) -> tuple[str, str]:
    return (
        f"Question: Find all variables that are assigned the value {value} in the text above.",
        f"Answer: According to the chain of variable assignment in the text above, {_HOPS + 1} variables are "
        f"assigned the value {value}, they are:",
    )


def _example(rng: random.Random, value: str, taken: set[str]) -> str:
    chain, filler = names(rng, taken, _HOPS), noise()
    lines = [line for statement in statements(value, chain) for line in (statement, next(filler))]
    return HEAD + " ".join(lines) + "\n" + " ".join((*_question(value), *chain)) + "\n\n"


def _natural(request: Request) -> Episode:
    rng, placing = request.rng("facts"), request.rng("placement")
    taken: set[str] = set()
    values = [str(value) for value in rng.sample(range(10000, 100000), request.turns + 1)]
    # it takes its names first: further turns change its value alone
    head = _example(request.rng("example"), values[-1], taken) + HEAD
    facts, turns = list[Fact](), list[Turn]()
    for t, value in enumerate(values[:-1]):
        chain = names(rng, taken, _HOPS)
        at = places(request, t, len(chain), placing)
        facts += [Fact(d, text, t) for d, text in zip(at, statements(value, chain), strict=True)]
        question, opening = _question(value)
        turns.append(Turn(question, " ".join(chain), (), tuple(chain), opening=opening))
    return finish(request, Text(Filler(noise()), facts, " ", head, instruction=head), turns)


TASKS = (
    Task(
        name="ruler_vt",
        about="RULER-like: variable tracing in repeated noise (dialect: hop by hop to the number, without noise)",
        build={"natural": _natural, "dialect": builder("trace")},
        solve={"natural": solve, "dialect": solver("trace")},
        chance=lambda rendering, turns: 1e-2 if rendering == "dialect" else 0.0,
        suite=SUITE,
    ),
)
