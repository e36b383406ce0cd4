"""Questions about a book (En.QA): one name each, over one or two hops, changes, comparison, exclusion.

Paper: SCBench (arXiv 2412.10319), whose books are InfiniteBench's. Here the book is a world of made-up
names, so that no model has read it. It tests binding and updating, not the understanding of discourse. The
dialect asks for facts of entities, among facts of entities nobody asks about.
"""

from __future__ import annotations

from functools import partial

from ..dialect_rendering import builder, solver
from ..episode import Episode, Request, Turn
from ..task import Task
from ..texts.english import ENGLISH
from ..texts.narrative import narrative, solve
from ..texts.release_prompts import HEADS, asked

__all__ = ["TASK"]

_INSTRUCTION = f"{HEADS['qa_eng']}\n\n"
_DIALECT_FACTS = 4000  # tokens: the bundled model's names have about 4200 tokens of facts, the rest is filler words


def _natural(request: Request) -> Episode:
    return narrative(
        request,
        ENGLISH,
        _INSTRUCTION,
        lambda t, story: Turn(asked("qa_eng", ENGLISH.ask(story)), story.gold, ()),
    )


def _dialect(request: Request) -> Episode:
    filler = min(0.95, max(0.0, 1 - _DIALECT_FACTS / request.length))
    return builder("fact", filler=filler)(request)


TASK = Task(
    name="qa_eng",
    about="questions about a book of made-up people (dialect: facts of entities)",
    build={"dialect": _dialect, "natural": _natural},
    solve={"dialect": solver("fact"), "natural": partial(solve, ENGLISH)},
    chance=lambda rendering, turns: 1e-4 if rendering == "dialect" else 0.0,
)
