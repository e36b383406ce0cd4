"""The one pipeline that shrinks a layer: score, allocate, choose, pack. No method has its own.

Sinks, the recent window, padding and exact totals are enforced here, so that no scorer has to know them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvpress.evidence.evidence import Evidence
from kvpress.evidence.output import completed
from kvpress.pipeline import share as sharing
from kvpress.policies.apportion import apportion
from kvpress.storage.block import Block, choose
from kvpress.storage.columns import ADDED
from kvpress.storage.held import Held, appended
from kvpress.storage.segment import Segment

if TYPE_CHECKING:
    from kvpress.cache.layer import StoreLayer
    from kvpress.recipe.recipe import Recipe


def budget(recipe: Recipe, lengths: Tensor) -> Tensor:
    """(B,) int64 slots per KV head for rows of `lengths` (B,) real tokens.

    floor(keep * length) for a fraction, `keep` for a count, which a row shorter than that may still grow to;
    never fewer than the protected slots and one beside the sinks (which matters for short prompts).
    """
    return (asked(recipe, lengths) + 1e-9).floor().long()


def asked(recipe: Recipe, lengths: Tensor) -> Tensor:
    """(B,) fp64: as `budget`, with the part of a slot that a fraction leaves."""
    keep, real = recipe.keep, lengths.double()
    return (torch.full_like(real, keep) if isinstance(keep, int) else real * keep).clamp(min=_least(recipe))


def _least(recipe: Recipe) -> int:
    """Slots that no budget goes below: the sinks, and the recent tokens of a count, or else one token beside them."""
    return recipe.sinks + max(1, recipe.recent if isinstance(recipe.recent, int) else 1)


def fits(layer: StoreLayer) -> bool:
    """No row has more tokens than its slots, so there is nothing to choose."""
    lengths = layer.lengths()
    return bool((budget(layer.recipe, lengths) >= lengths).all())


def totals(layers: Sequence[StoreLayer]) -> list[Tensor]:
    """(B,) slots per KV head on average for each of `layers`, which are all of a cache where they share a budget.

    int64; fp64 where layers share slots and heads are compared, H times which is a whole number. Each is on the device
    of its layer; what is measured in the layers meets on that of the first.
    """
    recipe, lengths = layers[0].recipe, layers[0].lengths()
    total = budget(recipe, lengths)
    if recipe.layers is None or fits(layers[0]):
        return [total.to(layer.device) for layer in layers]
    measured = []
    for layer in layers:
        block = layer.block()
        seen = layer.evidence(block)
        safe = protected(recipe, seen.rank, layer.lengths(), total.to(layer.device))
        needed = recipe.layers.measure(block, seen, partial(_scored, recipe, block, seen, safe))
        measured.append(needed.to(total.device))
    fixed = recipe.sinks + (recipe.recent if isinstance(recipe.recent, int) else 0)
    least = lengths.clamp(max=_least(recipe))
    wanted = total if recipe.layers.exact else asked(recipe, lengths)
    weights = recipe.layers.weights(measured, wanted, total.clamp(max=fixed), lengths)
    shape = (len(lengths), len(layers))
    low, high = least[:, None].expand(shape), lengths[:, None].expand(shape)
    if recipe.layers.exact:
        # Where heads are compared too, a layer holds any number of slots: one order of all slots is kept whole.
        unit = layers[0].tail.k.shape[1] if recipe.heads.compares else 1
        shares = apportion(weights.T, total * len(layers) * unit, low * unit, high * unit)
        shares = shares if unit == 1 else shares.double() / unit
    else:
        shares = weights.T.floor().long().clamp(low, high)
    # A row that is shorter than its slots has nothing to spread, and may still grow to them.
    shares = torch.where((total >= lengths)[:, None], total[:, None], shares)
    columns = shares.T.contiguous()
    own = (columns[number].clone(memory_format=torch.contiguous_format) for number in range(len(layers)))
    return [share.to(layer.device) for share, layer in zip(own, layers, strict=True)]


def protected(recipe: Recipe, rank: Tensor, lengths: Tensor, total: Tensor, counts: Tensor | None = None) -> Tensor:
    """(B, H, n) bool: sinks and recent tokens, by their number `rank` among the real tokens of the row.

    total: (B,) slots per head on average, which a share of recent tokens is taken of. counts: (B, H) slots that stay,
    None = total in every head. No more are protected than stay: recent tokens give way to sinks, the oldest first, and
    sinks give way only to the newest token, which is protected wherever recent tokens are asked for.
    """
    whole, share = total.floor().long(), recipe.recent  # where heads are compared an average may lie between two
    room = (whole.unsqueeze(1) if counts is None else counts).to(total.device)
    wanted = (total.double() * share).floor().long() if isinstance(share, float) else torch.full_like(whole, share)
    wanted = wanted.clamp(min=int(share > 0)).unsqueeze(1)
    recent = torch.minimum(wanted, (room - recipe.sinks).clamp(min=1))
    sinks = (room - recent).clamp(min=0, max=recipe.sinks)
    since = (lengths.unsqueeze(1) - recent).unsqueeze(-1)
    return (rank >= 0) & ((rank < sinks.unsqueeze(-1)) | (rank >= since))


def evict(layer: StoreLayer, total: Tensor) -> bool:
    """Reduce a layer to `total` (B,) slots per KV head on average; False when it holds no more than that."""
    recipe = layer.recipe
    if recipe.scorer is None:
        return False
    held = layer.counts().to(total.device)  # nothing is decoded to find that nothing is to be done
    more = held.double().mean(1, keepdim=True) if recipe.heads.compares else held
    due = (more > total.unsqueeze(1)).any(1, keepdim=True)
    if not bool(due.any()):
        return False
    block = layer.block()
    seen = layer.evidence(block)
    scores = recipe.scorer(block, seen)
    lengths = layer.lengths()
    safe = protected(recipe, seen.rank, lengths, total)
    # A head that stores less than its share (it was reduced before) keeps what it has; so does a row that is not due,
    # whose heads are not compared anew, as they would not be if it were alone.
    counts = torch.where(due, torch.minimum(recipe.heads(total, _marked(scores, block, safe)), held), held)
    safe = protected(recipe, seen.rank, lengths, total, counts)  # a head may have got less than the average
    added = weighed(layer, block, seen)
    if recipe.refine is not None and added is not None:
        scores = recipe.refine(scores, added, block.pos, counts, safe)
    keep = choose(scores, block.pos, counts, safe)
    if added is not None:
        remember(layer, added)
    retain(layer, keep)
    if layer.upper is not None:  # layers that share directions hold the same slots
        retain(layer.upper, keep.to(layer.upper.device))
        sharing.relink(layer, layer.upper)
    return True


def _scored(recipe: Recipe, block: Block, seen: Evidence, safe: Tensor) -> Tensor:
    assert recipe.scorer is not None
    return _marked(recipe.scorer(block, seen), block, safe)


def _marked(scores: Tensor, block: Block, safe: Tensor) -> Tensor:
    """(B, H, n) fp32 scores, +inf for slots that always stay and -inf for those that do not exist."""
    scores = scores.float().nan_to_num(nan=-torch.inf)
    return scores.masked_fill(safe, torch.inf).masked_fill(~block.valid, -torch.inf)


def weighed(layer: StoreLayer, block: Block, seen: Evidence) -> Tensor | None:
    """(B, H, n) fp32: what each slot's value can add to the layer's output; None where the recipe does not ask."""
    if layer.recipe.refine is None:
        return None
    if (known := layer.tail.used().get(ADDED)) is None:
        return seen.added(block.v)
    return completed(block.v, block.valid, seen.added, known)


def remember(layer: StoreLayer, added: Tensor) -> None:
    """Keep `added` (B, H, n) where slots go one by one: most of them come again at the next step."""
    if (known := layer.tail.used().get(ADDED)) is not None:
        known.copy_(added)


def retain(layer: StoreLayer, keep: Tensor) -> None:
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
    order = _by_position(pos, mine)[..., :width]
    there = torch.arange(width, dtype=torch.int64, device=order.device) < mine.sum(-1, keepdim=True)
    tail.keep(order, torch.where(there, pos.gather(2, order), -1))
    layer.fixed = layer.logical
    follow(layer)


def follow(layer: StoreLayer) -> None:
    """Where positions are cache slots: move the sinks along, so that no gap is between them and the window.

    The window keeps its rotations; only the distance to the sinks would grow, by one token an eviction. Sinks are
    turned from the keys they were given, by all of the way at once: turning what was rounded the last time would add
    the rounding of every step. Those keys are kept beside the tail, one for each sink.
    """
    if layer.recipe.positions != "slots":
        return
    assert layer.rotate is not None
    held = (layer.tail.positions() >= 0).sum(-1).amax(1)
    shift = layer.lengths() - held
    sinks = layer.tail.k[:, :, : layer.recipe.sinks]  # they are oldest, hence first, and never evicted
    given = sinks.clone(memory_format=torch.contiguous_format)
    if layer.sink_keys is not None and layer.shift is not None:
        # A row that has evicted nothing yet may still be getting its sinks: they stand as they were given.
        given = torch.where(_rows(layer.shift > 0), layer.sink_keys, given)
    sinks.copy_(torch.where(_rows(shift > 0), layer.rotate(given, shift), given))
    layer.sink_keys, layer.shift = given, shift


def _rows(of: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1)."""
    return of.view(-1, 1, 1, 1)


