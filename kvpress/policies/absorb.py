"""Dropped slots are averaged into the kept slot whose key is nearest, which then stands for them.

paper     none in this form; merging into similar kept tokens is studied in D2O (2406.13035) and KVMerger (2407.08454)
idea      what is dropped is partly kept: attention to a group is attention to its average, times the number of tokens
formula   k, v = mean over the group; logit + log(tokens of the group); nearest by cosine similarity of the keys
cost      one product of dropped and kept keys a head, O(n^2 D) once, a tile of slots at a time; 4 bytes a slot
deviates  cached keys are averaged as they are, rotated to different positions: no claim is made for it as a method
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kvpress.evidence.evidence import Needs
from kvpress.recipe.kinds import Decisions
from kvpress.recipe.press import preset
from kvpress.storage.block import Block

_TILE = 1 << 20  # pairs of a dropped and a kept slot


@dataclass(frozen=True)
class Absorb:
    """Every dropped slot goes into the kept slot of its head with the most similar key. least: cosine."""

    least: float = 0.0
    needs = Needs()

    def __call__(self, block: Block, into: Tensor, gone: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight = torch.where(into, bias.exp(), 0.0)
        other = ~(into | gone).unsqueeze(-1)  # may hold anything: padding, or what is packed
        given = [x.float().masked_fill(other, 0.0) for x in (block.k, block.v)]
        k, v = (x * weight.unsqueeze(-1) for x in given)
        keys, n = F.normalize(given[0], dim=-1), block.pos.shape[-1]
        for start in range(0, n, step := max(1, _TILE // (n * block.pos.shape[0] * block.pos.shape[1]))):
            some = slice(start, min(start + step, n))
            alike = (keys[:, :, some] @ keys.mT).masked_fill(~into.unsqueeze(2), -torch.inf)
            best, place = alike.max(-1)
            mass = torch.where(gone[:, :, some] & (best >= self.least), bias[:, :, some].exp(), 0.0)
            weight = weight.scatter_add(2, place, mass)
            for total, x in zip((k, v), given, strict=True):
                at = place.unsqueeze(-1).expand(*place.shape, x.shape[-1])
                total.scatter_add_(2, at, x[:, :, some] * mass.unsqueeze(-1))
        safe = torch.where(weight > 0, weight, 1.0)
        k, v = ((total / safe.unsqueeze(-1)).to(x.dtype) for total, x in ((k, block.k), (v, block.v)))
        return k, v, safe.log()


@preset("absorb", unsettled="it shows how slots are merged, and is no paper's method")
def absorb(least: float = 0.0) -> Decisions:
    """Dropped slots are averaged into the kept slot with the most similar key. Compose with an eviction press.

    least: cosine below which a slot is lost.
    """
    return {"merge": Absorb(least)}
