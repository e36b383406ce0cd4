"""Slots are chosen again while tokens are decoded: every so many, among all slots or among the decoded ones alone.

paper     none for the schedule itself; compressing what is decoded is studied in R-KV (2505.24133), among others
idea      a long answer fills the cache as a long prompt does, and the scores that chose once can be asked again
formula   after every `tokens` decoded tokens, the budget's best slots stay; prompt=false: of the decoded ones, by a
          budget of their own, beside what is left of the prompt
cost      the cost of one choice, every `tokens` steps; up to `tokens` slots more than the budget are held meanwhile
deviates  -
"""

from __future__ import annotations

from dataclasses import dataclass

from kvpress.errors import PressSyntaxError
from kvpress.recipe.kinds import Decisions
from kvpress.recipe.press import preset


@dataclass(frozen=True)
class Every:
    """Choose again after every `interval` decoded tokens. decoded: among those alone."""

    interval: int
    decoded: bool = False

    @property
    def every_prompt(self) -> bool:
        return not self.decoded

    def __str__(self) -> str:
        return f"every_{self.interval}" + ("_decoded" if self.decoded else "")


@preset("every", small="tokens=3", unsettled="it is a schedule, which papers set for a method of theirs")
def every(tokens: int = 64, prompt: bool = True) -> Decisions:
    """Slots are chosen again after so many decoded tokens. Compose with an eviction press, whose schedule it takes."""
    if tokens < 1:
        raise PressSyntaxError(f"tokens={tokens} is a number of decoded tokens, at least 1.")
    return {"schedule": Every(tokens, not prompt)}
