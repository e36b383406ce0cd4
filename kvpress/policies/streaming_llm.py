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

from kvpress.evidence.evidence import Evidence, Needs
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
