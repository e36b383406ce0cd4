"""Questions about a Chinese book (Zh.QA), of the same kinds as in ``qa_eng``.

The gold is a list of one name: the released scorer reads a plain string as golds of one character each.
"""

from __future__ import annotations

from functools import partial

from ...errors import EpisodeError
from ..episode import Episode, Request, Turn
from ..task import Task
from ..texts.chinese import CHINESE
from ..texts.narrative import narrative, solve
from ..texts.release_prompts import HEADS, asked

__all__ = ["TASK"]

_INSTRUCTION = f"{HEADS['qa_chn']}\n\n"
_MOST_TURNS = 30  # no two people asked about share a surname


def _natural(request: Request) -> Episode:
    if request.turns > _MOST_TURNS:
        raise EpisodeError(f"task 'qa_chn' has at most {_MOST_TURNS} turns, got {request.turns}; ask for fewer")
    return narrative(
        request,
        CHINESE,
        _INSTRUCTION,
        lambda t, story: Turn(asked("qa_chn", CHINESE.ask(story)), story.gold, (), (story.gold,)),
    )


TASK = Task(
    name="qa_chn",
    about="questions about a Chinese book of made-up people",
    build={"natural": _natural},
    solve={"natural": partial(solve, CHINESE)},
    # one character of three, where two people happen to share a surname
    chance=lambda rendering, turns: 0.005,
)
