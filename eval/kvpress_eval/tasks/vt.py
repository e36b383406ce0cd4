"""Variable tracing (Retr.MultiHop): which variables hold a value, through a chain of assignments.

Paper: RULER variable tracking as used by SCBench, 2 hops: three names per chain, one chain per
turn, in prose instead of repeated noise. The dialect asks the other way round: from a variable
along its chain down to the number.
"""

from __future__ import annotations

import re
import string

from ..episode import Episode, Request, Turn
from .base import Fact, Filler, Task, Text, finish, places
from .dialect import builder, solver
from .prose import sentences

__all__ = ["HOPS", "TASK"]

HOPS = 2
_NAME = 5  # capital letters of a name
_HEAD = "Memorize and track the chains of variable assignment hidden in the following text.\n\n"


def _natural(request: Request) -> Episode:
    rng, placing = request.rng("facts"), request.rng("placement")
    names: list[str] = []
    while len(names) < request.turns * (HOPS + 1):
        name = "".join(rng.choices(string.ascii_uppercase, k=_NAME))
        if name not in names:
            names.append(name)
    values = [str(v) for v in rng.sample(range(10000, 100000), request.turns)]
    chains = [names[t * (HOPS + 1) : (t + 1) * (HOPS + 1)] for t in range(request.turns)]
    facts = []
    for t, chain in enumerate(chains):
        # an assignment comes after the one it reads from
        at = places(request, t, len(chain), placing)
        sources = [values[t], *(f"VAR {name}" for name in chain)]
        facts += [
            Fact(depth, f"VAR {name} = {source}.", t) for depth, name, source in zip(at, chain, sources, strict=False)
        ]
    filler = Filler(sentences(request.rng("filler")))
    turns = [Turn(_question(v), " ".join(c), (), tuple(c)) for v, c in zip(values, chains, strict=True)]
    text = Text(filler, facts, " ", _HEAD)
    return finish(request, text, turns)


def _question(value: str) -> str:
    return (
        f"Find all variables that are assigned the value {value} in the text above.\n"
        f"According to the chain of variable assignment, {HOPS + 1} variables "
        f"are assigned the value {value}, they are:"
    )


def _solve(context: str, question: str) -> str:
    assigned = re.findall(r"VAR (\w+) = (?:VAR )?(\w+)\.", context)
    if len({name for name, _ in assigned}) != len(assigned):
        raise ValueError("a variable is assigned twice")
    (held,) = set(re.findall(r"value (\d+)", question))
    found: list[str] = []
    for name, source in assigned:  # sources come first, so one pass is enough
        if source == held or source in found:
            found.append(name)
    return " ".join(found)


TASK = Task(
    name="vt",
    about="variable tracing through a chain of assignments (dialect: hop by hop to the number)",
    build={"dialect": builder("trace"), "natural": _natural},
    solve={"dialect": solver("trace"), "natural": _solve},
    chance=lambda rendering, turns: 1e-2 if rendering == "dialect" else 0.0,
)
