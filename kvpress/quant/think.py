"""ThinK (2407.21018): drop the key channels that contribute least to the attention of recent queries.

paper     Xu et al. 2024, ThinK: Thinner Key Cache by Query-Driven Pruning
idea      the energy of q k^T sits in few channels, so each KV head keeps its strongest and the query is gathered
formula   score_c = mean of q_c^2 over the window and the group * mean of k_c^2 over the slots to be packed
cost      O(window D + n D) a layer once; attention reads D_k channels instead of D
deviates  one set a KV head (the authors repeat K to query heads); channels are dropped, not zeroed; value channels
          (no code by the authors): score_c = sum of w_t v_tc^2, w_t the window's attention on slot t
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.errors import PressSyntaxError
from kvpress.evidence.evidence import Evidence, Needs
from kvpress.recipe.press import Decisions, preset
from kvpress.storage.block import Block


@dataclass(frozen=True)
class Channels:
    """Which channels of a KV head are stored. keys, values: fraction kept; window: queries that decide.

    Chosen once, when the press first fires; what is packed later loses the same channels.
    """

    keys: float = 0.6
    values: float = 1.0
    window: int = 32
    waits = "think chooses channels by the last queries of the prompt"

    @property
    def needs(self) -> Needs:
        return Needs(window=self.window)

    @property
    def premise(self) -> FewChannels:
        return FewChannels(self)

    def energy(self, block: Block, seen: Evidence, packed: Tensor) -> Tensor:
        """(B, H, D) fp32 energy of the window's q k^T that each key channel carries over the slots `packed`."""
        assert seen.queries is not None and seen.query_pos is not None
        real = (seen.query_pos[:, -self.window :] >= 0).float()[:, None, :, None]
        asked = (seen.queries[:, :, -self.window :].float().square() * real).sum(2)
        return asked.unflatten(1, (block.k.shape[1], -1)).sum(2) * _energy(block.k, packed.float())

    @staticmethod
    def count(fraction: float, dim: int) -> int:
        """Channels kept of `dim`: dim - floor(dim * (1 - fraction)), at least one."""
        return max(1, dim - int(dim * (1 - fraction) + 1e-9))

    def drops(self, key: int, value: int) -> bool:
        """Whether a key of `key` channels, or a value of `value`, loses any."""
        return self.count(self.keys, key) < key or self.count(self.values, value) < value

    def choose(self, block: Block, seen: Evidence, packed: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Sorted channels (B, H, kept) uint8 or int16 of keys and of values, None where all are kept.

        packed: (B, H, n) bool, the slots that lose channels, whose energy counts.
        """
        key = value = None
        if self.count(self.keys, block.k.shape[-1]) < block.k.shape[-1]:
            key = self._best(self.energy(block, seen, packed), self.keys)
        if self.count(self.values, block.v.shape[-1]) < block.v.shape[-1]:
            weights = seen.window(block, self.window).sum((2, 3)) * packed
            value = self._best(_energy(block.v, weights), self.values)
        return key, value

    def _best(self, score: Tensor, fraction: float) -> Tensor:
        dim = score.shape[-1]
        order = score.argsort(dim=-1, descending=True, stable=True)
        kept = order[..., : self.count(fraction, dim)].sort(-1).values
        return kept.to(torch.uint8 if dim <= 256 else torch.int16)


def _energy(x: Tensor, weights: Tensor) -> Tensor:
    """(B, H, D) fp32 weighted sum of squares of x (B, H, n, D), slots with weight 0 left out whatever they hold."""
    squares = x.float().square().masked_fill((weights == 0).unsqueeze(-1), 0.0)
    return (weights.unsqueeze(2) @ squares).squeeze(2)


@dataclass(frozen=True)
class FewChannels:
    """The energy of recent attention logits sits in the channels that are kept. It is the keys' side only."""

    channels: Channels
    method = "think"
    says = "few key channels carry the attention logits"
    measures = "share of the logits' energy in the channels kept"
    bound = 0.95

    def sample(self, block: Block, seen: Evidence) -> Tensor:
        """(H,) share of the first row's heads."""
        energy = self.channels.energy(block, seen, block.valid)[0].sort(-1, descending=True).values.double()
        kept = energy[..., : Channels.count(self.channels.keys, energy.shape[-1])].sum(-1)
        return kept / energy.sum(-1).clamp(min=torch.finfo(torch.float64).tiny)

    def figure(self, samples: Sequence[Tensor]) -> float:
        return float(torch.cat(list(samples)).mean())


@preset("think")
def think(keep_channels: float = 0.6, keep_values: float = 1.0, window: int = 32, recent: int = 32) -> Decisions:
    """Key channels that recent queries hardly use are dropped (2407.21018)."""
    if not (0 < keep_channels <= 1 and 0 < keep_values <= 1 and window >= 1):
        raise PressSyntaxError(
            f"keep_channels={keep_channels} and keep_values={keep_values} are fractions in (0, 1], window={window} is "
            "at least 1."
        )
    return {"channels": Channels(keep_channels, keep_values, window), "residual": recent}
