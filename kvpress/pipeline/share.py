"""Two layers that store one direction: what is packed, evicted and joined is so for both at once."""

from __future__ import annotations

import torch
from torch import Tensor

from kvpress.pipeline.layer import Layer
from kvpress.storage.held import Held, appended
from kvpress.storage.pair import Pair, PairCodec, Slots, Split
from kvpress.storage.segment import Segment
from kvpress.storage.slab import Slab


def share(lower: Layer, upper: Layer, order: Tensor, most: Tensor) -> Tensor:
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
    pos, codec, own = lower.tail.positions().gather(2, order), recipe.stored, lower.own
    made: list[tuple[Pair, tuple[Tensor, Tensor]]] = []  # directions of each slab, and the norms of the upper layer

    def directions(runs: Tensor, index: Tensor, at: Tensor) -> Pair:
        among = index.unsqueeze(-1)
        key, value = (
            sharer.merge(*(x.flatten(0, 1)[runs].gather(1, among.expand(-1, -1, x.shape[-1])) for x in pair))
            for pair in zip(*sides, strict=True)
        )
        inner = codec.encode(Slots(key[0], value[0], at, runs, own))
        made.append((inner, (key[2], value[2])))
        return sharer.scaled(inner, key[1], value[1])

    first = Segment.build(pos, parted[0], merged, directions)
    second = Segment(
        first.rows,
        first.heads,
        [
            Slab(
                slab.runs.to(there),
                sharer.scaled(_copied(codec, inner, sides[1], there), *(scale.to(there) for scale in norms)),
                slab.pos.to(there),
            )
            for slab, (inner, norms) in zip(first.slabs, made, strict=True)
        ],
    )
    for layer, segment, (k, v) in zip((lower, upper), (first, second), sides, strict=True):
        one = layer.device
        columns = layer.tail.used().only(frozen=False).take(order.to(one))
        if segment.slabs:
            mine = columns.take(parted[0].to(one)[..., : segment.width])
            layer.held = appended(layer.held, Held(segment, None, mine))
        if bool(whole.any()):
            at, some = parted[1].to(one), whole.to(one)
            exact = Segment.encode(Split(), k.to(one), v.to(one), pos.to(one), at, some)
            layer.held = appended(layer.held, Held(exact, None, columns.take(at[..., : exact.width])))
    relink(lower, upper)
    return counts


def relink(lower: Layer, upper: Layer) -> None:
    """Let the upper layer read the directions of the lower one again, after both were selected or joined alike."""
    sharer = lower.recipe.sharer
    assert sharer is not None
    for below, above in zip(lower.held, upper.held, strict=True):
        slabs = [
            Slab(high.runs, sharer.relinked(low.pair, high.pair), high.pos, high.columns)
            for low, high in zip(below.segment.slabs, above.segment.slabs, strict=True)
        ]
        above.segment = Segment(above.segment.rows, above.segment.heads, slabs)


def _copied(codec: PairCodec, pair: Pair, like: tuple[Tensor, ...], device: torch.device) -> Pair:
    """`pair`, made by `codec` of slots as in `like`, for a layer on `device`: itself where it is there already."""
    tensors = {name: tensor for name, _, _, tensor in pair.tensors()}
    if all(tensor.device == device for tensor in tensors.values()):
        return pair
    return codec.load({name: tensor.to(device) for name, tensor in tensors.items()}, like[0], like[1])
