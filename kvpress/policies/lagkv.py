"""LagKV (2504.04704): tokens that stand out against the tokens that follow them.

paper     Liang et al. 2025, LagKV: Lag-Relative Information of the KV Cache Tells Which Tokens Are Important
idea      partitions of `lag` tokens; each channel is scaled by its range in the next partition, and what spreads stays
formula   s(x) = softmax over the partition of std over channels of (x - min) / (max - min); score = (s(k) + s(v)) / 2
cost      O(n D) a layer, once after the prompt; nothing observed
deviates  fires once, not again on each `lag` decoded tokens; a channel without range in the next partition counts 0
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.errors import PressSyntaxError
from kvpress.evidence.evidence import Evidence, Needs
from kvpress.policies.partitions import Partitions
from kvpress.recipe.kinds import AfterPrefill, Decisions
from kvpress.recipe.press import preset, variant
from kvpress.storage.block import Block


@dataclass(frozen=True)
class LagRelative:
    """The place of a slot within its partition, in [0, 1): every partition gives the same share.

    lag: tokens of a partition; partitions are counted over the real tokens of a row after the first `sinks`.
    cross: the softmax itself instead of the place, so that partitions compete. The last full partition and
    what follows it have nothing to be compared with: they score above 1, later ones higher, and so does a prompt
    shorter than sinks + 2 * lag.
    """

    lag: int = 128
    sinks: int = 4
    cross: bool = False
    needs = Needs()
    attention = False
    waits = ""  # a partition is compared with what is left of the next one

    @property
    def comparable(self) -> bool:
        return self.cross  # places within a partition are the same numbers in every head

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        parts = Partitions(seen.rank, self.sinks, self.lag)
        length = (seen.rank.amax((1, 2)) + 1)[:, None, None]
        full = torch.div(length - self.sinks, self.lag, rounding_mode="floor")
        table = (self._weights(block.k, parts) + self._weights(block.v, parts)) / 2
        if not self.cross:
            place = table.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
            table = (self.lag - 1 - place).float() / self.lag
        late = 1 + seen.rank.float() / length
        scores = torch.where(parts.number < full - 1, parts.slots(table, 0.0), late)
        return torch.where(seen.rank < self.sinks, 1.0, scores)

    def _weights(self, x: Tensor, parts: Partitions) -> Tensor:
        """(B, H, partitions, lag) softmax over each partition of how widely a token's channels spread."""
        spread = torch.empty(x.shape[:3], dtype=torch.float32, device=x.device)
        for head in range(x.shape[1]):  # one KV head at a time bounds the temporaries
            mine, number = x[:, head].float(), parts.number[:, head]
            shape = (x.shape[0], parts.count + 2, x.shape[-1])
            into = number.unsqueeze(-1).expand_as(mine)
            low = mine.new_full(shape, torch.inf).scatter_reduce_(1, into, mine, "amin")
            high = mine.new_full(shape, -torch.inf).scatter_reduce_(1, into, mine, "amax")
            low, span = low.gather(1, into + 1), (high - low).gather(1, into + 1)
            spread[:, head] = torch.where(span > 0, (mine - low) / span, 0.0).std(-1)
        return parts.table(spread, -torch.inf).softmax(-1)


@preset(
    "lagkv",
    small="keep=0.4, sinks=2, lag=5",
    unsettled="the paper's tables go over several lags and shares; @authors has the defaults of their code",
)
def lagkv(keep: float | int = 0.25, sinks: int = 4, lag: int = 128, cross: bool = False) -> Decisions:
    """Tokens that stand out against the next partition of the prompt; its last partitions stay (2504.04704)."""
    if lag < 1:
        raise PressSyntaxError(f"lag={lag} must be a positive number of tokens.")
    return {
        "keep": keep,
        "scorer": LagRelative(lag, sinks, cross),
        "sinks": sinks,
        "recent": 0,
        "schedule": AfterPrefill(),
    }


variant(lagkv, "authors", "LagKV with the defaults of the authors' own cache: half, and 16 sinks.", keep=0.5, sinks=16)
