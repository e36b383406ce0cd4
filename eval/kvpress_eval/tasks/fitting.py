"""Filling a length: how many tokens questions and answers take, and how much filler the rest is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..episode import Request, Turn
from ..errors import EpisodeError

__all__ = ["fit", "limits"]

_APART = "\n\n"  # before and after a question
_SLACK = 8  # tokens an answer may take beyond 1.5 times the gold's: a space, a quote, a full stop
_PROBE = 16  # pieces of filler that are counted first


def limits(request: Request, turns: Sequence[Turn]) -> dict[str, int]:
    """``max_new_tokens`` of every sub-task ("" in a task that is not mixed)."""
    longest: dict[str, int] = {}
    for turn in turns:
        longest[turn.task] = max(longest.get(turn.task, 0), request.count(" " + turn.answer))
    return {task: math.ceil(1.5 * tokens) + _SLACK for task, tokens in longest.items()}


def _reserve(request: Request, turns: Sequence[Turn]) -> int:
    """Tokens that questions and answers take beside the context."""
    most = limits(request, turns)
    asked = sum(request.count(_APART + turn.question + _APART) for turn in turns)
    openings = sum(request.count(" " + turn.opening) for turn in turns if turn.opening)
    return asked + openings + sum(most[turn.task] for turn in turns)


def fit(request: Request, turns: Sequence[Turn], build: Callable[[int], str], uneven: bool = False) -> int:
    """How many filler pieces fill the length: ``build(n)`` ends at most one piece under it.

    The text is counted a handful of times, whatever its length. Where the pieces are ``uneven``, the first ones
    say little about the others: the search goes by what two longer texts took.

    Raises:
        EpisodeError: where the facts alone do not fit.
    """
    taken = _reserve(request, turns)
    room = request.length - request.overhead - taken
    base = request.count(build(0))
    if base > room:
        raise EpisodeError(
            f"task {request.task!r} with {request.turns} turns needs a length of at least "
            f"{base + taken + request.overhead} tokens, got {request.length}; "
            "ask for fewer turns or a greater length"
        )
    per_piece = max(1.0, (request.count(build(_PROBE)) - base) / _PROBE)
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
        tokens = request.count(build(n))
        if tokens <= room:
            low, low_count = n, tokens
        else:
            high, high_count = n, tokens
        if room - low_count < per_piece or (high is not None and high - low <= 1):
            break
        n = low + max(1, int((room - low_count) / per_piece))
    return low
