"""Reading a prompt a second time: how strongly every slot is attended to while the model repeats what it has read.

The tokens of the prompt are fed again, part by part, to the complete dense cache, after an instruction to repeat
them where the session has one. What a part adds to the cache is taken out again before the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kvpress.cache.cache import PressCache
from kvpress.errors import SessionError, UnsupportedError, short
from kvpress.evidence.repetition import parts
from kvpress.evidence.rope import length_dependent
from kvpress.recipe.press import Press, like, reads_once
from kvpress.storage.modes import undisturbed


class Repeats(Protocol):
    """What reading again asks of a session."""

    press: Press
    model: PreTrainedModel
    positions: int | None

    @property
    def instructions(self) -> Sequence[Sequence[int]]: ...

    def forward(self, ids: Tensor, mask: Tensor | None, cache: PressCache) -> Tensor: ...


@torch.no_grad()
def read_again(session: Repeats, cache: PressCache) -> None:
    """Give every layer of `cache`, dense and read by `session`, the attention its slots get while it is repeated."""
    plan = session.press.recipe.needs.repeat
    first = cache.stores[0]
    assert plan is not None and first.prompt is not None and first.prompt.shape[1] == first.logical
    length, home = first.logical, session.model.device  # the first layer may be on another device than the input
    prompt, mask = first.prompt.to(home), None if first.seen_mask is None else first.seen_mask.to(home)
    found = list(parts(prompt, mask, plan, session.instructions))
    longest = length + max((part.ids.shape[1] for part in found), default=0)
    limit = session.positions
    if limit is not None and longest > limit:
        raise UnsupportedError(
            f"{short(session.press)} repeats a prompt of {length} tokens at positions up to {longest}, and this model "
            f"has learned {limit}. Give it a smaller chunk, or use a press that reads the prompt once."
        )
    with undisturbed():
        for layer in cache.stores:
            layer.repeated = torch.zeros(*layer.tail.k.shape[:2], length, dtype=torch.float32, device=layer.device)
    before = torch.ones_like(prompt) if mask is None else mask.long()
    try:
        for part in found:
            with cache.borrowed(part):
                session.forward(part.ids, torch.cat([before, torch.ones_like(part.ids)], 1), cache)
    except BaseException:
        for layer in cache.stores:
            layer.repeated = None
        raise


def check_repeats(session: Repeats) -> None:
    """Raise UnsupportedError for a model that would not be the same after positions beyond the prompt."""
    if kind := length_dependent(session.model):
        raise UnsupportedError(
            f"{type(session.model).__name__} uses {kind} RoPE, whose angles depend on the longest position seen, and "
            f"{short(session.press)} makes the model repeat its prompt beyond its end. Use a press that reads the "
            f"prompt once ({like(reads_once)})."
        )


def checked_instructions(value: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Three sequences of token ids, the last of which may be missing; or SessionError."""
    try:
        first, later, *more = [[int(token) for token in tokens] for tokens in value]
        (end,) = more or ([],)
    except (TypeError, ValueError):
        raise SessionError(
            f"instructions={short(repr(value))} must be lists of token ids: what comes before the first part of a "
            "prompt that is repeated, what comes before each later one, and, if anything, what follows either."
        ) from None
    return tuple(first), tuple(later), tuple(end)
