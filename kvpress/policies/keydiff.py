"""KeyDiff (2504.15364): keys unlike the others are the ones attended to.

paper     Park et al. 2025, KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM Inference
idea      drop the keys closest in direction to the average direction; what stays is diverse
formula   score = -cos(k, a), a = mean of k / |k| over the slots of the head
cost      O(n D) a layer, once after the prompt; nothing observed
deviates  over the whole prompt at once, or block by block as the authors do (`prefill(chunk=, between=True)`)
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from kvpress.evidence.evidence import Evidence, Needs
from kvpress.recipe.kinds import AfterPrefill, Decisions
from kvpress.recipe.press import preset
from kvpress.storage.block import Block


@dataclass(frozen=True)
class KeyDifference:
    """How far a key points away from the mean direction of its head's keys, in [-1, 1]."""

    needs = Needs()
    comparable = True
    attention = False
    waits = ""  # the authors evict block by block

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        unit = F.normalize(block.k.float(), dim=-1)
        total = unit.masked_fill(~block.valid.unsqueeze(-1), 0.0).sum(2)
        anchor = F.normalize(total, dim=-1)  # the direction of the mean is the direction of the sum
        return -(unit @ anchor.unsqueeze(-1)).squeeze(-1)


@preset(
    "keydiff",
    small="keep=0.4",
    unsettled="the paper evicts block by block while it reads: session.prefill(ids, chunk=..., between=True)",
)
def keydiff(keep: float | int = 0.25, sinks: int = 0, recent: int = 0) -> Decisions:
    """Slots whose keys point away from the average key, after the prompt (2504.15364)."""
    return {"keep": keep, "scorer": KeyDifference(), "sinks": sinks, "recent": recent, "schedule": AfterPrefill()}
