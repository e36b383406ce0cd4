"""One budget for all heads of all layers: the best slots stay, wherever they are.

paper     the global threshold of KVzip (2505.23416); Ada-KV (2407.11550) does the same within a layer
idea      where scores of different layers are on one scale, no share has to be fixed beforehand
formula   n_l = slots of layer l among the best L H C of all heads and layers; heads of a layer then share n_l
cost      scores of all layers, twice, and one sort of them; all layers stay dense until the last one is scored
deviates  with even budgets of heads a layer's share is rounded to a multiple of H
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.evidence.evidence import Evidence, Needs
from kvpress.recipe.kinds import Decisions
from kvpress.recipe.press import preset
from kvpress.storage.block import Block


@dataclass(frozen=True)
class Pooled:
    """Layer budgets from the scores of all layers."""

    needs = Needs()
    compares = True
    waits = "pooled compares the scores of all layers once they have read the prompt"
    exact = True

    def measure(self, block: Block, seen: Evidence, scores: Callable[[], Tensor]) -> Tensor:
        return scores()

    def weights(self, measured: Sequence[Tensor], total: Tensor, fixed: Tensor, lengths: Tensor) -> Tensor:
        best = torch.cat([scores.flatten(1) for scores in measured], 1)
        layer = torch.cat(
            [
                torch.full((scores[0].numel(),), number, dtype=torch.int64, device=total.device)
                for number, scores in enumerate(measured)
            ]
        )
        order = best.argsort(dim=-1, descending=True, stable=True)
        heads = measured[0].shape[1]
        chosen = (
            torch.arange(order.shape[1], dtype=torch.int64, device=total.device)
            < (total * heads * len(measured))[:, None]
        )
        counts = torch.zeros(len(total), len(measured), dtype=torch.float64, device=total.device)
        counts.scatter_add_(1, layer[order], chosen.double())
        return counts.T / heads


@preset("pooled", unsettled="it is the threshold of KVzip by itself; kvzip@paper has it")
def pooled() -> Decisions:
    """Slots go to the layers whose scores need them, by one threshold for all. Compose with an eviction press."""
    return {"layers": Pooled()}
