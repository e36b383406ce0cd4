"""Summaries and pass keys in one session (Mix.Sum+NIAH): the reports of ``summary`` with needles between them.

Paper: SCBench (arXiv 2412.10319): five needles, eight turns of both kinds in alternation. Every other session
begins with the other kind. Where no report is asked about, one stands that nobody asks about.
"""

from __future__ import annotations

import re

from ...errors import EpisodeError
from ..episode import Episode, Request, Turn
from ..task import Task, depth, finish, no_depth, words
from ..texts.report_text import Item, reports
from ..texts.reports import CHANCE, SPREAD, Report, summary_of, summary_question

__all__ = ["TASK"]

_NEEDLES = 5
_ANIMALS = words(
    "heron otter badger lynx gecko mole stork weasel bison toad moose ferret walrus falcon lemur tapir ibex newt "
    "panda raven sloth tiger viper zebra camel dingo eagle gibbon hyena jackal"
)


def _natural(request: Request) -> Episode:
    no_depth(request, SPREAD)
    if request.turns > 2 * len(_ANIMALS) - 1:
        most = 2 * len(_ANIMALS) - 1
        raise EpisodeError(f"task {request.task!r} has at most {most} turns, got {request.turns}; ask for fewer")
    hidden = [t for t in range(request.turns) if (request.session + t) % 2]
    rng, placing = request.rng("needles"), request.rng("needle placement")
    n = max(_NEEDLES, len(hidden))
    animals = rng.sample(_ANIMALS, n)
    keys = [str(key) for key in rng.sample(range(10**6, 10**7), n)]
    lines = [
        Item(
            depth(request, hidden[i], placing) if i < len(hidden) else placing.random(),
            f"The pass key for {animals[i]} is {keys[i]}.",
            hidden[i] if i < len(hidden) else None,
        )
        for i in range(n)
    ]
    text = reports(request, [None if t in hidden else t for t in range(request.turns)], lines)
    turns: dict[int, Turn] = {}
    for item in text.items:
        if item.owner is not None and isinstance(item.what, Report):
            turns[item.owner] = Turn(summary_question(item.what.title), item.what.summary, (), task="summary")
    for t, animal, key in zip(hidden, animals, keys, strict=False):
        turns[t] = Turn(_question(animal), key, (), task="passkey")
    return finish(request, text, [turns[t] for t in range(request.turns)])


def _question(animal: str) -> str:
    return f"What is the pass key for {animal}?\nThe pass key for {animal} is"


def _solve(context: str, question: str) -> str:
    found = re.search(r"The pass key for (\w+) is$", question)
    if found is None:
        return summary_of(context, question)
    keys = re.findall(rf"The pass key for {found[1]} is (\d+)\.", context)
    if len(keys) != 1:
        raise ValueError(f"{found[1]} stands {len(keys)} times")
    return str(keys[0])


TASK = Task(
    name="summary_with_needles",
    about="summaries of reports and pass keys hidden between them, in turns",
    build={"natural": _natural},
    solve={"natural": _solve},
    # half of the turns, over two sessions, ask for a summary
    chance=lambda rendering, turns: CHANCE / 2,
)
