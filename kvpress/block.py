"""The dense working set that scorers, budgets and mergers see, and the choice of slots from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """All slots of one layer, dense.

    k, v: (B, H, n, D) in the model's dtype. pos: (B, H, n) int32 logical index of each slot, -1 for a
    slot that does not exist (padding, or a row that holds fewer slots than its neighbour).
    """

    k: Tensor
    v: Tensor
    pos: Tensor

    @property
    def valid(self) -> Tensor:
        """(B, H, n) bool: the slots that exist."""
        return self.pos >= 0


def choose(scores: Tensor, pos: Tensor, counts: Tensor, protected: Tensor) -> Tensor:
    """(B, H, n) bool: the `counts` best slots of every row and head.

    scores: (B, H, n), higher = keep. pos: (B, H, n), -1 = not there. counts: (B, H). protected:
    (B, H, n) bool, chosen before all others. Ties go to the slot with the lower position, so the choice
    does not depend on the order of slots in memory nor on the machine.
    """
    rank_key = scores.float().nan_to_num(nan=-torch.inf)
    rank_key = torch.where(protected, torch.inf, rank_key)
    # Two stable sorts: by position, then by score, so that equal scores stay in order of position.
    missing = torch.iinfo(torch.int32).max
    by_pos = torch.where(pos >= 0, pos, missing).argsort(dim=-1, stable=True)
    ordered = rank_key.gather(-1, by_pos)
    existing = pos.gather(-1, by_pos) >= 0
    # -inf is a legal score of an existing slot; slots that are not there come after all of them.
    order = ordered.argsort(dim=-1, descending=True, stable=True)
    order = order.gather(-1, (~existing.gather(-1, order)).to(torch.int8).argsort(dim=-1, stable=True))
    picked = by_pos.gather(-1, order)
    rank = torch.arange(scores.shape[-1], dtype=torch.int64, device=scores.device).expand_as(picked)
    keep = torch.zeros_like(protected).scatter_(-1, picked, rank < counts.unsqueeze(-1))
    return keep & (pos >= 0)
