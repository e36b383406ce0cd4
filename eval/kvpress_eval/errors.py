"""Mistakes that a user can correct: shown as one line, exit code 2."""

from __future__ import annotations

from collections.abc import Iterable

from kvpress.errors import KVPressError, nearest, short

__all__ = ["EpisodeError", "StorageError", "UsageError", "choose", "suggest"]


class UsageError(KVPressError):
    """What was asked for cannot be run: says what happened, what was expected and what to do."""


class EpisodeError(UsageError):
    """An episode does not fit the length asked for."""


class StorageError(KVPressError, OSError):
    """There is no room for a file: says where, and that what is there is kept."""


_LISTED = {"task": "kvpress list tasks", "press": "kvpress list presses", "model": "kvpress list models"}


def suggest(word: str, known: Iterable[str], what: str = "") -> str:
    """``"did you mean 'x'?"`` for the names nearest to ``word``; see ``kvpress.errors.nearest``."""
    return nearest(word, known, _LISTED.get(what, ""))


def choose(what: str, word: str, known: Iterable[str]) -> str:
    """``word`` if it is known.

    Raises:
        UsageError: with a suggestion, where it is not.
    """
    names = list(known)
    if word not in names:
        raise UsageError(f"unknown {what} {short(word, 60)!r}; {suggest(str(word), names, what)}")
    return word
