"""ZigZagKV (2412.09036): a layer's budget follows how many tokens its attention needs.

paper     Zhong et al. 2024, ZigZagKV: Dynamic KV Cache Compression for Long-context Modeling based on Layer Uncertainty
idea      LMBA, the slots that hold a share tau of the window's attention, differs from layer to layer
formula   budget_l = B_min + (B - B_min) L u_l, u_l = LMBA_l / sum of LMBA, LMBA_l = mean over KV heads
cost      one row of window attention and one sort a layer; all layers stay dense until the last one is measured
deviates  no code was published: tau = 0.9, B_min = 0.2 B and the window inside the budget are readings of the paper;
          exact sums, and what exceeds the prompt is redistributed
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.errors import PressSyntaxError
from kvpress.evidence.evidence import Evidence, Needs
from kvpress.recipe.kinds import Decisions
from kvpress.recipe.press import preset
from kvpress.storage.block import Block


@dataclass(frozen=True)
class Uncertainty:
    """Budgets in proportion to LMBA above a floor. tau: share of attention; floor: B_min / B."""

    tau: float = 0.9
    floor: float = 0.2
    window: int = 32
    compares = False
    exact = True
    waits = "zigzag measures what each layer needs when all of them have been read"

    @property
    def needs(self) -> Needs:
        return Needs(window=self.window)

    @property
    def premise(self) -> LayersDiffer:
        return LayersDiffer(self)

    def measure(self, block: Block, seen: Evidence, scores: Callable[[], Tensor]) -> Tensor:
        return self.lmba(block, seen)

    def lmba(self, block: Block, seen: Evidence) -> Tensor:
        """LMBA (B,) fp64: slots whose attention adds up to tau of the window's, mean over KV heads."""
        mass = seen.window(block, self.window).mean((2, 3))  # unpooled: pooling would inflate the mass
        ordered = mass.sort(-1, descending=True).values.double().cumsum(-1)
        short = ordered < self.tau * ordered[..., -1:]
        return (short.sum(-1) + 1).double().mean(1)

    def weights(self, measured: Sequence[Tensor], total: Tensor, fixed: Tensor, lengths: Tensor) -> Tensor:
        asked = torch.stack(list(measured))
        floor = self.floor * total.double()
        return floor + (total - floor) * len(asked) * asked / asked.sum(0)


@dataclass(frozen=True)
class LayersDiffer:
    """Layers need different numbers of slots; where all need the same, a budget for each changes nothing."""

    budget: Uncertainty
    method = "zigzag"
    says = "layers differ in how many slots their attention needs"
    measures = "standard deviation of that number over layers, in its mean,"
    bound = 0.1

    def sample(self, block: Block, seen: Evidence) -> Tensor:
        """LMBA of the first row, ()."""
        return self.budget.lmba(block, seen)[0]

    def figure(self, samples: Sequence[Tensor]) -> float:
        asked = torch.stack(list(samples))
        return float(asked.std(correction=0) / asked.mean())


@preset("zigzag", small="window=6", unsettled="no code was published, and the paper's tau and floor are not known here")
def zigzag(tau: float = 0.9, floor: float = 0.2, window: int = 32) -> Decisions:
    """Layers get slots by how many their attention needs (2412.09036). Compose with an eviction press."""
    if not (0 < tau < 1 and 0 <= floor <= 1 and window >= 1):
        raise PressSyntaxError(f"tau={tau} lies in (0, 1), floor={floor} in [0, 1], window={window} is at least 1.")
    return {"layers": Uncertainty(tau, floor, window)}
