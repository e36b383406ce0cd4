"""ThinK (2407.21018): drop the key channels that contribute least to the attention of recent queries.

paper     Xu et al. 2024, ThinK: Thinner Key Cache by Query-Driven Pruning
idea      the energy of q k^T sits in few channels, so each KV head keeps its strongest and the query is gathered
formula   score_c = mean of q_c^2 over the window and the group * mean of k_c^2 over the slots to be packed
cost      O(window D + n D) a layer once; attention reads D_k channels instead of D
deviates  one set a KV head (the authors repeat K to query heads); channels are dropped, not zeroed; value channels
          (no code by the authors): score_c = sum of w_t v_tc^2, w_t the window's attention on slot t
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.errors import PressSyntaxError
from kvpress.evidence.evidence import Evidence, Needs
from kvpress.recipe.kinds import Decisions
from kvpress.recipe.press import preset, variant
from kvpress.storage.block import Block
from kvpress.storage.pair import Around, Named, Pair, PairCodec, Slots

_KEYS, _VALUES = "key_channels", "value_channels"  # what a layer keeps


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

    def widths(self, key: int, value: int) -> tuple[int, int]:
        """Channels that are left of keys of `key` channels and of values of `value`."""
        return self.count(self.keys, key), self.count(self.values, value)

    def around(self, codec: PairCodec) -> FewerChannels:
        """Slots stored by `codec`, in the channels that are kept."""
        return FewerChannels(codec, self)

    def choose(self, block: Block, seen: Evidence, packed: Tensor) -> dict[str, Tensor]:
        """Sorted channels (B, H, kept) uint8 or int16 of keys and of values, nothing where all are kept.

        packed: (B, H, n) bool, the slots that lose channels, whose energy counts.
        """
        chosen = {}
        if self.count(self.keys, block.k.shape[-1]) < block.k.shape[-1]:
            chosen[_KEYS] = self._best(self.energy(block, seen, packed), self.keys)
        if self.count(self.values, block.v.shape[-1]) < block.v.shape[-1]:
            weights = seen.window(block, self.window).sum((2, 3)) * packed
            chosen[_VALUES] = self._best(_energy(block.v, weights), self.values)
        return chosen

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
class FewerChannels(Around):
    """Codec of pairs that lost some channels, in any other form."""

    channels: Channels

    def check(self, key: int, value: int) -> None:
        self.inner.check(*self.channels.widths(key, value))

    def encode(self, slots: Slots) -> Pair:
        kept = [slots.own.get(name) for name in (_KEYS, _VALUES)]
        widths, wanted, sides = (slots.k.shape[-1], slots.v.shape[-1]), [], []
        for x, chosen in zip((slots.k, slots.v), kept, strict=True):
            mine = None if chosen is None else chosen.flatten(0, 1)
            if mine is not None and len(slots.runs) < len(mine):  # else the layer's own tensor is shared, not copied
                mine = mine[slots.runs]
            wanted.append(mine)
            sides.append(x if mine is None else _narrowed(x, mine))
        inner = self.inner.encode(slots._replace(k=sides[0], v=sides[1]))
        if wanted == [None, None]:
            return inner
        return FewerChannelsPair(inner, wanted[0], wanted[1], widths)

    def load(self, tensors: Mapping[str, Tensor], k: Tensor, v: Tensor) -> Pair:
        within, (key, value) = dict(tensors), (tensors.get(name) for name in ("k.channels", "v.channels"))
        if key is None and value is None:  # the layer had not chosen yet
            return self.inner.load(within, k, v)
        kept = [x if mine is None else x[..., : mine.shape[-1]] for x, mine in ((k, key), (v, value))]
        within = {name: tensor for name, tensor in within.items() if not name.endswith(".channels")}
        return FewerChannelsPair(self.inner.load(within, *kept), key, value, (k.shape[-1], v.shape[-1]))


class FewerChannelsPair(Pair):
    """Keys and values that lost some channels: attention gathers the query instead of padding the rows.

    key, value: (R, kept) uint8 or int16, which of the `widths` channels are left, None = all.
    """

    def __init__(self, inner: Pair, key: Tensor | None, value: Tensor | None, widths: tuple[int, int]) -> None:
        self.inner, self.key, self.value, self.widths = inner, key, value, widths
        self.runs, self.slots = inner.runs, inner.slots
        self.form = type(self), inner.form

    def decode(self, positions: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """Zero in the channels that were dropped."""
        k, v = self.inner.decode(positions)
        return _widened(k, self.key, self.widths[0]), _widened(v, self.value, self.widths[1])

    def logits(self, q: Tensor, positions: Callable[[], Tensor]) -> Tensor:
        return self.inner.logits(q if self.key is None else _narrowed(q, self.key), positions)

    def mix(self, weights: Tensor, positions: Callable[[], Tensor]) -> Tensor:
        return _widened(self.inner.mix(weights, positions), self.value, self.widths[1])

    def take(self, run: Tensor, index: Tensor) -> FewerChannelsPair:
        key, value = (None if mine is None else mine[run] for mine in (self.key, self.value))
        return FewerChannelsPair(self.inner.take(run, index), key, value, self.widths)

    def join(self, later: Pair) -> FewerChannelsPair | None:
        if not isinstance(later, FewerChannelsPair) or (inner := self.inner.join(later.inner)) is None:
            return None
        return FewerChannelsPair(inner, self.key, self.value, self.widths)

    def tensors(self) -> Named:
        for side, mine in (("k", self.key), ("v", self.value)):
            if mine is not None:
                yield f"{side}.channels", side, "indices", mine
        yield from self.inner.tensors()


def _narrowed(x: Tensor, channels: Tensor) -> Tensor:
    """x (R, m, D) in the channels (R, kept)."""
    return x.gather(-1, channels.long().unsqueeze(1).expand(-1, x.shape[1], -1))


def _widened(x: Tensor, channels: Tensor | None, width: int) -> Tensor:
    """x (R, m, kept) in all `width` channels, 0 in the others."""
    if channels is None:
        return x
    return x.new_zeros(*x.shape[:2], width).scatter_(-1, channels.long().unsqueeze(1).expand(-1, x.shape[1], -1), x)


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


@preset("think", small="keep_channels=0.6, window=6, recent=7")
def think(keep_channels: float = 0.6, keep_values: float = 1.0, window: int = 32, recent: int = 32) -> Decisions:
    """Key channels that recent queries hardly use are dropped (2407.21018)."""
    if not (0 < keep_channels <= 1 and 0 < keep_values <= 1 and window >= 1):
        raise PressSyntaxError(
            f"keep_channels={keep_channels} and keep_values={keep_values} are fractions in (0, 1], window={window} is "
            "at least 1."
        )
    return {"channels": Channels(keep_channels, keep_values, window), "residual": recent}


variant(think, "paper", "ThinK as in the paper: 40 % of the key channels dropped, the last 32 tokens whole.")
variant(
    think, "kvpress", "ThinK as in NVIDIA's kvpress: the last tokens lose channels too.", keep_channels=0.5, recent=0
)
