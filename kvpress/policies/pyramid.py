"""PyramidKV (2406.02069): lower layers get more slots, upper layers fewer, in an arithmetic sequence.

paper     Cai et al. 2024, PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling
idea      low layers attend broadly, high layers concentrate, so slots are moved from high to low
formula   past slots of layer l of L: max - l (max - min) / (L - 1), min = (C - W) / beta, max = 2 (C - W) - min
cost      none
deviates  exact sums, and what exceeds the prompt is redistributed; exact=False is the authors' code, whose whole steps
          add up to 4 % more at C = 128, and which gives every layer the same for prompts under 2 (C - W) tokens
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.block import Block
from kvpress.evidence import Evidence, Needs


@dataclass(frozen=True)
class Pyramid:
    """Budgets that fall linearly from the first layer to the last.

    beta: how steeply, at least 1. exact: sums are exact; otherwise the integer arithmetic of the authors' code.
    """

    beta: float = 20.0
    exact: bool = True
    needs = Needs()
    compares = False
    waits = "pyramid spreads slots over layers once all of them have been read"

    def measure(self, block: Block, seen: Evidence, scores: Callable[[], Tensor]) -> Tensor:
        return torch.ones(block.pos.shape[0], dtype=torch.float64, device=block.pos.device)

    def weights(self, measured: Sequence[Tensor], total: Tensor, fixed: Tensor, lengths: Tensor) -> Tensor:
        layers = len(measured)
        past = (total - fixed).clamp(min=0).double()
        number = torch.arange(layers, dtype=torch.float64, device=total.device)[:, None]
        if layers == 1:
            return (fixed + past)[None]
        low = past / self.beta if self.exact else past // self.beta
        high = 2 * past - low
        if self.exact:
            return fixed + high - (high - low) * number / (layers - 1)
        top = torch.minimum(high, (lengths - fixed).double())
        step = (top - (2 * past - top)) // (layers - 1)
        return fixed + torch.where(lengths < 2 * past, past, top - step * number)