def evict_one(layer: StoreLayer, total: Tensor) -> bool:
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


def prune(layer: StoreLayer) -> bool:
    """Choose the channels that packed slots keep, once; False where there is nothing to choose."""
    recipe = layer.recipe
    if recipe.channels is None or layer.channels_chosen:
        return False
    layer.channels_chosen = True
    block = layer.block()
    seen = layer.evidence(block)
    # The newest `residual` slots stay whole; where a prompt has no others, all of them tell.
    newest = block.pos.clamp(min=-1).argsort(dim=-1, descending=True, stable=True).argsort(-1)
    packed = block.valid & (newest >= recipe.residual)
    packed = torch.where(packed.any(-1, keepdim=True), packed, block.valid)
    layer.own = {**layer.own, **recipe.channels.choose(block, seen, packed)}
    return True


def pack(layer: StoreLayer, freeze: bool) -> None:
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
    order = _by_position(pos, pos >= 0)
    if layer.upper is not None:
        counts = sharing.merge(layer, layer.upper, order, there - recipe.residual)
        if bool(counts.any()):
            _leave(layer, pos, order, counts)
            _leave(layer.upper, *(x.to(layer.upper.device) for x in (pos, order, counts)))
        return
    columns = tail.used()
    segment = Segment.encode(recipe.stored, tail.keys, tail.values, pos, order, counts, layer.own, columns)
    own = columns.only(frozen=False).take(order[..., : segment.width])
    layer.held = appended(layer.held, Held(segment, None, own))
    _leave(layer, pos, order, counts)


def drop_padding(layer: StoreLayer) -> None:
    """Leave no columns in the dense tail that are padding in every row; a chunk may be nothing else."""
    pos = layer.tail.positions()
    there = pos >= 0
    if layer.seen_mask is not None and int(there.sum(-1).max()) < layer.tail.count:
        _leave(layer, pos, _by_position(pos, there), torch.zeros_like(pos[..., 0], dtype=torch.long))


def _leave(layer: StoreLayer, pos: Tensor, order: Tensor, counts: Tensor) -> None:
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


def _by_position(pos: Tensor, keep: Tensor) -> Tensor:
    """(B, H, n) indices: the kept slots by position first, then the others."""
    return torch.where(keep, pos, torch.iinfo(torch.int32).max).argsort(dim=-1, stable=True)
