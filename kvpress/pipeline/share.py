"""Two layers that store one direction: what is packed, evicted and joined is so for both at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvpress.storage.codec import Codec, Dense, Packed, ScaledPacked
from kvpress.storage.segment import Held, Segment, Slab, appended

if TYPE_CHECKING:
    from kvpress.cache.layer import StoreLayer


def merge(lower: StoreLayer, upper: StoreLayer, order: Tensor, most: Tensor) -> Tensor:
    """Move the oldest slots of both tails into segments; (B, H) int64 how many of each head.

    order: (B, H, n) slots of the tail by position. most: (B, H) slots that may go. Of those, whole blocks are
    merged, and the ones of the largest angle are frozen as they are. Layers on two devices hold the same directions,
    each in a copy of its own.
    """
    sharer, recipe = lower.recipe.sharer, lower.recipe
    assert sharer is not None
    n, here, there = order.shape[-1], lower.device, upper.device
    sides: list[tuple[Tensor, ...]] = []
    for layer in (lower, upper):
        at = order.unsqueeze(-1).to(layer.device)
        tail = (layer.tail.keys, layer.tail.values)
        sides.append(tuple(x.gather(2, at.expand(-1, -1, -1, x.shape[-1])).to(here) for x in tail))
    angle = torch.maximum(*(sharer.angle(a, b) for a, b in zip(*sides, strict=True)))
    rank = torch.arange(n, dtype=torch.int64, device=order.device)
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
            Slab(
                slab.runs.to(there),
                ScaledPacked(_copied(recipe.key, key, sides[1][0], there), norms[0].to(there)),
                ScaledPacked(_copied(recipe.value, value, sides[1][1], there), norms[1].to(there)),
                slab.pos.to(there),
            )
            for slab, (key, value, _, norms) in zip(first.slabs, directions, strict=True)
        ],
    )
    for layer, segment, (k, v) in zip((lower, upper), (first, second), sides, strict=True):
        if segment.slabs:
            layer.held = appended(layer.held, Held(segment))
        if bool(whole.any()):
            one = layer.device
            at, some = parted[1].to(one), whole.to(one)
            exact = Segment.encode((Dense(), Dense()), k.to(one), v.to(one), pos.to(one), at, some)
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


def _copied(codec: Codec, packed: Packed, like: Tensor, device: torch.device) -> Packed:
    """`packed`, made by `codec` of rows as in `like`, for a layer on `device`: itself where it is there already."""
    tensors = {name: tensor for name, (_, tensor) in packed.tensors().items()}
    if all(tensor.device == device for tensor in tensors.values()):
        return packed
    moved = {name: tensor.to(device) for name, tensor in tensors.items()}
    return codec.load(moved, like.dtype, like.shape[-1])


def _linked(low: Packed, high: Packed) -> Packed:
    if isinstance(low, ScaledPacked) and isinstance(high, ScaledPacked) and low.norms.device == high.norms.device:
        return ScaledPacked(low.inner, high.norms)
    return high
