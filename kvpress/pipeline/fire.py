"""When a press is applied: to a prompt that was read, or to what a decode step brought, in one layer or in all."""

from __future__ import annotations

import torch
from torch import Tensor

from kvpress.pipeline.budget import budget, totals
from kvpress.pipeline.evict import evict, evict_one
from kvpress.pipeline.layer import Layer
from kvpress.pipeline.pack import drop_padding, pack, prune
from kvpress.pipeline.phase import Act
from kvpress.storage.modes import steady


def before_forward(layer: Layer, new: int) -> None:
    """`new` tokens come: a prompt before a single one is complete."""
    if layer.state.part is None and layer.phase.before(new) is Act.FIRE:
        fire(layer)


def after_forward(layer: Layer, new: int) -> None:
    """Decide what is due after the attention of `new` tokens: fire on a prompt, evict or pack while decoding."""
    recipe, between = layer.recipe, layer.state.reading is not None
    again = recipe.schedule.every_prompt or layer.chooses
    ends = not layer.shared and recipe.sharer is None
    if recipe.schedule.decoded and layer.phase.reads(new):
        layer.read = (*layer.read, (layer.logical - new, layer.logical))
    act = layer.phase.after(new, again, between, not recipe.together, ends)
    if act is Act.FIRE:
        fire(layer)
    elif act is Act.STEP:
        step(layer)


def finish(layer: Layer) -> None:
    """The forward, or as much of it as reads these slots, is over: evict or pack what it made due."""
    if layer.phase.act() is Act.STEP:
        step(layer)


@steady
def fire(layer: Layer) -> None:
    """Apply the press now to everything stored, and to all layers where they share one budget."""
    recipe = layer.recipe
    layers = layer.state.layers if recipe.together else [layer]
    if layer.logical == 0:
        layer.phase.done(fired=False)
        return
    for one in layers:  # before anything is dropped or packed in any of them
        _survey(one)
    reading, shares = layer.state.reading, list[Tensor | None]([None] * len(layers))
    if recipe.evicts and reading is None:
        shares = [*totals(layers)]
    elif recipe.evicts and reading is not None:  # the whole prompt's budget, whatever part of it was read
        shares = [budget(recipe, reading.lengths.to(one.device)) for one in layers]
    for one, total in zip(layers, shares, strict=True):
        _fire(one, total)


def _survey(layer: Layer) -> None:
    """Show what a premise is measured on, the first time the press fires here."""
    state = layer.state
    if state.survey is not None and layer.phase.fired == 0 and layer.rule is not None:
        block = layer.block()
        state.survey.see(state.layers.index(layer), block, layer.evidence(block))


def _fire(layer: Layer, total: Tensor | None) -> None:
    layer.phase.done(fired=True)
    layer.total = total
    if not layer.follows:
        evicted = total is not None and evict(layer, total)
        pruned = prune(layer)
        pack(layer, freeze=evicted or pruned)
    if layer.state.reading is not None:
        drop_padding(layer)
    elif not layer.recipe.asks_again:
        layer.forget()
    layer.measure()


@steady
def step(layer: Layer) -> None:
    """Evict or pack what a decode step or a chunk brought."""
    layer.phase.done(fired=False)
    if not layer.follows and _evict_step(layer):  # else the lower layer packs for both
        pack(layer, freeze=False)
    if layer.state.reading is not None:
        drop_padding(layer)
    layer.measure()


def _evict_step(layer: Layer) -> bool:
    """Evict what is too much; False where so little came since that nothing can be packed either."""
    recipe, total = layer.recipe, layer.total
    schedule = recipe.schedule
    if total is None or not layer.phase.due(schedule.interval):
        return True
    layer.phase.since = 0
    if schedule.decoded:
        tokens = layer.logical - sum(stop - start for start, stop in layer.read)
        total = budget(recipe, torch.full_like(total, tokens, dtype=torch.int64))
    elif evict_one(layer, total):
        return True
    elif not recipe.in_place and schedule.interval == 1:  # packed slots go in blocks; each row as if it were alone
        dense = (layer.tail.positions() >= 0).sum(-1).amax(1)
        due = dense - recipe.residual >= recipe.block
        if not bool(due.any()):  # the common step: nothing is decoded to find that nothing is to be done
            return False
        total = torch.where(due, total, torch.iinfo(torch.int64).max)
    evict(layer, total, schedule.decoded)
    return True
