"""Needle facts: short statements hidden in text about other things, one asked about per turn.

After the passkey and needle-in-a-haystack tests, with random values instead of a famous sentence,
and prose that does not repeat itself instead of three repeated sentences.
"""

from __future__ import annotations

import re

from ..dialect_rendering import builder, solver
from ..episode import Episode, Request, Turn
from ..task import Fact, Filler, Task, Text, depth, finish
from ..texts.draws import SYLLABLES
from ..texts.prose import sentences

__all__ = ["TASK"]

_DIGITS = 10
_HEAD = "Some access codes are hidden in the text below. Memorize them: you will need them.\n\n"


def _natural(request: Request) -> Episode:
    rng, placing = request.rng("facts"), request.rng("placement")
    owners: list[str] = []
    codes: list[str] = []
    while len(owners) < request.turns:
        owner = "".join(rng.choices(SYLLABLES, k=3)).capitalize() + rng.choice("rnlst")
        code = str(rng.randrange(10 ** (_DIGITS - 1), 10**_DIGITS))
        if owner not in owners and code not in codes:
            owners.append(owner)
            codes.append(code)
    facts = [
        Fact(depth(request, t, placing), f"The access code of {owners[t]} is {codes[t]}.", t)
        for t in range(request.turns)
    ]
    filler = Filler(sentences(request.rng("filler")))
    turns = [Turn(_question(o), c, ()) for o, c in zip(owners, codes, strict=True)]
    text = Text(filler, facts, " ", _HEAD)
    return finish(request, text, turns)


def _question(owner: str) -> str:
    return f"What is the access code of {owner}?\nThe access code of {owner} is:"


def _solve(context: str, question: str) -> str:
    owner = question.split("\n")[0].removesuffix("?").split()[-1]
    found = re.findall(rf"The access code of {owner} is (\d+)\.", context)
    if len(found) != 1:
        raise ValueError(f"{owner} stands {len(found)} times")
    return str(found[0])


TASK = Task(
    name="needle",
    about="needle facts hidden in filler text, one per turn",
    # 0.75: inside what the bundled model was trained on
    build={"dialect": builder("fact", filler=0.75), "natural": _natural},
    solve={"dialect": solver("fact"), "natural": _solve},
    chance=lambda rendering, turns: 1e-4 if rendering == "dialect" else 0.0,
    suite="needles",
)
