"""StreamingLLM (2309.17453): attention sinks and a sliding window.

paper     Xiao et al. 2023, Efficient Streaming Language Models with Attention Sinks
idea      softmax needs somewhere to put its mass: keep the first tokens and the last ones, drop the middle
formula   score = token number (the pipeline forces the first `sinks`), one eviction a decoded token
cost      O(1) state, nothing observed
deviates  see the preset: `positions` says whether sinks are re-rotated to their cache slots, as in the paper
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kvpress.errors import PressSyntaxError
from kvpress.evidence.evidence import Evidence, Needs
from kvpress.recipe.kinds import Decisions, schedule_of
from kvpress.recipe.press import preset, variant
from kvpress.storage.block import Block


@dataclass(frozen=True)
class Recency:
    """The later a token, the higher its score."""

    needs = Needs()
    comparable = False
    attention = False
    waits = ""

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        return seen.rank.float()


@preset("streaming_llm", small='keep=0.4, sinks=2, positions="keep"')
def streaming_llm(
    keep: float | int = 0.25, sinks: int = 4, positions: str = "slots", schedule: str = "every_step"
) -> Decisions:
    """Attention sinks and a sliding window, at every step (2309.17453)."""
    if positions not in ("slots", "keep"):
        raise PressSyntaxError(f'positions={positions!r}: use "slots" (the paper) or "keep" (original rotations).')
    return {
        "keep": keep,
        "scorer": Recency(),
        "sinks": sinks,
        "recent": 0,
        "schedule": schedule_of(schedule),
        "positions": positions,
    }


variant(
    streaming_llm,
    "paper",
    "StreamingLLM with the paper's cache of 4 sinks and 1020 recent tokens, by slots.",
    keep=1024,
)
variant(
    streaming_llm,
    "kvpress",
    "Sinks and window as in NVIDIA's kvpress and KVCache-Factory: once after the prompt, rotations kept.",
    keep=0.5,
    positions="keep",
    schedule="after_prefill",
)
