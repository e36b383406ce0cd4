"""Filling a length: how many tokens questions and answers take, and how much filler the rest is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import TooShortError
from .episode import Request, Turn

__all__ = ["Fillable", "Filling", "best_sum", "fit", "limits"]

_APART = "\n\n"  # before and after a question
_SLACK = 8  # tokens an answer may take beyond 1.5 times the gold's: a space, a quote, a full stop
_PROBE = 16  # pieces of filler that are counted first
_CLOSE = 200  # a session may end this part of its length early: half a percent
_AHEAD = 32  # further pieces that may fill what is left
_BACK = (0, 1, 2, 4, 8)  # pieces that may make room for those


class Fillable(Protocol):
    """A context as far as filling goes: filler pieces that ``build`` weaves in, by their number in the stream."""

    @property
    def uneven(self) -> bool: ...

    def text(self, filling: Filling) -> str:
        """The context with this filling."""

    def piece(self, i: int) -> str:
        """Piece ``i`` of the filler, with what joins it to the others."""


@dataclass(frozen=True)
class Filling:
    """The first ``n`` pieces of a filler and ``more`` of those after them, by number."""

    n: int
    more: tuple[int, ...] = ()


def limits(request: Request, turns: Sequence[Turn]) -> dict[str, int]:
    """``max_new_tokens`` of every sub-task ("" in a task that is not mixed)."""
    longest: dict[str, int] = {}
    for turn in turns:
        longest[turn.task] = max(longest.get(turn.task, 0), request.count(" " + turn.answer))
    return {task: math.ceil(1.5 * tokens) + _SLACK for task, tokens in longest.items()}


def _beside(request: Request, turns: Sequence[Turn]) -> int:
    """Tokens that a session takes beside its context."""
    most = limits(request, turns)
    if request.ruler:
        return request.ruler.beside(turns, [most[turn.task] for turn in turns])
    asked = sum(request.count(_APART + turn.question + _APART) for turn in turns)
    openings = sum(request.count(" " + turn.opening) for turn in turns if turn.opening)
    return request.overhead + asked + openings + sum(most[turn.task] for turn in turns)


@dataclass
class _Sizes:
    """Tokens of a context by its filling."""

    request: Request
    context: Fillable
    known: dict[Filling, int] = field(default_factory=dict)

    def __call__(self, filling: Filling) -> int:
        if filling not in self.known:
            text = self.context.text(filling)
            ruler = self.request.ruler
            self.known[filling] = ruler.context(text) if ruler else self.request.count(text)
        return self.known[filling]


def fit(request: Request, turns: Sequence[Turn], context: Fillable) -> Filling:
    """The filler that fills the length: at most one piece under it, within half a percent where a ruler measures.

    The text is counted a handful of times, whatever its length. Where the pieces are ``uneven``, the first ones
    say little about the others: the search goes by what two longer texts took.

    Raises:
        TooShortError: where the facts alone do not fit, and of a bare request.
    """
    beside, size = _beside(request, turns), _Sizes(request, context)
    room = request.length - beside
    if request.bare or size(Filling(0)) > room:
        raise TooShortError(request.task, len(turns), size(Filling(0)) + beside, request.length)
    n = _first(size, room, context.uneven)
    if request.ruler is None:
        return Filling(n)
    return _closed(size, room, n, request.length // _CLOSE)


def _first(size: _Sizes, room: int, uneven: bool) -> int:
    """How many of the first pieces fit, or a few less."""
    base = size(Filling(0))
    per_piece = max(1.0, (size(Filling(_PROBE)) - base) / _PROBE)
    low, low_count = 0, base
    high: int | None = None
    high_count = 0
    n = int((room - base) / per_piece)
    for _ in range(12):
        n = max(n, low + 1)
        if high is not None and n >= high:
            if high - low <= 1:
                break
            n = (low + high) // 2
            if uneven:
                n = low + (high - low) * (room - low_count) // (high_count - low_count)
                n = min(max(n, low + 1), high - 1)
        tokens = size(Filling(n))
        if tokens <= room:
            low, low_count = n, tokens
        else:
            high, high_count = n, tokens
        if room - low_count < per_piece or (high is not None and high - low <= 1):
            break
        n = low + max(1, int((room - low_count) / per_piece))
    return low


def _closed(size: _Sizes, room: int, n: int, near: int) -> Filling:
    """The first ``n`` pieces, the last of them exchanged for later ones where that comes ``near`` the room.

    A longer context holds those too: nothing is in a short one that is not in a longer one.
    """
    best, costs = Filling(n), dict[int, int]()

    def cost(i: int) -> int:
        if i not in costs:
            costs[i] = size.request.count(size.context.piece(i))
        return costs[i]

    for back in _BACK:
        if back > n or room - size(best) <= near:
            break
        kept, extra = Filling(n - back), 0  # what joining the pieces adds to their sum
        for _ in range(3):
            target = room - size(kept) - extra
            more = tuple(kept.n + i for i in best_sum(map(cost, range(kept.n, n + _AHEAD)), target, near))
            tried = Filling(kept.n, more)
            if size(best) < size(tried) <= room:
                best = tried
            if 0 <= room - size(tried) <= near:
                break
            extra = size(tried) - size(kept) - sum(map(cost, more))
    return best


def best_sum(costs: Iterable[int], target: int, near: int) -> tuple[int, ...]:
    """Numbers of the costs whose sum comes ``near`` the target from below, or as near as any sum of them.

    The first ones are preferred, and no more costs are asked for than it takes.
    """
    ways: dict[int, tuple[int, ...]] = {0: ()}
    for i, cost in enumerate(costs):
        for total in list(ways):
            if total + cost <= target:
                ways.setdefault(total + cost, (*ways[total], i))
        if target - max(ways) <= near:
            break
    return ways[max(ways)]
