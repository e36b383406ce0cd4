"""Knorm (2406.11430): keys of small norm are the ones attended to.

paper     Devoto et al. 2024, A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression
idea      across heads a low L2 norm of a key goes with a high attention weight, so the norm alone ranks slots
formula   score = -|k|_2
cost      O(n D) a layer, once after the prompt; nothing observed
deviates  slots are chosen once, after the prompt; every layer is compressed unless `skip` says otherwise (the authors
          leave the first two alone); rounded, so that equal tokens tie
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.errors import PressConflictError, PressSyntaxError
from kvpress.evidence.evidence import Evidence, Needs
from kvpress.policies.rounding import rounded
from kvpress.recipe.kinds import AfterPrefill, Decisions
from kvpress.recipe.press import preset, variant
from kvpress.storage.block import Block


@dataclass(frozen=True)
class KeyNorm:
    """The smaller the key, the higher the score."""

    needs = Needs()
    comparable = False  # key norms of different heads are on different scales
    attention = False
    waits = ""

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        # RoPE keeps norms: in the first layer a repeated token has one norm, wherever it stands.
        return -rounded(block.k.float().norm(dim=-1))


@dataclass(frozen=True)
class FirstWhole:
    """The first `skip` layers keep every slot, the others what was asked for, so that the sum exceeds it."""

    skip: int
    needs = Needs()
    compares = False
    exact = False

    def check_layers(self, layers: int) -> None:
        """Raise PressConflictError where no layer is left to compress."""
        if self.skip >= layers:
            raise PressConflictError(
                f"skip={self.skip} leaves all {layers} layers of this model whole, so nothing is evicted. Skip fewer "
                f"than {layers}."
            )

    def measure(self, block: Block, seen: Evidence, scores: Callable[[], Tensor]) -> Tensor:
        return torch.zeros(block.pos.shape[0], dtype=torch.float64, device=block.pos.device)

    def weights(self, measured: Sequence[Tensor], total: Tensor, fixed: Tensor, lengths: Tensor) -> Tensor:
        number = torch.arange(len(measured), dtype=torch.int64, device=total.device)[:, None]
        return torch.where(number < self.skip, lengths, total).double()


@preset("knorm", small="keep=0.4, sinks=1, recent=3")
def knorm(keep: float | int = 0.25, sinks: int = 0, recent: int = 0, skip: int = 0) -> Decisions:
    """Slots with the smallest keys, after the prompt; the first `skip` layers stay whole (2406.11430)."""
    if skip < 0:
        raise PressSyntaxError(f"skip={skip} is a number of layers and cannot be negative.")
    whole = {"layers": FirstWhole(skip)} if skip else {}
    return {"keep": keep, "scorer": KeyNorm(), "sinks": sinks, "recent": recent, "schedule": AfterPrefill(), **whole}


variant(knorm, "paper", "Knorm as in the paper: half, the first two layers left whole.", keep=0.5, skip=2)
