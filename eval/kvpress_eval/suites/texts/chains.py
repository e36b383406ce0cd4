"""Chains of variable assignments, in which all variables of a chain hold its value: what tracing tasks hide and ask."""

from __future__ import annotations

import random
import re
import string

__all__ = ["HEAD", "names", "solve", "statements"]

HEAD = "Memorize and track the chains of variable assignment hidden in the following text.\n\n"
_NAME = 5  # capital letters


def names(rng: random.Random, taken: set[str], hops: int) -> list[str]:
    """The names of a chain of ``hops`` hops; none is in ``taken`` (they are added)."""
    found: list[str] = []
    while len(found) <= hops:
        name = "".join(rng.choices(string.ascii_uppercase, k=_NAME))
        if name not in taken:
            taken.add(name)
            found.append(name)
    return found


def statements(value: str, chain: list[str]) -> list[str]:
    """The assignments of a chain; each but the first reads from the one before."""
    sources = [value, *(f"VAR {name}" for name in chain)]
    return [f"VAR {name} = {source}." for name, source in zip(chain, sources, strict=False)]


def solve(context: str, question: str) -> str:
    """The variables that hold the value asked for, in the text after the last :data:`HEAD`.

    Raises:
        ValueError: where a variable is assigned twice.
    """
    assigned = re.findall(r"VAR (\w+) = (?:VAR )?(\w+)\.", context[context.rindex(HEAD) :])
    if len({name for name, _ in assigned}) != len(assigned):
        raise ValueError("a variable is assigned twice")
    (value,) = set(re.findall(r"value (\d+)", question))
    held = [value]
    for name, source in assigned:  # sources come first, so one pass is enough
        if source in held:
            held.append(name)
    return " ".join(held[1:])
