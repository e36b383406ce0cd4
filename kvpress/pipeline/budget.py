"""How many slots stay, of a row and of every layer where layers share, and which ones always do."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from kvpress.evidence.evidence import Evidence
from kvpress.pipeline.layer import Layer
from kvpress.policies.apportion import apportion
from kvpress.recipe.recipe import Recipe
from kvpress.storage.block import Block


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


def fits(layer: Layer) -> bool:
    """No row has more tokens than its slots, so there is nothing to choose."""
    lengths = layer.lengths()
    return bool((budget(layer.recipe, lengths) >= lengths).all())


def totals(layers: Sequence[Layer]) -> list[Tensor]:
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
        needed = recipe.layers.measure(block, seen, partial(scored, recipe, block, seen, safe))
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


def scored(recipe: Recipe, block: Block, seen: Evidence, safe: Tensor) -> Tensor:
    assert recipe.scorer is not None
    return marked(recipe.scorer(block, seen), block.valid, safe)


def marked(scores: Tensor, among: Tensor, safe: Tensor) -> Tensor:
    """(B, H, n) fp32 scores, +inf for slots that always stay and -inf for those there is no choice of."""
    scores = scores.float().nan_to_num(nan=-torch.inf)
    return scores.masked_fill(safe, torch.inf).masked_fill(~among, -torch.inf)
