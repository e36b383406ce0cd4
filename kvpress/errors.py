"""The errors a user can meet. Every message says what happened, what was expected and what to do."""

from __future__ import annotations

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
    """What a method takes for granted was measured on this model, and is not there (see kvpress.premise)."""
