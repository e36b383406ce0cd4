"""The dense working set that scorers, budgets and mergers see, and the choice of slots from it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from kvpress.storage.columns import Columns


@dataclass(frozen=True)
class Block:
    """All slots of one layer, dense.

    k, v: (B, H, n, D) in the model's dtype. pos: (B, H, n) int32 logical index of each slot, -1 for a
    slot that does not exist (padding, or a row that holds fewer slots than its neighbour). columns: what is known of
    the slots besides, (B, H, n) each.
    """

    k: Tensor
    v: Tensor
    pos: Tensor
    columns: Columns = field(default_factory=Columns)

    @property
    def valid(self) -> Tensor:
        """(B, H, n) bool: the slots that exist."""
        return self.pos >= 0


def slots_of(x: Tensor, index: Tensor) -> Tensor:
    """Slots `index` (B, H, m) of x (B, H, n, D): (B, H, m, D), whatever the width D of a slot."""
    return x.gather(2, index.unsqueeze(-1).expand(*index.shape, x.shape[-1]))


def choose(scores: Tensor, pos: Tensor, counts: Tensor, protected: Tensor) -> Tensor:
    """(B, H, n) bool: the `counts` best slots of every row and head.

    scores: (B, H, n), higher = keep. pos: (B, H, n), -1 = not there. counts: (B, H). protected:
    (B, H, n) bool, chosen before all others, and where they are more than `counts`, the newest of them. Other ties go
    to the slot with the lower position, so the choice does not depend on the order of slots in memory nor on the
    machine.
    """
    rank_key = scores.float().nan_to_num(nan=-torch.inf).masked_fill(protected, torch.inf)
    # Stable sorts, of which the last one decides: by position (of protected slots the newest first), by score, by kind.
    order = torch.where(protected, -pos, pos).argsort(dim=-1, stable=True)
    order = order.gather(-1, rank_key.gather(-1, order).argsort(dim=-1, descending=True, stable=True))
    # -inf is a legal score of an existing slot, and +inf of one that is not protected: neither changes its kind.
    kind = torch.where(pos < 0, 2, torch.where(protected, 0, 1)).to(torch.int8)
    picked = order.gather(-1, kind.gather(-1, order).argsort(dim=-1, stable=True))
    rank = torch.arange(scores.shape[-1], dtype=torch.int64, device=scores.device).expand_as(picked)
    keep = torch.zeros_like(protected).scatter_(-1, picked, rank < counts.unsqueeze(-1))
    return keep & (pos >= 0)
