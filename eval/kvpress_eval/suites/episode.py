"""An episode: one context, questions about it, their answers and where the answers stand."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Protocol

from ..metrics.golds import Gold
from ..models.rendering import Rendering

__all__ = ["SUITE", "VERSION", "Count", "Episode", "Joints", "Request", "Ruler", "Span", "Turn"]

SUITE = "core"  # part of every seed and run id; the pages sort tasks by ``Task.suite``
VERSION = 1  # of the generators: part of every seed, so that new text never passes for old

Span = tuple[int, int]
Count = Callable[[str], int]
"""Tokens of a text, without special tokens."""


@dataclass(frozen=True)
class Turn:
    """One question.

    ``answer`` is the text that gold history feeds; ``gold`` is what the scorer compares with,
    where that differs (a list of names, an option letter). ``evidence`` holds character spans
    ``[start, end)`` of the context. ``task`` is the sub-task of a mixed task ("" is the episode's
    own), ``max_new_tokens`` its limit (0 is the episode's). ``later`` and ``alone`` are the
    question's wording after another turn and in multi-request mode, where they differ; ``opening``
    is a text that the answer is made to begin with. ``cut`` says that truncating the context
    took evidence away.
    """

    question: str
    answer: str
    evidence: tuple[Span, ...]
    gold: Gold | None = None
    task: str = ""
    max_new_tokens: int = 0
    later: str = ""
    alone: str = ""
    opening: str = ""
    cut: bool = False

    @property
    def reference(self) -> Gold:
        """What the scorer gets."""
        return self.answer if self.gold is None else self.gold

    @property
    def text(self) -> str:
        """All it says, in one text."""
        rare = {"later": self.later, "alone": self.alone, "opening": self.opening}
        said = (f"{name} {words}" for name, words in rare.items() if words)
        return "\x1f".join((self.question, self.answer, *said))


@dataclass(frozen=True)
class Joints:
    """What stands between the parts of natural text: before a question that follows the context, in multi-turn
    (``question``) and in multi-request mode (``alone``), and without a chat template before a gold answer (``answer``)
    and before a question that follows an answer (``later``).
    """

    question: str = "\n\n"
    alone: str = "\n\n"
    answer: str = " "
    later: str = "\n\n"


@dataclass(frozen=True)
class Episode:
    """One session. Both shared-context modes ask the same episode: rows can be compared in pairs.

    ``context`` begins with ``instruction``, what a task says before its data (often nothing).
    ``max_new_tokens`` is the same for all turns of a kind, so that it does not tell the length of an
    answer. ``cut`` says that the context was truncated to fit. ``key`` names the row of data that was not
    generated.
    """

    task: str
    rendering: Rendering
    context: str
    turns: tuple[Turn, ...]
    max_new_tokens: int
    length: int
    seed: int
    session: int
    instruction: str = ""
    cut: bool = False
    joints: Joints = Joints()
    key: str = ""

    @property
    def id(self) -> str:
        """``task/length/seed/session#hash``, for a row of data ``task/source/row#hash``: equal ids mean equal text,
        whatever ran on it. What few episodes have is hashed in those alone: the others keep their ids.
        """
        parts = [self.rendering, self.context, *(turn.text for turn in self.turns)]
        if self.joints != Joints():
            parts.append("\x1f".join(("joints", *astuple(self.joints))))
        digest = hashlib.sha256("\x1e".join(parts).encode()).hexdigest()[:8]
        return f"{self.task}/{self.key or f'{self.length}/{self.seed}/{self.session}'}#{digest}"


def _random(*parts: object) -> random.Random:
    text = "|".join(map(str, (SUITE, VERSION, *parts)))
    return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))


class Ruler(Protocol):
    """Measures a session in tokens, as a model is going to read it."""

    def context(self, text: str) -> int:
        """Tokens of a context with all that stands before it."""

    def beside(self, turns: Sequence[Turn], most: Sequence[int]) -> int:
        """Tokens of the questions of ``turns`` with all that stands between, and of answers of ``most`` tokens."""


@dataclass(frozen=True)
class Request:
    """What a generator is asked for.

    ``length`` bounds all tokens of the session: context, every question, every answer at its limit, and what stands
    between them. ``ruler`` measures them exactly, for the model at hand. Without one the texts are counted by
    ``count``, and ``overhead`` tokens more are taken (a begin token). ``depth`` (0 the beginning, 1 the end) puts
    every turn's evidence at one place; None spreads it. ``bare``: nothing is made; TooShortError says the least length.
    """

    task: str
    rendering: Rendering
    length: int
    turns: int
    seed: int
    session: int
    count: Count
    overhead: int = 1
    depth: float | None = None
    ruler: Ruler | None = None
    bare: bool = False

    def rng(self, stream: str) -> random.Random:
        """The random numbers of a named stream. One stream per purpose: a longer context keeps its
        questions.
        """
        return _random(self.task, self.rendering, self.seed, self.session, stream)

    def strata(self) -> list[int]:
        """Which of ``turns`` equal parts of the context turn t asks about: a Latin square over
        ``turns`` sessions.
        """
        block = self.session // self.turns
        order = _random(self.task, self.seed, block, "strata").sample(range(self.turns), self.turns)
        return [order[(self.session + t) % self.turns] for t in range(self.turns)]

    def episode(self, context: str, turns: tuple[Turn, ...], max_new_tokens: int, instruction: str = "") -> Episode:
        """The episode that answers this request."""
        return Episode(
            self.task,
            self.rendering,
            context,
            turns,
            max_new_tokens,
            self.length,
            self.seed,
            self.session,
            instruction,
        )
