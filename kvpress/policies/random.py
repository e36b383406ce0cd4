"""Random eviction: the control every method must beat.

paper     none
idea      keep a uniformly random subset of the slots, independently per layer and KV head
formula   score = hash(seed, layer, head, token number) in [0, 1)
cost      O(n), nothing observed
deviates  a counter-based hash, not a generator: a row scores the same alone, padded, on CPU and on GPU
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.evidence.evidence import Evidence, Needs
from kvpress.recipe.kinds import AfterPrefill, Decisions
from kvpress.recipe.press import preset
from kvpress.storage.block import Block


@dataclass(frozen=True)
class Random:
    """Uniform scores from `seed`, the layer, the head and the token's number in its row."""

    seed: int = 0
    needs = Needs()
    comparable = False
    attention = False
    waits = ""

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        head = torch.arange(block.pos.shape[1], dtype=torch.int64, device=block.pos.device).view(1, -1, 1)
        x = ((self.seed * 1_000_003 + seen.layer) * 8191 & 0xFFFFFFFF) + head
        x = (x * 2_654_435_761 + seen.rank.long()) & 0xFFFFFFFF
        for shift, factor in ((16, 0x45D9F3B), (16, 0x45D9F3B)):  # a 32-bit mixer with full avalanche
            x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
        x = x ^ (x >> 16)
        return (x >> 8).float() / float(1 << 24)


@preset("random", small="keep=0.4, seed=3, sinks=2, recent=4")
def random(keep: float | int = 0.25, seed: int = 0, sinks: int = 4, recent: int = 32) -> Decisions:
    """A random subset after the prompt: the control every method must beat."""
    return {"keep": keep, "scorer": Random(seed), "sinks": sinks, "recent": recent, "schedule": AfterPrefill()}
