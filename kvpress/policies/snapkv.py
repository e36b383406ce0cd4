"""SnapKV (2404.14469): what the end of the prompt attends to is what the answer will need.

paper     Li et al. 2024, SnapKV: LLM Knows What You are Looking for Before Generation
idea      the attention of the last `window` prompt tokens votes; votes are pooled so that neighbours survive
formula   s = pool_k(mean over the window of softmax(q k)), reduced over the query heads of a KV head
cost      O(window * n) a layer, once after the prompt; peak memory of the prompt itself is unchanged
deviates  one set per KV head (the authors repeat K to query heads and keep a set for each: G times the bytes)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kvpress.errors import PressSyntaxError
from kvpress.evidence.evidence import Evidence, Needs
from kvpress.recipe.kinds import AfterPrefill, Decisions, Schedule
from kvpress.recipe.press import preset, variant
from kvpress.storage.block import Block

_NEVER = 2**31 - 1


@dataclass(frozen=True)
class WindowVotes:
    """Pooled attention of the last `window` queries on the slots before them.

    kernel_size: odd width of the pooling; pooling: "max" or "avg" (zero-padded, as in the authors' code);
    reduce: "mean", "max" or "sum" over the query heads of a KV head. pool_first: pool each query head, then
    reduce (differs from the opposite order only for max pooling).
    """

    window: int = 32
    kernel_size: int = 7
    pooling: Literal["max", "avg"] = "max"
    reduce: Literal["mean", "max", "sum"] = "mean"
    pool_first: bool = True
    comparable = True
    attention = True
    waits = "snapkv scores by the last queries of the prompt"

    @property
    def needs(self) -> Needs:
        return Needs(window=self.window)

    @property
    def premise(self) -> LaterQueriesAgree | None:
        return LaterQueriesAgree(self.window) if self.window > 1 else None

    def _pool(self, votes: Tensor) -> Tensor:
        flat, half = votes.reshape(1, -1, votes.shape[-1]), self.kernel_size // 2
        pool = F.max_pool1d if self.pooling == "max" else F.avg_pool1d
        return pool(flat, self.kernel_size, 1, half).view(votes.shape)

    def _reduce(self, votes: Tensor) -> Tensor:
        if self.reduce == "max":
            return votes.amax(2)
        return votes.sum(2) if self.reduce == "sum" else votes.mean(2)

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        assert seen.query_pos is not None
        there = (seen.query_pos[:, -self.window :] >= 0).sum(1).clamp(min=1)  # a prompt may be shorter than the window
        votes = seen.window(block, self.window).sum(3) / there.view(-1, 1, 1, 1)  # (B, H, G, n)
        # The window is not a candidate: zeroed, so that pooling does not carry its columns into their neighbours.
        begin = torch.where(seen.query_pos >= 0, seen.query_pos, _NEVER)[:, -self.window :].amin(1)
        before = block.valid & (block.pos < begin[:, None, None])
        votes = votes * before.unsqueeze(2)
        # Neighbours are neighbours in the text, whatever the order in memory; missing slots (-1) sort to the front.
        order = block.pos.argsort(dim=-1, stable=True).unsqueeze(2).expand_as(votes)
        votes = votes.gather(-1, order)
        votes = self._reduce(self._pool(votes)) if self.pool_first else self._pool(self._reduce(votes))
        return torch.zeros_like(votes).scatter_(-1, order[:, :, 0], votes)


@dataclass(frozen=True)
class LaterQueriesAgree:
    """What queries look at is what later ones look at.

    Queries still to come cannot be asked when slots are chosen, so the later half of the window stands for them: the
    figure is how much of its attention on the tokens before the window the tenth of them that the earlier half
    chooses would catch, over what the best tenth catches. It is an upper bound: a question is farther away.
    """

    window: int
    method = "snapkv"
    says = "later queries look where the window looked"
    measures = "attention of the window's later half that its earlier half would keep, of the most possible,"
    bound = 0.75

    def sample(self, block: Block, seen: Evidence) -> Tensor:
        """(H,) of the first row's heads."""
        assert seen.query_pos is not None
        at = seen.query_pos[0, -self.window :]
        began = at[at >= 0].min()
        votes = seen.window(block, self.window)[0].mean(1)  # (H, w, n)
        votes = votes * (block.valid[0] & (block.pos[0] < began)).unsqueeze(1)
        half = votes.shape[1] // 2
        early, late = votes[:, :half].sum(1), votes[:, half:].sum(1)
        count = max(1, int((block.pos[0, 0] < began).sum()) // 10)
        caught = late.gather(-1, early.topk(count, -1).indices).sum(-1)
        best = late.topk(count, -1).values.sum(-1)
        return caught / best.clamp(min=torch.finfo(torch.float32).tiny)

    def figure(self, samples: Sequence[Tensor]) -> float:
        return float(torch.cat(list(samples)).mean())


_NEIGHBOURS = 1023  # slots that pooling reaches over


@preset("snapkv", small="keep=0.4, window=5, kernel_size=3")
def snapkv(
    keep: float | int = 0.25,
    window: int = 32,
    kernel_size: int = 7,
    pooling: str = "max",
    reduce: str = "mean",
    every_prompt: bool = False,
) -> Decisions:
    """Slots the end of the prompt attends to, pooled over neighbours (2404.14469)."""
    if window < 1 or not 1 <= kernel_size <= _NEIGHBOURS or kernel_size % 2 == 0:
        raise PressSyntaxError(
            f"window={window} must be positive, and kernel_size={kernel_size} odd and at most {_NEIGHBOURS}: pooled "
            "over more neighbours, all slots score alike."
        )
    if pooling not in ("max", "avg") or reduce not in ("mean", "max", "sum"):
        raise PressSyntaxError(f'pooling={pooling!r} is "max" or "avg", reduce={reduce!r} is "mean", "max" or "sum".')
    schedule: Schedule = AfterPrefill(every_prompt)
    votes = WindowVotes(window, kernel_size, pooling, reduce)  # type: ignore[arg-type]
    return {"keep": keep, "scorer": votes, "sinks": 0, "recent": window, "schedule": schedule}


variant(snapkv, "paper", "SnapKV as in the paper's LongBench tables: 1024 slots, window 32, max pooling 7.", keep=1024)
variant(
    snapkv,
    "authors",
    "SnapKV with the defaults of the authors' class (not those of their tables): average pooling 5.",
    keep=1024,
    kernel_size=5,
    pooling="avg",
)
variant(
    snapkv,
    "kvpress",
    "SnapKV with the defaults of NVIDIA's kvpress: window 64, average pooling 5.",
    keep=0.5,
    window=64,
    kernel_size=5,
    pooling="avg",
)
variant(
    snapkv, "factory", "SnapKV as in KVCache-Factory's tables: 128 slots, window 8, max pooling 7.", keep=128, window=8
)
