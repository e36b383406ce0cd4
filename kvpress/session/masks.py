"""Attention masks of a session: what may be padding, and what was."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kvpress.cache.cache import PressCache
from kvpress.errors import SessionError, UnsupportedError, short

_TILE = 1 << 22  # pairs of a query and a slot


def check_prompt_mask(mask: Tensor, ids: Tensor, past: int) -> None:
    """Raise SessionError where the mask of a prompt ids (B, n) after `past` tokens has another shape or ends in 0."""
    allowed = {(ids.shape[0], ids.shape[1]), (ids.shape[0], past + ids.shape[1])}
    if tuple(mask.shape) not in allowed:
        raise SessionError(
            f"attention_mask has shape {tuple(mask.shape)}; give one of {' or '.join(map(str, sorted(allowed)))}, "
            "for the tokens given or for those in the cache too."
        )
    if not bool(mask[:, -1].all()):
        raise SessionError(
            "The prompt of a row ends in padding, but the last tokens are what a press looks at and what the next "
            'token follows. Pad on the left: tokenizer.padding_side = "left".'
        )


def check_mask(cache: PressCache, mask: Any) -> None:
    """Padding is left out of what is stored, so what was a token once stays one."""
    past = cache.get_seq_length()
    prompt = isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] > past + 1
    if prompt and cache.press.recipe.needs.window:
        ends = mask[:, -1].bool()
        if not bool(ends.all()) and bool(mask[~ends].any()):
            raise UnsupportedError(
                f"A row ends in padding, and {short(cache.press)} looks at the last tokens. Pad on the left: "
                'tokenizer.padding_side = "left".'
            )
    if not isinstance(mask, Tensor) or mask.dim() != 2 or mask.shape[1] <= past or past == 0:
        return
    if not torch.equal(mask[:, :past].bool(), seen_mask(cache, mask.shape[0]).to(mask.device)):
        raise UnsupportedError(
            f"The attention mask changes which of the {past} tokens in the cache are padding; a press drops padding "
            "when it is read. Give the mask they were read with, extended by the new tokens."
        )


def seen_mask(cache: PressCache, batch: int) -> Tensor:
    """(B, logical) bool: which tokens in the cache were no padding."""
    first = cache.stores[0]
    if first.seen_mask is not None:
        return first.seen_mask
    return torch.ones(batch, first.logical, dtype=torch.bool, device=first.device)
