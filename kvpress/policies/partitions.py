"""Consecutive tokens of a row in groups of equal size, for scorers that compare a slot with its surroundings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class Partitions:
    """Partition p of a row holds its real tokens first + p * size ... first + (p + 1) * size - 1.

    rank: (B, H, n) int32 as in Evidence. Padding, tokens before `first` and slots that do not exist belong to
    none, so a row is cut as if it were alone, whatever the order of its slots in memory.
    number: (B, H, n) int64 partition of each slot, `count` for those in none.
    """

    def __init__(self, rank: Tensor, first: int, size: int) -> None:
        at = rank.long() - first
        longest = max(1, int(at.amax()) + 1)
        self.size = min(size, longest)  # one partition holds what there is, and tables are no larger
        self.count = -(-longest // self.size)
        self._place = torch.where(at >= 0, at, self.count * self.size)
        self.number = self._place // self.size

    def table(self, values: Tensor, fill: float) -> Tensor:
        """Values (B, H, n) of the slots as (B, H, count, size), `fill` where a token has no slot."""
        flat = values.new_full((*values.shape[:2], self.count * self.size + 1), fill)
        return flat.scatter_(2, self._place, values)[..., :-1].unflatten(-1, (self.count, self.size))

    def slots(self, table: Tensor, fill: float) -> Tensor:
        """Undo `table`: (B, H, n), `fill` for slots in no partition."""
        return F.pad(table.flatten(2), (0, 1), value=fill).gather(2, self._place)
