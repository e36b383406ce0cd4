"""How slots are stored once they are chosen: from the dense tail into a frozen segment."""

from __future__ import annotations

import torch
from torch import Tensor

from kvpress.pipeline.layer import Layer
from kvpress.pipeline.share import share
from kvpress.storage.held import Held, appended
from kvpress.storage.segment import Segment


def prune(layer: Layer) -> bool:
    """Choose the channels that packed slots keep, once; False where there is nothing to choose."""
    recipe = layer.recipe
    if recipe.channels is None or layer.own_chosen:
        return False
    layer.own_chosen = True
    block = layer.block()
    seen = layer.evidence(block)
    # The newest `residual` slots stay whole; where a prompt has no others, all of them tell.
    newest = block.pos.clamp(min=-1).argsort(dim=-1, descending=True, stable=True).argsort(-1)
    packed = block.valid & (newest >= recipe.residual)
    packed = torch.where(packed.any(-1, keepdim=True), packed, block.valid)
    layer.own = {**layer.own, **recipe.channels.choose(block, seen, packed)}
    return True


def pack(layer: Layer, freeze: bool) -> None:
    """Move slots from the dense tail into a packed segment: all but `residual` per head, in whole blocks.

    freeze: an eviction has just happened; exact (dense) storage is frozen only then, never in between.
    """
    recipe, tail = layer.recipe, layer.tail
    block = recipe.codec_block if layer.upper is None else recipe.block
    if block == 0 and (not freeze or recipe.in_place):
        return
    if tail.count < recipe.residual + max(block, 1):
        return
    pos = tail.positions()
    there = (pos >= 0).sum(-1)
    step = max(block, 1)
    counts = (there - recipe.residual).clamp(min=0) // step * step
    if not bool(counts.any()):
        return
    order = by_position(pos, pos >= 0)
    if layer.upper is not None:
        counts = share(layer, layer.upper, order, there - recipe.residual)
        if bool(counts.any()):
            _leave(layer, pos, order, counts)
            _leave(layer.upper, *(x.to(layer.upper.device) for x in (pos, order, counts)))
        return
    columns = tail.used()
    segment = Segment.encode(
        recipe.stored, tail.keys, tail.values, pos, order, counts, layer.own, columns, recipe.selector
    )
    own = columns.only(frozen=False).take(order[..., : segment.width])
    layer.held = appended(layer.held, Held(segment, None, own))
    _leave(layer, pos, order, counts)


def drop_padding(layer: Layer) -> None:
    """Leave no columns in the dense tail that are padding in every row; a chunk may be nothing else."""
    pos = layer.tail.positions()
    there = pos >= 0
    if layer.seen_mask is not None and int(there.sum(-1).max()) < layer.tail.count:
        _leave(layer, pos, by_position(pos, there), torch.zeros_like(pos[..., 0], dtype=torch.long))


def _leave(layer: Layer, pos: Tensor, order: Tensor, counts: Tensor) -> None:
    """Leave in the tail what comes after the first `counts` (B, H) slots in `order` (B, H, n)."""
    tail = layer.tail
    left = (pos >= 0).sum(-1) - counts
    width = int(left.max())
    steps = torch.arange(width, dtype=torch.int64, device=pos.device)
    rest = order.gather(2, (counts.unsqueeze(-1) + steps).clamp(max=tail.count - 1))
    tail.keep(rest, torch.where(steps < left.unsqueeze(-1), pos.gather(2, rest), -1))
    if width == 0:
        tail.start = layer.logical
    # With a gapless tail the newest dense tokens can still be cropped; otherwise columns are not tokens.
    layer.fixed = max(layer.fixed, tail.start) if tail.pos is None else layer.logical


def by_position(pos: Tensor, keep: Tensor) -> Tensor:
    """(B, H, n) indices: the kept slots by position first, then the others."""
    return torch.where(keep, pos, torch.iinfo(torch.int32).max).argsort(dim=-1, stable=True)
