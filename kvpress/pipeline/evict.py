"""Which slots stay: score, allocate, choose, retain. Sinks, the recent window, padding and exact totals are kept here,
so that no scorer has to know them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvpress.evidence.bind import SINKS
from kvpress.evidence.evidence import Evidence
from kvpress.evidence.output import completed
from kvpress.pipeline.budget import marked, protected
from kvpress.pipeline.layer import Layer
from kvpress.pipeline.pack import by_position
from kvpress.pipeline.share import relink
from kvpress.storage.block import Block, choose
from kvpress.storage.columns import ADDED, BIAS


def evict(layer: Layer, total: Tensor, decoded: bool = False) -> bool:
    """Reduce a layer to `total` (B,) slots per KV head on average; False when it holds no more than that.

    decoded: of the slots that were decoded; what is left of prompts stays beside them.
    """
    recipe = layer.recipe
    if recipe.scorer is None:
        return False
    pos = layer.positions()
    among = layer.decoded(pos) if decoded else pos >= 0
    held = among.sum(-1)
    due = _due(layer, held, total)
    if not bool(due.any()):
        return False  # nothing is decoded to find that nothing is to be done
    block = layer.block()
    seen, pos = layer.evidence(block), torch.where(among, block.pos, -1)
    scores = recipe.scorer(block, seen)
    lengths = layer.lengths()
    safe = protected(recipe, seen.rank, lengths, total) & among
    # A head that stores less than its share (it was reduced before) keeps what it has; so does a row that is not due,
    # whose heads are not compared anew, as they would not be if it were alone.
    counts = torch.where(due, torch.minimum(recipe.heads(total, marked(scores, among, safe)), held), held)
    safe = protected(recipe, seen.rank, lengths, total, counts) & among  # a head may have got less than the average
    added = weighed(layer, block, seen)
    if recipe.refine is not None and added is not None:
        scores = recipe.refine(scores, added, pos, counts, safe)
    keep = choose(scores, pos, counts, safe) | (block.valid & ~among)
    if added is not None:
        remember(layer, added)
    if recipe.merge is not None:
        fold(layer, block, keep)
    retain(layer, keep)
    if layer.upper is not None:  # layers that share directions hold the same slots
        retain(layer.upper, keep.to(layer.upper.device))
        relink(layer, layer.upper)
    return True


def _due(layer: Layer, held: Tensor, total: Tensor) -> Tensor:
    """(B, 1) bool: the rows whose heads hold `held` (B, H) slots, more than `total` (B,)."""
    more = held.double().mean(1, keepdim=True) if layer.recipe.heads.compares else held
    return (more > total.unsqueeze(1)).any(1, keepdim=True)


def weighed(layer: Layer, block: Block, seen: Evidence) -> Tensor | None:
    """(B, H, n) fp32: what each slot's value can add to the layer's output; None where the recipe does not ask."""
    if layer.recipe.refine is None:
        return None
    output = seen.of(layer.recipe.refine)
    if (known := layer.tail.used().get(ADDED)) is None:
        return output(block.v)
    return completed(block.v, block.valid, output, known)


def remember(layer: Layer, added: Tensor) -> None:
    """Keep `added` (B, H, n) where slots go one by one: most of them come again at the next step."""
    if (known := layer.tail.used().get(ADDED)) is not None:
        known.copy_(added)


def fold(layer: Layer, block: Block, keep: Tensor) -> None:
    """Let what is dropped go into the dense slots that stay; what is packed never changes."""
    merge, tail = layer.recipe.merge, layer.tail
    assert merge is not None
    first = block.pos.shape[-1] - tail.count
    dense = torch.arange(block.pos.shape[-1], dtype=torch.int64, device=block.pos.device) >= first
    k, v, bias = merge(block, keep & dense, block.valid & ~keep, block.columns[BIAS])
    for mine, given in ((tail.keys, k), (tail.values, v), (tail.used()[BIAS], bias)):
        mine.copy_(given[:, :, first:])


def retain(layer: Layer, keep: Tensor) -> None:
    """Keep the slots where `keep` (B, H, n) is true, in the order of `layer.block()`."""
    start, held = 0, []
    for item in layer.held:
        stop = start + item.segment.width
        mine = keep[..., start:stop]
        start = stop
        item = item.own()
        left = item if bool((mine | (item.segment.positions() < 0)).all()) else item.select(mine)
        if left is not None:
            held.append(left)
    layer.held = held
    tail = layer.tail
    mine = keep[..., start:]
    width = int(mine.sum(-1).max()) if mine.numel() else 0
    pos = tail.positions()
    order = by_position(pos, mine)[..., :width]
    there = torch.arange(width, dtype=torch.int64, device=order.device) < mine.sum(-1, keepdim=True)
    tail.keep(order, torch.where(there, pos.gather(2, order), -1))
    layer.fixed = layer.logical
    follow(layer)


def follow(layer: Layer) -> None:
    """Where positions are cache slots: move the sinks along, so that no gap is between them and the window.

    The window keeps its rotations; only the distance to the sinks would grow, by one token an eviction. Sinks are
    turned from the keys they were given, by all of the way at once: turning what was rounded the last time would add
    the rounding of every step. Those keys are kept beside the tail, one for each sink.
    """
    if layer.recipe.positions != "slots":
        return
    rotate = layer.given[SINKS]
    held = (layer.tail.positions() >= 0).sum(-1).amax(1)
    shift = layer.lengths() - held
    sinks = layer.tail.k[:, :, : layer.recipe.sinks]  # they are oldest, hence first, and never evicted
    given = sinks.clone(memory_format=torch.contiguous_format)
    if layer.sink_keys is not None and layer.shift is not None:
        # A row that has evicted nothing yet may still be getting its sinks: they stand as they were given.
        given = torch.where(_rows(layer.shift > 0), layer.sink_keys, given)
    sinks.copy_(torch.where(_rows(shift > 0), rotate(given, shift), given))
    layer.sink_keys, layer.shift = given, shift


def _rows(of: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1)."""
    return of.view(-1, 1, 1, 1)


def evict_one(layer: Layer, total: Tensor) -> bool:
    """One decoded token came, one slot per head goes, in place. False when the layer does not allow that."""
    recipe, tail = layer.recipe, layer.tail
    if layer.held or recipe.scorer is None or not recipe.in_place or recipe.heads.compares:
        return False
    if recipe.positions == "slots" and layer.shift is None:  # `evict` puts the sinks first, before any padding
        return False
    pos = tail.explicit()
    surplus = (pos >= 0).sum(-1) - total.unsqueeze(1)
    if bool((surplus != 1).any()):
        return False
    block = layer.block()
    seen = layer.evidence(block)
    safe = protected(recipe, seen.rank, layer.lengths(), total)
    scores = recipe.scorer(block, seen)
    added = weighed(layer, block, seen)
    if recipe.refine is not None and added is not None:
        scores = recipe.refine(scores, added, block.pos, total.unsqueeze(1).expand(pos.shape[:2]), safe)
        remember(layer, added)
    goes = (pos >= 0) & ~safe  # some do: no more are protected than stay
    scores = scores.float().nan_to_num(nan=-torch.inf).masked_fill(~goes, torch.inf)
    # Among equal scores the later token goes, as in `choose`.
    lowest = goes & (scores == scores.amin(-1, keepdim=True))
    tail.drop_one(torch.where(lowest, pos, -2).argmax(-1))
    layer.fixed = layer.logical
    follow(layer)
    return True
