"""Outliers: which numbers of a line are extreme, what stands in for them, and products with their sparse matrix."""

from __future__ import annotations

import torch
from torch import Tensor

_PRODUCTS = 1 << 22  # numbers in flight


def per_side(fraction: float, length: int) -> int:
    """How many of the largest, and of the smallest, numbers of a line are outliers.

    fraction / 2 of `length`, rounded, but at least one where fraction is positive, and something always remains.
    """
    wanted = max(1, int(fraction * length / 2 + 0.5)) if fraction > 0 else 0
    return min(wanted, (length - 1) // 2)


def extremes(lines: Tensor, each: int) -> Tensor:
    """Bool like lines (..., N): the `each` largest and `each` smallest of a line; among equals the first."""
    if each == 0:
        return torch.zeros_like(lines, dtype=torch.bool)
    lines = lines.nan_to_num()  # so that there are as many outliers as there should be, whatever a model computes
    high = lines.topk(each).values[..., -1:]
    low = lines.topk(each, largest=False).values[..., -1:]
    large = _filled_up(lines > high, lines == high, each)
    return large | _filled_up(lines < low, (lines == low) & ~large, each)


def _filled_up(sure: Tensor, tied: Tensor, count: int) -> Tensor:
    room = count - sure.sum(-1, keepdim=True)
    return sure | (tied & (tied.cumsum(-1, dtype=torch.int32) <= room))


def places(mask: Tensor) -> Tensor:
    """(..., c) int64: where mask (..., N) is true, ascending; it is so c times in every line."""
    flat = mask.flatten().nonzero().flatten() % mask.shape[-1]
    return flat.view(*mask.shape[:-1], -1) if flat.numel() else flat.new_zeros(*mask.shape[:-1], 0)


def replaced(lines: Tensor, mask: Tensor, group: int) -> Tensor:
    """lines (..., N) with the mid-point of what remains of its `group` in place of each masked number.

    So the range of a group is that of the numbers that remain. Where none remains, zero.
    """
    length = lines.shape[-1]
    count = -(-length // group)
    short = (0, count * group - length)
    low, high = (
        torch.nn.functional.pad(lines.masked_fill(mask, end), short, value=end).unflatten(-1, (count, group))
        for end in (torch.inf, -torch.inf)
    )
    middle = low.amin(-1) / 2 + high.amax(-1) / 2
    middle = torch.where(middle.isfinite(), middle, 0.0).repeat_interleave(group, -1)[..., :length]
    return torch.where(mask, middle, lines)


def index_type(count: int) -> torch.dtype:
    """The smallest integer type that numbers `count` things."""
    return torch.uint8 if count <= 1 << 8 else torch.int16 if count <= 1 << 15 else torch.int32


def add_product(out: Tensor, x: Tensor, source: Tensor, target: Tensor, value: Tensor) -> None:
    """out (R, m, N) += x (R, m, M) times R sparse matrices of E entries `value` at (source, target), each (R, E)."""
    step = max(1, _PRODUCTS // max(1, value.numel()))
    for start in range(0, x.shape[1], step):
        rows = slice(start, start + step)
        part = x[:, rows]
        part = part.gather(2, source.unsqueeze(1).expand(-1, part.shape[1], -1)) * value.unsqueeze(1)
        out[:, rows].scatter_add_(2, target.unsqueeze(1).expand_as(part), part)
