"""The errors a user can meet. Every message says what happened, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BudgetError",
    "CacheFileError",
    "CropError",
    "KVPressError",
    "PremiseWarning",
    "PressConflictError",
    "PressSyntaxError",
    "SessionError",
    "UnsupportedError",
]

_LIST = 120  # characters: a list of names this long is read at a glance, a longer one by a command


class KVPressError(Exception):
    """Base of all errors raised on purpose by kvpress."""


class PressSyntaxError(KVPressError, ValueError):
    """A press text or an argument of a press cannot be understood."""


class PressConflictError(KVPressError, ValueError):
    """Two parts of a composed press decide the same thing, or cannot work together."""


class BudgetError(KVPressError, ValueError):
    """A budget cannot be met, for example fewer slots than the protected ones."""


class SessionError(KVPressError, RuntimeError):
    """A session is used in a way it does not allow, for example entered twice."""


class UnsupportedError(KVPressError, NotImplementedError):
    """A model, a cache or an option that kvpress cannot serve exactly, refused instead of being wrong.

    A NotImplementedError too, because callers of transformers already catch that for a model that cannot do a thing.
    """


class CropError(KVPressError, ValueError):
    """More tokens were to be removed than the dense tail still holds."""


class CacheFileError(KVPressError, ValueError):
    """A saved cache does not fit: format, press or model differ."""


class PremiseWarning(UserWarning):
    """What a method takes for granted was measured on this model, and is not there (see kvpress.evidence.premise)."""


def short(value: object, limit: int = 80) -> str:
    """The text of a value for a message; what exceeds `limit` characters is cut out of its middle."""
    text = str(value)
    half = (limit - 5) // 2
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"


def nearest(word: str, known: Iterable[str], listing: str) -> str:
    """``did you mean 'a', 'b' or 'c'?`` for a wrong name, at most three of them, and what lists all names.

    Where none is near: all names if they are few, else their number. listing: a command such as `kvpress list`, "" =
    there is none.
    """
    names = sorted(known)
    near = [repr(name) for name in difflib.get_close_matches(word[:_LIST], names, n=3, cutoff=0.5)]
    if near:
        told = f"did you mean {', '.join(near[:-1])}{' or ' if near[1:] else ''}{near[-1]}?"
    elif len(everything := ", ".join(names)) <= _LIST:
        return f"choose from {everything}"
    else:
        told = f"none of the {len(names)} names is near."
    return f"{told} `{listing}` lists all." if listing else told


def extra(name: str) -> str:
    """How to install what an extra needs; nothing of this project is on a package index."""
    return f'install the extra "{name}": pip install -e ".[{name}]" in the checkout'
