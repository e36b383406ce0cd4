"""What a task is, where its facts stand, and how they are woven into filler."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, Protocol, TypeVar

from ..errors import EpisodeError
from ..models.rendering import Rendering
from .episode import Episode, Request, Span, Turn
from .fitting import Fillable, Filling, fit, limits

__all__ = [
    "Context",
    "Fact",
    "Filler",
    "Numbered",
    "Task",
    "Text",
    "at_most",
    "depth",
    "finish",
    "no_depth",
    "option",
    "places",
    "weave",
    "words",
]

_Piece = TypeVar("_Piece")
_SPLIT = "\x1f"  # between pieces until they are numbered


@dataclass(frozen=True)
class Task:
    """A task in one or both renderings.

    ``suite`` is the page its rows are on. A task without a dialect has no ``"dialect"`` key: the bundled
    model cannot do it. ``build`` makes an episode. ``solve`` answers a question from the context alone by brute force
    (raising ``ValueError`` where the answer is not unique): the proof that the text holds what is
    asked. ``chance(rendering, turns)`` is what a guesser gets who sees the question and the gold
    answers before it, but not the context. ``kind`` "continuation": nothing is asked, the text that follows is forced
    (see ``sources.passage_cutting``); ``build`` and ``solve`` are empty then.
    """

    name: str
    about: str
    build: Mapping[Rendering, Callable[[Request], Episode]]
    solve: Mapping[Rendering, Callable[[str, str], str]]
    chance: Callable[[Rendering, int], float]
    suite: str = "scbench"
    kind: Literal["questions", "continuation"] = "questions"


@dataclass(frozen=True)
class Fact:
    """A piece of text to put at ``depth`` (0 the beginning, 1 the end) of the context; ``owner`` is
    its turn.
    """

    depth: float
    text: str
    owner: int | None = None


class Filler(Generic[_Piece]):
    """An endless stream of pieces of which the first n are always the same."""

    def __init__(self, pieces: Iterator[_Piece]) -> None:
        self._pieces, self._seen = pieces, list[_Piece]()

    def first(self, n: int) -> list[_Piece]:
        while len(self._seen) < n:
            self._seen.append(next(self._pieces))
        return self._seen[:n]

    def take(self, filling: Filling) -> list[_Piece]:
        """The pieces of a filling, in the order of the stream."""
        self.first(max([filling.n, *(i + 1 for i in filling.more)]))
        return [*self._seen[: filling.n], *(self._seen[i] for i in filling.more)]


def depth(request: Request, turn: int, rng: random.Random) -> float:
    """A depth inside the part of the context that ``turn`` asks about, off its edges: turns keep apart.

    The request's own depth, where it names one.
    """
    if request.depth is not None:
        return request.depth
    return (request.strata()[turn] + rng.uniform(0.125, 0.875)) / request.turns


def places(request: Request, turn: int, n: int, rng: random.Random) -> list[float]:
    """Depths of a turn's ``n`` facts in rising order: all at the request's depth, where it names one.

    A single fact is in the turn's part of the context, several are anywhere.
    """
    if n == 1 or request.depth is not None:
        return [depth(request, turn, rng)] * n
    return sorted(rng.random() for _ in range(n))


def option(request: Request, turn: int, options: int) -> int:
    """Which of ``options`` is the right one in a turn: each equally often over as many sessions, and drawn
    anew for every turn, so that the right options of earlier turns tell nothing.
    """
    block, place = divmod(request.session, options)
    return replace(request, session=block).rng(f"letters {turn}").sample(range(options), options)[place]


class Context(Fillable, Protocol):
    """A context that may hold any number of pieces of filler; a longer one holds what a shorter one holds.

    It begins with ``instruction``, what the task says before its data. ``uneven``: the pieces differ much in length.
    """

    @property
    def instruction(self) -> str: ...

    def build(self, filling: Filling) -> tuple[str, dict[int, tuple[Span, ...]]]:
        """The context with a filling, and the spans of each turn's facts."""


