"""H2O (2306.14048): heavy hitters, the tokens that received the most attention so far.

paper     Zhang et al. 2023, H2O: Heavy-Hitter Oracle for Efficient Generative Inference of LLMs
idea      keep the heaviest tokens and the most recent ones; evict greedily, one a decoded token
formula   score_j = sum over queries i >= j of softmax(q_i k)_j, prompt and decoded queries alike
cost      prefill about one more QK^T in tiles, O(n) memory; decode one more row of logits a step
deviates  causal sums (the authors' lm-eval masks look ahead); summed over the query heads of a KV head (GQA);
          average=true divides by the number of queries that could see the slot: NVIDIA's ObservedAttention, and no H2O
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kvpress.evidence.evidence import Evidence, Needs
from kvpress.recipe.kinds import Decisions, schedule_of
from kvpress.recipe.press import preset, variant
from kvpress.storage.block import Block


@dataclass(frozen=True)
class HeavyHitters:
    """Accumulated attention mass of each slot. average: over the queries and query heads it could have come from."""

    average: bool = False
    needs = Needs(mass=True)
    comparable = True
    attention = True
    waits = ""  # what a slot received before it was evicted is forgotten with it

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        if not self.average:
            return seen.mass()
        length = seen.rank.amax((1, 2)) + 1
        return seen.mass() / (length[:, None, None] - seen.rank).clamp(min=1) / seen.rule.group


@preset("h2o", small="keep=0.4")
def h2o(
    keep: float | int = 0.25,
    recent: float | int = 0.5,
    sinks: int = 0,
    schedule: str = "every_step",
    average: bool = False,
) -> Decisions:
    """Heavy hitters by accumulated attention, and the recent half of the budget, at every step (2306.14048)."""
    scorer, chosen = HeavyHitters(average), schedule_of(schedule)
    return {"keep": keep, "scorer": scorer, "sinks": sinks, "recent": recent, "schedule": chosen}


variant(h2o, "paper", "H2O with the paper's 20 %: a tenth heavy hitters, a tenth recent, at every step.", keep=0.2)
variant(
    h2o,
    "authors",
    "H2O as the authors' summarization runs evict: 1024 heavy hitters and 1024 recent (lm-eval code looks ahead).",
    keep=2048,
)
variant(
    h2o,
    "kvpress",
    "ObservedAttention of NVIDIA's kvpress: the average over the queries that see a slot, once after the prompt.",
    keep=0.5,
    recent=0,
    schedule="after_prefill",
    average=True,
)
variant(
    h2o,
    "factory",
    "H2O as in KVCache-Factory's tables: once after the prompt, a window of 8, no eviction while decoding.",
    keep=128,
    recent=8,
    schedule="after_prefill",
)
