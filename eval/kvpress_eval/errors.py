"""Mistakes that a user can correct: shown as one line, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from kvpress.errors import KVPressError

__all__ = ["EpisodeError", "StorageError", "UsageError", "choose", "suggest"]


class UsageError(KVPressError):
    """What was asked for cannot be run: says what happened, what was expected and what to do."""


class EpisodeError(UsageError):
    """An episode does not fit the length asked for."""


class StorageError(KVPressError, OSError):
    """There is no room for a file: says where, and that what is there is kept."""


def suggest(word: str, known: Iterable[str]) -> str:
    """``"did you mean 'x'?"`` for the nearest of ``known``, else the list of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else "choose from " + ", ".join(names)


def choose(what: str, word: str, known: Iterable[str]) -> str:
    """``word`` if it is known.

    Raises:
        UsageError: with a suggestion, where it is not.
    """
    names = list(known)
    if word not in names:
        raise UsageError(f"unknown {what} {word!r}; {suggest(str(word), names)}")
    return word
