"""Multiple choice about a book (En.MultiChoice): the world of ``qa_eng`` with four options.

Options are names of one type and length that the book holds: what was so before, what a rumour says, what
is so of others. Letters are drawn per turn, each as often as the others over four sessions; knowing the
letters of earlier turns does not help. The release asks "The the correct answer is", and in its plain follow-ups in
other words: mended here.
"""

from __future__ import annotations

import re

from ..episode import Episode, Request, Turn
from ..task import Task, option
from ..texts.english import ENGLISH, NAME
from ..texts.narrative import narrative, solve
from ..texts.release_prompts import HEADS, LETTERS, asked
from ..texts.world import Story

__all__ = ["TASK"]

_INSTRUCTION = f"{HEADS['choice_eng']}\n\n"


def _natural(request: Request) -> Episode:
    return narrative(request, ENGLISH, _INSTRUCTION, lambda t, story: _turn(request, t, story))


def _turn(request: Request, t: int, story: Story) -> Turn:
    letter = LETTERS[option(request, t, len(LETTERS))]
    options = request.rng(f"order {t}").sample(story.decoys, 3)
    options.insert(LETTERS.index(letter), story.gold)
    question = asked("choice_eng", ENGLISH.ask(story), options) + "The correct answer is"
    return Turn(question, letter, (), (story.gold, letter))


def _solve(context: str, question: str) -> str:
    name = solve(ENGLISH, context, question)
    (letter,) = (letter for letter, option in re.findall(rf"^([A-D])\. ({NAME})$", question, re.M) if option == name)
    return str(letter)


TASK = Task(
    name="choice_eng",
    about="multiple choice about a book of made-up people",
    build={"natural": _natural},
    solve={"natural": _solve},
    chance=lambda rendering, turns: 1 / len(LETTERS),
)
