"""Mistakes that a user can correct: shown as one line, exit code 2."""

from __future__ import annotations

from collections.abc import Iterable

from kvpress.errors import KVPressError, nearest, short

__all__ = ["CellError", "EpisodeError", "StorageError", "TooShortError", "UsageError", "choose", "suggest"]


class UsageError(KVPressError):
    """What was asked for cannot be run: says what happened, what was expected and what to do."""


class CellError(UsageError):
    """A cell that cannot be built, as its model, task and length are: alone a mistake, in a sweep one failed row."""


class EpisodeError(CellError):
    """An episode that cannot be made."""


class TooShortError(EpisodeError):
    """A session takes more tokens than were asked for, even without filler. ``least`` is what it takes."""

    def __init__(self, task: str, turns: int, least: int, length: int) -> None:
        super().__init__(
            f"task {task!r} with {turns} turn{'' if turns == 1 else 's'} needs a length of at least {least} tokens, "
            f"got {length}; ask for {'' if turns == 1 else 'fewer turns or '}a greater length"
        )
        self.least = least
        self._made_of = (task, turns, least, length)

    def __reduce__(self) -> tuple[type[TooShortError], tuple[str, int, int, int]]:
        return TooShortError, self._made_of  # it may come out of a worker process


class StorageError(KVPressError, OSError):
    """There is no room for a file: says where, and that what is there is kept."""


_LISTED = {"task": "kvpress list tasks", "press": "kvpress list presses", "model": "kvpress list models"}


def suggest(word: str, known: Iterable[str], what: str = "") -> str:
    """``"did you mean 'x'?"`` for the names nearest to ``word``; see ``kvpress.errors.nearest``."""
    return nearest(word, known, _LISTED.get(what, ""))


def choose(what: str, word: str, known: Iterable[str], listing: str = "") -> str:
    """``word`` if it is known.

    Args:
        listing: the command that lists all of them, where it is not the one for ``what``.

    Raises:
        UsageError: with a suggestion, where it is not.
    """
    names = list(known)
    if word not in names:
        told = listing or _LISTED.get(what, "")
        raise UsageError(f"unknown {what} {short(word, 60)!r}; {nearest(str(word), names, told)}")
    return word
