"""Two layers that store one direction: what is packed, evicted and joined is so for both at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvpress.codec import Dense, Packed, ScaledPacked
from kvpress.segment import Held, Segment, Slab, appended

if TYPE_CHECKING:
    from kvpress.store import StoreLayer


def merge(lower: StoreLayer, upper: StoreLayer, order: Tensor, most: Tensor) -> Tensor:
    """Move the oldest slots of both tails into segments; (B, H) int64 how many of each head.

    order: (B, H, n) slots of the tail by position. most: (B, H) slots that may go. Of those, whole blocks are
    merged, and the ones of the largest angle are frozen as they are.
    """
    sharer, recipe = lower.recipe.sharer, lower.recipe
    assert sharer is not None
    n = order.shape[-1]
    at = order.unsqueeze(-1)
    sides = [
        tuple(x.gather(2, at.expand(-1, -1, -1, x.shape[-1])) for x in (layer.tail.keys, layer.tail.values))
        for layer in (lower, upper)
    ]
    angle = torch.maximum(*(sharer.angle(a, b) for a, b in zip(*sides, strict=True)))
    rank = torch.arange(n, device=order.device)
    whole = sharer.keep_whole(angle, rank < most.unsqueeze(-1))
    merged = (most - whole).clamp(min=0) // recipe.block * recipe.block
    whole = whole.masked_fill(merged == 0, 0)
    counts = merged + whole
    inside = rank < counts.unsqueeze(-1)
    # The largest angles stay whole; both parts keep the order of positions.
    by_angle = angle.masked_fill(~inside, -torch.inf).argsort(dim=-1, descending=True, stable=True).argsort(-1)
    stays = by_angle < whole.unsqueeze(-1)
    parted = torch.where(inside & ~stays, rank, n + rank).argsort(-1), torch.where(stays, rank, n + rank).argsort(-1)
    pos = lower.tail.positions().gather(2, order)
    directions: list[tuple[Packed, Packed, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]] = []

    def share(runs: Tensor, index: Tensor) -> tuple[Packed, Packed]:
        at = index.unsqueeze(-1)
        key, value = (
            sharer.merge(*(x.flatten(0, 1)[runs].gather(1, at.expand(-1, -1, x.shape[-1])) for x in pair))
            for pair in zip(*sides, strict=True)
        )
        packed = recipe.key.encode(key[0]), recipe.value.encode(value[0])
        directions.append((*packed, (key[1], value[1]), (key[2], value[2])))
        return ScaledPacked(packed[0], key[1]), ScaledPacked(packed[1], value[1])

    first = Segment.build(pos, parted[0], merged, share)
    second = Segment(
        first.rows,
        first.heads,
        [
            Slab(slab.runs, ScaledPacked(key, norms[0]), ScaledPacked(value, norms[1]), slab.pos)
            for slab, (key, value, _, norms) in zip(first.slabs, directions, strict=True)
        ],
    )
    for layer, segment, (k, v) in zip((lower, upper), (first, second), sides, strict=True):
        if segment.slabs:
            layer.held = appended(layer.held, Held(segment))
        if bool(whole.any()):
            exact = Segment.encode((Dense(), Dense()), k, v, pos, parted[1], whole)
            layer.held = appended(layer.held, Held(exact))
    relink(lower, upper)
    return counts


def relink(lower: StoreLayer, upper: StoreLayer) -> None:
    """Let the upper layer read the directions of the lower one again, after both were selected or joined alike."""
    for below, above in zip(lower.held, upper.held, strict=True):
        slabs = [
            Slab(high.runs, _linked(low.key, high.key), _linked(low.value, high.value), high.pos)
            for low, high in zip(below.segment.slabs, above.segment.slabs, strict=True)
        ]
        above.segment = Segment(above.segment.rows, above.segment.heads, slabs)


def _linked(low: Packed, high: Packed) -> Packed:
    if isinstance(low, ScaledPacked) and isinstance(high, ScaledPacked):
        return ScaledPacked(low.inner, high.norms)
    return high
