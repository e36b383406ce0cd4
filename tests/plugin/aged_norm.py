"""Aged key norm: keys of small norm stay, and the older a key is the smaller it has to be.

paper     none, an example; the norm alone is Devoto et al. 2024 (2406.11430)
idea      a low key norm goes with a high attention weight, and attention falls with distance
formula   score = -|k|_2 * 2^(age / half_life), age = tokens between the slot and the end of the row
cost      O(n D) a layer, once after the prompt; nothing observed
deviates  -
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kvpress.method import AfterPrefill, Block, Decisions, Evidence, Needs, PressSyntaxError, preset


@dataclass(frozen=True)
class AgedKeyNorm:
    """The smaller and the younger the key, the higher the score. half_life: tokens after which a norm counts twice."""

    half_life: int = 4096
    needs = Needs()
    comparable = False  # key norms of different heads are on different scales

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        newest = seen.rank.amax((1, 2), keepdim=True)  # of the row: padding has rank -1
        age = (newest - seen.rank).float()
        return -block.k.float().norm(dim=-1) * (age / self.half_life).exp2()


@preset("aged_norm")
def aged_norm(keep: float | int = 0.25, half_life: int = 4096, sinks: int = 4, recent: int = 4) -> Decisions:
    """Slots with small keys stay, old ones only with smaller keys."""
    if half_life < 1:
        raise PressSyntaxError(f"half_life={half_life} must be a positive number of tokens.")
    scorer = AgedKeyNorm(half_life)
    return {"keep": keep, "scorer": scorer, "sinks": sinks, "recent": recent, "schedule": AfterPrefill()}
