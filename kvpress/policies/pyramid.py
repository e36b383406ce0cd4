"""PyramidKV (2406.02069): lower layers get more slots, upper layers fewer, in an arithmetic sequence.

paper     Cai et al. 2024, PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling
idea      low layers attend broadly, high layers concentrate, so slots are moved from high to low
formula   past slots of layer l of L: max - l (max - min) / (L - 1), min = (C - W) / beta, max = 2 (C - W) - min
cost      none
deviates  exact sums (the authors' rounding gives 4 % more at C = 128), and what exceeds the prompt is redistributed
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.block import Block
from kvpress.evidence import Evidence, Needs


@dataclass(frozen=True)
class Pyramid:
    """Budgets that fall linearly from the first layer to the last. beta: how steeply, at least 1."""

    beta: float = 20.0
    needs = Needs()
    waits = "pyramid spreads slots over layers once all of them have been read"

    def measure(self, block: Block, seen: Evidence) -> Tensor:
        return torch.ones(block.pos.shape[0], dtype=torch.float64, device=block.pos.device)

    def weights(self, measured: Tensor, total: Tensor, fixed: Tensor) -> Tensor:
        layers = measured.shape[0]
        past = (total - fixed).clamp(min=0).double()
        low = past / self.beta
        high = 2 * past - low
        step = torch.arange(layers, dtype=torch.float64, device=total.device)[:, None] / max(1, layers - 1)
        return fixed + (high - (high - low) * step if layers > 1 else past[None])
