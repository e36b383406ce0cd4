"""PyramidKV (2406.02069): lower layers get more slots, upper layers fewer, in an arithmetic sequence.

paper     Cai et al. 2024, PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling
idea      low layers attend broadly, high layers concentrate, so slots are moved from high to low
formula   past slots of layer l of L: max - l (max - min) / (L - 1), min = (C - W) / beta, max = 2 (C - W) - min
cost      none
deviates  exact sums, and what exceeds the prompt is redistributed; exact=False is the authors' code, whose whole steps
          add up to 4 % more at C = 128, and which gives every layer the same for prompts under 2 (C - W) tokens;
          whole=True lets protected slots be part of the sequence, which with exact=False is NVIDIA's kvpress: rounded
          to the nearest, and the same for every layer where the last would get less than is protected
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.errors import PressSyntaxError
from kvpress.evidence.evidence import Evidence, Needs
from kvpress.recipe.kinds import Decisions
from kvpress.recipe.press import preset, variant
from kvpress.storage.block import Block


@dataclass(frozen=True)
class Pyramid:
    """Budgets that fall linearly from the first layer to the last.

    beta: how steeply, at least 1. exact: sums are exact; otherwise the arithmetic of the authors' code, in integers,
    or with `whole` of NVIDIA's, in fractions. whole: protected slots are part of the sequence, and do not come on top.
    """

    beta: float = 20.0
    exact: bool = True
    whole: bool = False
    needs = Needs()
    compares = False
    waits = "pyramid spreads slots over layers once all of them have been read"

    def measure(self, block: Block, seen: Evidence, scores: Callable[[], Tensor]) -> Tensor:
        return torch.ones(block.pos.shape[0], dtype=torch.float64, device=block.pos.device)

    def weights(self, measured: Sequence[Tensor], total: Tensor, fixed: Tensor, lengths: Tensor) -> Tensor:
        layers = len(measured)
        top = fixed.new_zeros(fixed.shape) if self.whole else fixed  # what comes on top of the sequence
        past = (total - top).clamp(min=0).double()
        past = past if self.exact or self.whole else past.floor()
        number = torch.arange(layers, dtype=torch.float64, device=total.device)[:, None]
        if layers == 1:
            return (top + past.round())[None]
        low = past // self.beta if not (self.exact or self.whole) else past / self.beta
        high = 2 * past - low
        if self.exact:
            return top + high - (high - low) * number / (layers - 1)
        high = torch.minimum(high, (lengths - fixed).double())
        if self.whole:
            low = 2 * past - high
            falls = (high >= low) & (low >= fixed)
            return torch.where(falls, high - (high - low) * number / (layers - 1), past).round()
        step = (high - (2 * past - high)) // (layers - 1)
        return fixed + torch.where(lengths < 2 * past, past, high - step * number)


@preset("pyramid")
def pyramid(beta: float = 20.0, exact: bool = True, whole: bool = False) -> Decisions:
    """Slots fall linearly from the first layer to the last (2406.02069). Compose with an eviction press."""
    if beta < 1:
        raise PressSyntaxError(f"beta={beta} must be at least 1: the last layer gets 1 / beta of the average.")
    if beta == 1 and exact:  # the authors' rounding is another than that of a press without it
        raise PressSyntaxError(
            f"beta={beta} gives every layer what it gets without pyramid. Use more than 1, or leave pyramid out."
        )
    return {"layers": Pyramid(beta, exact, whole)}


variant(pyramid, "paper", "PyramidKV's arithmetic sequence with beta 20, sums exact.", beta=20.0)
variant(
    pyramid,
    "authors",
    "PyramidKV in the authors' integers: for 128 slots 242 in the first of 32 layers, 25 in the last, 133.5 a layer.",
    exact=False,
)
variant(
    pyramid,
    "kvpress",
    "PyramidKV's sequence as in NVIDIA's kvpress: the window is part of it; even where the last layer would be less.",
    exact=False,
    whole=True,
)
