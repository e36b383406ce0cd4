"""Knorm (2406.11430): keys of small norm are the ones attended to.

paper     Devoto et al. 2024, A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression
idea      across heads a low L2 norm of a key goes with a high attention weight, so the norm alone ranks slots
formula   score = -|k|_2
cost      O(n D) a layer, once after the prompt; nothing observed
deviates  every layer is compressed (the authors leave the first two alone), once; rounded, so that equal tokens tie
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kvpress.block import Block
from kvpress.evidence import Evidence, Needs
from kvpress.policies.base import rounded


@dataclass(frozen=True)
class KeyNorm:
    """The smaller the key, the higher the score."""

    needs = Needs()
    comparable = False  # key norms of different heads are on different scales
    waits = ""

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        # RoPE keeps norms: in the first layer a repeated token has one norm, wherever it stands.
        return -rounded(block.k.float().norm(dim=-1))
