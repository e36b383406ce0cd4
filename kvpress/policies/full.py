"""The full cache: nothing is decided."""

from __future__ import annotations

from kvpress.recipe.kinds import Decisions
from kvpress.recipe.press import preset


@preset("full")
def full() -> Decisions:
    """The full cache: every slot, dense. The baseline of every comparison."""
    return {}
