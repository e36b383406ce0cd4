"""Variable tracing (Retr.MultiHop): which variables hold a value, through a chain of assignments.

Paper: RULER variable tracking as used by SCBench, 2 hops: three names per chain, one chain per
turn, in prose instead of repeated noise. The dialect asks the other way round: from a variable
along its chain down to the number.
"""

from __future__ import annotations

from ..dialect_rendering import builder, solver
from ..episode import Episode, Request, Turn
from ..task import Fact, Filler, Task, Text, finish, places
from ..texts.chains import HEAD, names, solve, statements
from ..texts.prose import sentences

__all__ = ["TASK"]

_HOPS = 2


def _natural(request: Request) -> Episode:
    rng, placing, taken = request.rng("facts"), request.rng("placement"), set[str]()
    chains = [names(rng, taken, _HOPS) for _ in range(request.turns)]
    values = [str(v) for v in rng.sample(range(10000, 100000), request.turns)]
    facts = []
    for t, (value, chain) in enumerate(zip(values, chains, strict=True)):
        at = places(request, t, len(chain), placing)
        facts += [Fact(d, text, t) for d, text in zip(at, statements(value, chain), strict=True)]
    filler = Filler(sentences(request.rng("filler")))
    turns = [Turn(_question(v), " ".join(c), (), tuple(c)) for v, c in zip(values, chains, strict=True)]
    return finish(request, Text(filler, facts, " ", HEAD), turns)


def _question(value: str) -> str:
    return (
        f"Find all variables that are assigned the value {value} in the text above.\n"
        f"According to the chain of variable assignment, {_HOPS + 1} variables "
        f"are assigned the value {value}, they are:"
    )


TASK = Task(
    name="vt",
    about="variable tracing through a chain of assignments (dialect: hop by hop to the number)",
    build={"dialect": builder("trace"), "natural": _natural},
    solve={"dialect": solver("trace"), "natural": solve},
    chance=lambda rendering, turns: 1e-2 if rendering == "dialect" else 0.0,
)
