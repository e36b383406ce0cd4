"""The log-probability of a gold answer: the model is made to say it, and asked how likely each token was.

It tells presses apart where exact match cannot: on models that rarely answer right, and where every answer is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Forced", "forced"]

_PIECE = 32  # tokens of a forward: bounds the logits held at once, which are (rows, tokens, vocabulary)


@dataclass(frozen=True)
class Forced:
    """One gold answer: mean log-probability of its tokens (natural logarithm), and whether each was the likeliest."""

    logprob: float
    argmax: bool


@torch.no_grad()
def forced(
    forward: Callable[..., Any],
    cache: Any,
    logits: Tensor,
    golds: Sequence[Sequence[int]],
    mask: Tensor | None = None,
) -> list[Forced | None]:
    """Teacher-forced log-probabilities of R gold answers after what is in a cache.

    The tokens are read several at a time, so a press neither evicts nor packs between them: what is measured is the
    cache that the question was answered from, also of presses that evict at every decoding step.

    Args:
        forward: a causal LM.
        cache: its cache of R rows; it is written to, so give a fork that is thrown away.
        logits: (R, V) after the last token of the cache.
        golds: ids of each row, without the token that ends an answer; a row may be empty.
        mask: (R, logical length) of what is in the cache, for padded rows; positions follow it.

    Returns:
        One item a row; None where its gold has no tokens or a probability is no number.
    """
    width = max((len(gold) for gold in golds), default=0)
    if not width:
        return [None] * len(golds)
    # what is right of a row's gold is read after it and never looked at, so any id will do
    padded = [[*gold, *[0] * (width - len(gold))] for gold in golds]
    ids = torch.tensor(padded, dtype=torch.int64, device=logits.device)
    sums, hits = [0.0] * len(golds), [True] * len(golds)
    start, before = 0, logits[:, None]
    while True:
        stop = start + before.shape[1]
        likely, best = _likely(before, ids[:, start:stop])
        for row, gold in enumerate(golds):
            here = max(0, min(stop, len(gold)) - start)
            sums[row] += float(likely[row, :here].sum())
            hits[row] &= bool(best[row, :here].all())
        if stop == width:
            break
        piece = ids[:, stop - 1 : min(stop - 1 + _PIECE, width - 1)]
        if width - 1 - (stop - 1 + _PIECE) == 1:  # a last piece of one token would be a decoding step
            piece = ids[:, stop - 1 : width - 1]
        options: dict[str, Tensor] = {}
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(golds), piece.shape[1])], dim=1)
            positions = mask.cumsum(1) - 1
            options = {"attention_mask": mask, "position_ids": positions[:, -piece.shape[1] :]}
        before = forward(input_ids=piece, past_key_values=cache, **options).logits
        start = stop
    means = [total / max(1, len(gold)) for total, gold in zip(sums, golds, strict=True)]
    return [
        Forced(mean, hit) if gold and math.isfinite(mean) else None
        for mean, hit, gold in zip(means, hits, golds, strict=True)
    ]


def _likely(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(R, n) log-probability of each id in fp32, and whether it is the likeliest; logits (R, n, V), ids (R, n)."""
    picked = logits.gather(2, ids[:, :, None])[:, :, 0].float()
    return picked - torch.logsumexp(logits.float(), dim=-1), logits.argmax(-1) == ids
