"""The two scorers as metrics of ``evaluate``: ``evaluate.load(module_path("corrected"))``, without network."""

from __future__ import annotations

from pathlib import Path

from ...errors import choose

__all__ = ["module_path"]


def module_path(scorer: str) -> str:
    """The folder to give to ``evaluate.load`` for ``"reference"`` or ``"corrected"``.

    The loaded metric takes ``predictions``, ``references`` and ``task`` (one name, or one an answer) and gives
    ``{"score": mean, "scores": [one an answer]}``, in 0..1.

    Raises:
        UsageError: for another name.
    """
    return str(Path(__file__).parent / f"kvpress_{choose('scorer', scorer, ('reference', 'corrected'))}")
