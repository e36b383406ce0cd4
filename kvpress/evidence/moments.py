"""Mean and covariance of the queries of a prompt as before their rotary embedding, in O(D^2) memory a query head."""

from __future__ import annotations

import torch
from torch import Tensor

from kvpress.evidence.rope import Rotate

_TILE_BYTES = 16 << 20


def add_queries(moments: Tensor | None, q: Tensor, at: Tensor, rotate: Rotate) -> Tensor:
    """Moments with the queries q (B, Hq, m, D), post-RoPE at positions `at` (B, m), -1 = not counted.

    moments: (B, Hq, D + 2, D) fp32: D rows of summed outer products of deviations from the mean, the mean, and the
    count in every column; None = no query yet. A tile of queries is turned back at a time, deviations are from
    the mean of the tile, and tiles are joined exactly (Chan et al. 1979), so nothing cancels.
    """
    batch, heads, total, dim = q.shape
    if moments is None:
        moments = torch.zeros(batch, heads, dim + 2, dim, dtype=torch.float32, device=q.device)
    tile = max(1, _TILE_BYTES // (4 * batch * heads * dim))
    for first in range(0, total, tile):
        here = at[:, first : first + tile]
        turned = rotate(q[:, :, first : first + tile].float(), -here.clamp(min=0))
        moments = _joined(moments, _of(turned, here >= 0))
    return moments


def read_moments(moments: Tensor) -> tuple[Tensor, Tensor]:
    """(mean (B, Hq, D), covariance (B, Hq, D, D)) fp32, the covariance by the number of queries; 0 without any."""
    return moments[:, :, -2], moments[:, :, :-2] / moments[:, :, -1:].clamp(min=1)


def _of(x: Tensor, counted: Tensor) -> Tensor:
    """Moments of the vectors x (B, Hq, m, D) that are `counted` (B, m)."""
    mask = counted[:, None, :, None]
    count = mask.sum(2, keepdim=True)
    mean = x.masked_fill(~mask, 0.0).sum(2, keepdim=True) / count.clamp(min=1)
    away = (x - mean).masked_fill(~mask, 0.0)
    return torch.cat([away.mT @ away, mean, count.expand_as(mean).to(mean.dtype)], 2)


def _joined(a: Tensor, b: Tensor) -> Tensor:
    many, more = a[:, :, -1:], b[:, :, -1:]
    count = many + more
    part = more / count.clamp(min=1)
    step = b[:, :, -2:-1] - a[:, :, -2:-1]
    outer = a[:, :, :-2] + b[:, :, :-2] + step.mT @ step * (many * part)
    return torch.cat([outer, a[:, :, -2:-1] + step * part, count], 2)