@dataclass(frozen=True)
class Text:
    """A :class:`Context` of parts: ``head``, then filler and facts joined by ``joint``, then ``foot``."""

    filler: Filler[str]
    facts: Sequence[Fact]
    joint: str
    head: str = ""
    foot: str = ""
    instruction: str = ""
    uneven: bool = False

    def text(self, filling: Filling) -> str:
        """The context alone."""
        return self.build(filling)[0]

    def piece(self, i: int) -> str:
        """A piece of filler, with what joins it to the others."""
        return self.joint + self.filler.take(Filling(0, (i,)))[0]

    def build(self, filling: Filling) -> tuple[str, dict[int, tuple[Span, ...]]]:
        """The context with a filling, and the spans of each turn's facts."""
        return weave(self.filler.take(filling), self.facts, self.joint, self.head, self.foot)


@dataclass(frozen=True)
class Numbered(Text):
    """A context whose pieces are numbered from 1 in their order: ``label`` goes before each."""

    label: str = "{}. "

    def piece(self, i: int) -> str:
        """A piece of filler, with a number of two digits."""
        return self.joint + self.label.format(10) + self.filler.take(Filling(0, (i,)))[0]

    def build(self, filling: Filling) -> tuple[str, dict[int, tuple[Span, ...]]]:
        """The context with a filling. It names no spans: the caller finds the evidence."""
        pieces = weave(self.filler.take(filling), self.facts, _SPLIT)[0].split(_SPLIT)
        before, after = self.label.split("{}")
        numbered = [f"{before}{i}{after}{piece}" for i, piece in enumerate(pieces, 1)]
        return self.head + self.joint.join(numbered) + self.foot, {}


def finish(
    request: Request,
    text: Context,
    turns: Sequence[Turn],
    evidence: Callable[[str, int], tuple[Span, ...]] | None = None,
) -> Episode:
    """The longest episode that fits. ``evidence(context, turn)`` finds spans that no fact owns."""
    context, spans = text.build(fit(request, turns, text))
    found = [evidence(context, t) if evidence else spans.get(t, ()) for t in range(len(turns))]
    most = limits(request, turns)
    placed = tuple(
        replace(turn, evidence=span, max_new_tokens=most[turn.task] if turn.task else 0)
        for turn, span in zip(turns, found, strict=True)
    )
    return request.episode(context, placed, max(most.values()), text.instruction)


def words(text: str) -> tuple[str, ...]:
    """The words of a text: a table of words reads better in lines than in quotes."""
    return tuple(text.split())


def at_most(request: Request, turns: int) -> Request:
    """The request with no more turns than a task has questions: what is asked for is an upper bound."""
    return replace(request, turns=min(request.turns, turns))


def no_depth(request: Request, why: str) -> None:
    """Refuse a depth, for tasks whose evidence cannot be put at one; ``why`` says where it is instead.

    Raises:
        EpisodeError: where the request names one.
    """
    if request.depth is not None:
        raise EpisodeError(
            f"task {request.task!r} ({request.rendering}) cannot put its evidence at a depth: {why}; leave depth out, "
            "or choose a task that can, such as needle_grid"
        )


def weave(
    filler: Sequence[str], facts: Iterable[Fact], joint: str, head: str = "", foot: str = ""
) -> tuple[str, dict[int, tuple[Span, ...]]]:
    """The context, and for each owner the character spans of its facts (without the joints)."""
    pieces: list[str] = []
    spans: dict[int, tuple[Span, ...]] = {}
    at, used = len(head), 0
    for fact in sorted(facts, key=lambda fact: fact.depth):
        # filler is taken in slices: millions of pieces are woven in a second
        before = filler[used : min(int(fact.depth * (len(filler) + 1)), len(filler))]
        used += len(before)
        pieces += (*before, fact.text)
        at += sum(map(len, before)) + len(before) * len(joint)
        if fact.owner is not None:
            spans[fact.owner] = (*spans.get(fact.owner, ()), (at, at + len(fact.text)))
        at += len(fact.text) + len(joint)
    pieces += filler[used:]
    return head + joint.join(pieces) + foot, spans
