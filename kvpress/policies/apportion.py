"""Whole numbers of slots in proportion to weights, with exact sums: what every layer and head budget ends with."""

from __future__ import annotations

import torch
from torch import Tensor


def apportion(weights: Tensor, total: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """Split total (R,) int64 among n shares in proportion to weights (R, n) >= 0; (R, n) int64.

    Every share lies within least and most (R, n) int64; what a bound cuts off or adds is spread over the other
    shares in the same proportion, and fractions go to the largest remainders (ties: the first share). Rows sum
    to `total` wherever the bounds allow it, else to the nearest sum they allow.
    """
    rows = [
        _row(w, int(t), low, high)
        for w, t, low, high in zip(
            weights.double().tolist(), total.tolist(), least.tolist(), most.tolist(), strict=True
        )
    ]
    return torch.tensor(rows, dtype=torch.long, device=weights.device)


def _row(weights: list[float], total: int, least: list[int], most: list[int]) -> list[int]:
    total = min(max(total, sum(least)), sum(most))
    if not sum(weights) > 0:
        weights = [1.0] * len(weights)
    real = _within(weights, float(total), least, most)
    whole = [min(max(int(x + 1e-9), low), high) for x, low, high in zip(real, least, most, strict=True)]
    left = total - sum(whole)
    order = sorted(range(len(whole)), key=lambda i: (whole[i] - real[i], i))
    while left > 0:
        for i in order:
            if left > 0 and whole[i] < most[i]:
                whole[i] += 1
                left -= 1
    return whole


def _within(weights: list[float], total: float, least: list[int], most: list[int]) -> list[float]:
    """Real shares in proportion to the weights, those at a bound set to it, the scale found by bisection."""

    def shares(scale: float) -> list[float]:
        return [min(max(w * scale, low), high) for w, low, high in zip(weights, least, most, strict=True)]

    low, high = 0.0, 1.0
    smallest = min((w for w in weights if w > 0), default=1.0)
    top = (total + 1.0) / smallest
    while sum(shares(high)) < total and high < top:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(shares(middle)) < total else (low, middle)
    return shares(high)
