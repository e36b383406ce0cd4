"""Leverage scores of the keys (2507.08143, the query-agnostic half of Compactor).

paper     Chari & Van Durme 2025, Compactor: ... KV Cache Compression with Approximate Leverage Scores
idea      a key that no combination of the other keys can stand for is worth its slot
formula   score_j = x_j^T (X^T X + ridge)^-1 x_j, X = (K - mean K) G, K before RoPE, G Gaussian of variance 1 / sketch
cost      O(n D sketch) a layer in fp32 and O(n sketch^2) in fp64, once after the prompt; one KV head's keys at a time
deviates  without Compactor's chunked attention term, which needs every query; no z-score (it mixes rows); rounded
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kvpress.errors import PressSyntaxError, UnsupportedError
from kvpress.evidence.bind import View
from kvpress.evidence.evidence import Evidence, Needs
from kvpress.evidence.rope import Rotate, unrotated
from kvpress.policies.rounding import rounded
from kvpress.recipe.kinds import AfterPrefill, Decisions
from kvpress.recipe.press import preset, variant
from kvpress.storage.block import Block

_RANK = 1e-10  # eigenvalues of X^T X below this part of the largest are rounding


@dataclass(frozen=True)
class Leverage:
    """Statistical leverage of each key among the keys of its head, in [0, 1]; with ridge 0 they sum to the rank.

    sketch: width of the projection, 0 or at least D = exact. ridge: added to every eigenvalue. keys: "unrotated"
    (as before the rotary embedding, by turning the cached ones back) or "rotated". seed: of the projection,
    which differs by layer and head.
    """

    sketch: int = 48
    ridge: float = 0.0
    keys: Literal["unrotated", "rotated"] = "unrotated"
    seed: int = 0
    comparable = True
    attention = False
    waits = "leverage scores a key against all keys of the prompt"

    needs = Needs()

    def bind(self, view: View, layer: int) -> Rotate | None:
        if self.keys == "rotated":
            return None
        try:
            return view.rotation(layer)
        except UnsupportedError as error:
            raise UnsupportedError(f'{error} Or give keys="rotated": as they are cached.') from None

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        heads, dim = block.k.shape[1], block.k.shape[3]
        projection = None
        if 0 < self.sketch < dim:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + seen.layer)
            shape = (heads, dim, self.sketch)
            projection = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
            projection = projection.to(block.k.device) / math.sqrt(self.sketch)
        rotate = seen.of(self) if self.keys == "unrotated" else None
        scores = torch.empty(block.pos.shape, dtype=torch.float32, device=block.k.device)
        for head in range(heads):
            mine = block.k[:, head : head + 1]
            x = mine.float() if rotate is None else unrotated(rotate, mine, seen.rank[:, head : head + 1])
            x = x[:, 0] if projection is None else x[:, 0] @ projection[head]
            scores[:, head] = _leverage(x.double(), block.valid[:, head], self.ridge)
        return rounded(scores)


def _leverage(x: Tensor, there: Tensor, ridge: float) -> Tensor:
    """(B, n) leverage of the rows of x (B, n, d) fp64, centered over the rows that are `there` (B, n)."""
    mask = there.unsqueeze(-1)
    mean = x.masked_fill(~mask, 0.0).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    x = (x - mean).masked_fill(~mask, 0.0)
    values, vectors = torch.linalg.eigh(x.mT @ x)
    real = values > _RANK * values[:, -1:].clamp(min=torch.finfo(x.dtype).tiny)
    weights = real.to(values.dtype) / torch.where(real, values + ridge, 1.0)
    return ((x @ vectors).square() @ weights.unsqueeze(-1)).squeeze(-1).clamp(max=1.0)


_WIDEST = 4096  # channels, more than any head has


@preset(
    "leverage",
    small="keep=0.4, sinks=1, recent=2, sketch=7",
    unsettled="the paper adds a chunked attention term, which is not built",
)
def leverage(
    keep: float | int = 0.25,
    sinks: int = 8,
    recent: int = 4,
    sketch: int = 48,
    ridge: float = 0.0,
    keys: str = "unrotated",
    seed: int = 0,
) -> Decisions:
    """Slots whose keys the other keys cannot stand for: the leverage scores of Compactor (2507.08143)."""
    if not 0 <= sketch <= _WIDEST or ridge < 0:
        raise PressSyntaxError(
            f"sketch={sketch} is a width from 0 (exact) to {_WIDEST}, and ridge={ridge} cannot be negative."
        )
    if keys not in ("unrotated", "rotated"):
        raise PressSyntaxError(f'keys={keys!r}: use "unrotated" (the paper) or "rotated" (as they are cached).')
    scorer = Leverage(sketch, ridge, keys, seed)  # type: ignore[arg-type]
    return {"keep": keep, "scorer": scorer, "sinks": sinks, "recent": recent, "schedule": AfterPrefill()}


variant(
    leverage,
    "kvpress",
    "Leverage scores as NVIDIA's kvpress takes them: nothing protected, a ridge of 0.01.",
    keep=0.5,
    sinks=0,
    recent=0,
    ridge=0.01,
)
