"""Ada-KV (2407.11550): heads of a layer share its slots by what their scores need.

paper     Feng et al. 2024, Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation
idea      the best slots over all heads together bound the loss of the layer's output tighter than the best of each
formula   N*_h = slots of head h among the H C best of the layer; N_h = (1 - alpha) N*_h + alpha C
cost      one sort of the H n scores of a layer
deviates  exact sums by largest remainder (the authors' rounding may miss by H / 2); mode "floor" as NVIDIA's kvpress:
          each head's best alpha C slots first, the rest to the best of all
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kvpress.errors import PressSyntaxError
from kvpress.policies.apportion import apportion
from kvpress.recipe.kinds import Decisions
from kvpress.recipe.press import preset, variant


@dataclass(frozen=True)
class AdaptiveHeads:
    """Head budgets from pooled scores. alpha: share that every head is sure of; mode: how it is given."""

    alpha: float = 0.2
    mode: Literal["interpolate", "floor"] = "interpolate"
    compares = True

    def __call__(self, total: Tensor, scores: Tensor) -> Tensor:
        batch, heads, slots = scores.shape
        there = (scores > -torch.inf).sum(-1)
        sure = (total.double() * self.alpha).floor().long().clamp(min=1)  # no head is left without a slot
        if self.mode == "floor":  # the best of each head are counted before all others
            rank = scores.argsort(dim=-1, descending=True, stable=True).argsort(-1)
            scores = scores.masked_fill((rank < sure[:, None, None]) & (scores > -torch.inf), torch.inf)
        best = scores.flatten(1).argsort(dim=-1, descending=True, stable=True)
        rank = torch.arange(heads * slots, dtype=torch.int64, device=scores.device).expand_as(best)
        wanted = (total * heads).round().long().minimum(there.sum(-1))
        chosen = torch.zeros_like(best).scatter_(1, best, (rank < wanted[:, None]).long())
        counts = chosen.view(batch, heads, slots).sum(-1)
        if self.mode == "floor":
            return counts
        mixed = (1 - self.alpha) * counts.double() + self.alpha * total[:, None].double()
        return apportion(mixed, wanted, there.clamp(max=1), there)


@preset("ada")
def ada(alpha: float = 0.2, mode: str = "interpolate") -> Decisions:
    """Slots of a layer go to the heads whose scores need them (2407.11550). Compose with an eviction press."""
    if mode not in ("interpolate", "floor") or not 0 <= alpha <= 1:
        raise PressSyntaxError(f'alpha={alpha} lies in [0, 1] and mode={mode!r} is "interpolate" or "floor".')
    return {"heads": AdaptiveHeads(alpha, mode)}  # type: ignore[arg-type]


variant(
    ada, "paper", "Ada-KV as in the authors' LongBench runs: alpha 0.2 between even and adaptive budgets.", alpha=0.2
)
variant(ada, "kvpress", "Ada-KV with the hard floor of NVIDIA's kvpress.", mode="floor")
