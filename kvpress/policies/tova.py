"""TOVA (2401.06104): drop what the current token attends to least.

paper     Oren et al. 2024, Transformers are Multi-State RNNs
idea      a cache of fixed size; whenever it is full, the token with the lowest attention from the last query goes
formula   score_j = mean over all query heads of softmax(q_last k_j), the same set for every KV head of a layer
cost      one row of attention a layer at each eviction, O(n)
deviates  after a prompt the surplus goes in one step, as in the authors' code; nothing is protected
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kvpress.evidence.evidence import Evidence, Needs
from kvpress.recipe.kinds import Decisions, schedule_of
from kvpress.recipe.press import preset, variant
from kvpress.storage.block import Block


@dataclass(frozen=True)
class LastQuery:
    """Attention of the last query, averaged over the heads of the layer."""

    needs = Needs(window=1)
    comparable = False  # one set for all heads
    attention = False  # of the layer, and heads that keep other slots have no column in common
    waits = ""

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        probs = seen.window(block, 1)  # (B, H, G, 1, n)
        return probs.mean((1, 2)).expand(-1, block.pos.shape[1], -1)


@preset("tova", small="keep=0.4")
def tova(keep: float | int = 0.25, recent: int = 0, schedule: str = "every_step") -> Decisions:
    """Drop the token the last query attends to least, at every step (2401.06104)."""
    return {"keep": keep, "scorer": LastQuery(), "sinks": 0, "recent": recent, "schedule": schedule_of(schedule)}


variant(tova, "paper", "TOVA as in the authors' code: a cache of 512, nothing protected, at every step.", keep=512)
variant(
    tova,
    "kvpress",
    "TOVA as in NVIDIA's kvpress: once after the prompt, whose last token stays.",
    keep=0.5,
    recent=1,
    schedule="after_prefill",
)
