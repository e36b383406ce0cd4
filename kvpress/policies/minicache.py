"""MiniCache (2405.14366): two neighbouring layers share the direction of every key and value.

paper     Liu et al. 2024, MiniCache: KV Cache Compression in Depth Dimension for Large Language Models
idea      from the middle of the network up, the vectors of a token in adjacent layers point nearly the same way
formula   e = SLERP(x_a / |x_a|, x_b / |x_b|; t), x_a ~ |x_a| e, x_b ~ |x_b| e; the slots of largest angle stay whole
cost      one SLERP a slot once; each layer reads e and one norm a slot for K and for V
deviates  no code was published, and the paper's inequality would keep the most similar tokens. Slots are kept whole per
          KV head (the larger angle of K and V decides); decoded tokens are merged in blocks, by the same share
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kvpress.errors import PressConflictError, PressSyntaxError
from kvpress.evidence.evidence import Evidence
from kvpress.evidence.premise import spread
from kvpress.recipe.kinds import Decisions
from kvpress.recipe.press import preset, variant
from kvpress.storage.block import Block
from kvpress.storage.pair import Around, Named, Pair, PairCodec, Slots

_SMALL = 1e-6


@dataclass(frozen=True)
class SlerpPairs:
    """Which layers share, and how. start: first layer that shares, as a fraction of the layers; t: weight of the
    upper layer; retained: share of slots that stay whole at most; rule: the `retained` largest angles ("ratio"), or
    of those only the ones within gamma of the largest, on the scale of all angles of the head ("range").
    """

    start: float = 0.5
    t: float = 0.6
    retained: float = 0.05
    rule: Literal["ratio", "range"] = "ratio"
    gamma: float = 0.05
    block: int = 32

    @property
    def premise(self) -> NeighboursAgree:
        return NeighboursAgree(self)

    def pairs(self, layers: int) -> list[tuple[int, int]]:
        """(lower, upper) of `layers` layers."""
        first = math.ceil(self.start * layers)
        return [(low, low + 1) for low in range(first, layers - 1, 2)]

    def check_layers(self, layers: int) -> None:
        """Raise PressConflictError where no two layers share."""
        if not self.pairs(layers):
            advice = "Start earlier (start=0), or leave" if layers > 1 else "Leave"
            raise PressConflictError(
                f"start={self.start} leaves no two neighbouring layers of the {layers} of this model that could share. "
                f"{advice} minicache out."
            )

    def keep_whole(self, angle: Tensor, there: Tensor) -> Tensor:
        """(B, H) int64 slots that stay whole: angle (B, H, n) in units of pi, of the slots `there` (B, H, n) bool."""
        count = (there.sum(-1).double() * self.retained).ceil().long()
        if self.rule == "ratio":
            return count
        high = angle.masked_fill(~there, -torch.inf).amax(-1, keepdim=True)
        low = angle.masked_fill(~there, torch.inf).amin(-1, keepdim=True)
        return torch.minimum(count, (there & (angle >= high - self.gamma * (high - low))).sum(-1))

    def merge(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit directions of a and b (R, n, D) in their dtype, and the norms (R, n) fp16 of each."""
        x, y = a.float(), b.float()
        size = torch.finfo(torch.float16).max
        norms = [v.norm(dim=-1).clamp(max=size).half() for v in (x, y)]
        x, y = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
        omega = _cosine(x, y).arccos().unsqueeze(-1)
        sine = omega.sin()
        straight = sine < _SMALL
        sine = sine.masked_fill(straight, 1.0)
        first = torch.where(straight, 1 - self.t, ((1 - self.t) * omega).sin() / sine)
        second = torch.where(straight, self.t, (self.t * omega).sin() / sine)
        return F.normalize(first * x + second * y, dim=-1).to(a.dtype), norms[0], norms[1]

    def around(self, codec: PairCodec) -> Directed:
        """What `codec` stores, as directions."""
        return Directed(codec)

    def scaled(self, inner: Pair, key: Tensor, value: Tensor) -> Pair:
        """Directions `inner`, with the norms (R, n) of the keys and of the values of one layer."""
        return DirectedPair(inner, key, value)

    def relinked(self, low: Pair, high: Pair) -> Pair:
        """The upper layer's pair with the directions of the lower one's, where both have them on one device."""
        if not (isinstance(low, DirectedPair) and isinstance(high, DirectedPair)):
            return high
        return DirectedPair(low.inner, high.key, high.value) if low.key.device == high.key.device else high

    def angle(self, a: Tensor, b: Tensor) -> Tensor:
        """(..., n) fp32 angle between a and b (..., n, D), in units of pi."""
        return _cosine(F.normalize(a.float(), dim=-1), F.normalize(b.float(), dim=-1)).arccos() / math.pi


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1).clamp(-1 + _SMALL, 1 - _SMALL)


@dataclass(frozen=True)
class Directed(Around):
    """Codec of pairs that are stored as directions and norms, and of those that stay whole."""

    def encode(self, slots: Slots) -> Pair:
        return self.inner.encode(slots)

    def load(self, tensors: Mapping[str, Tensor], k: Tensor, v: Tensor) -> Pair:
        within = {name: tensor for name, tensor in tensors.items() if not name.endswith(".norms")}
        inner = self.inner.load(within, k, v)
        return DirectedPair(inner, tensors["k.norms"], tensors["v.norms"]) if len(within) < len(tensors) else inner


class DirectedPair(Pair):
    """Keys and values as directions, which another layer may read too, and norms of their own. key, value: (R, n)."""

    def __init__(self, inner: Pair, key: Tensor, value: Tensor) -> None:
        self.inner, self.key, self.value = inner, key, value
        self.runs, self.slots = inner.runs, inner.slots
        self.form = type(self), inner.form

    def decode(self, positions: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        k, v = self.inner.decode(positions)
        return _times(k, self.key), _times(v, self.value)

    def logits(self, q: Tensor, positions: Callable[[], Tensor]) -> Tensor:
        return self.inner.logits(q, positions) * self.key.float().unsqueeze(1)

    def mix(self, weights: Tensor, positions: Callable[[], Tensor]) -> Tensor:
        return self.inner.mix(weights * self.value.float().unsqueeze(1), positions)

    def take(self, run: Tensor, index: Tensor) -> DirectedPair:
        at = run.unsqueeze(-1)
        return DirectedPair(self.inner.take(run, index), self.key[at, index], self.value[at, index])

    def join(self, later: Pair) -> DirectedPair | None:
        if not isinstance(later, DirectedPair) or (inner := self.inner.join(later.inner)) is None:
            return None
        return DirectedPair(inner, torch.cat([self.key, later.key], 1), torch.cat([self.value, later.value], 1))

    def tensors(self) -> Named:
        yield "k.norms", "k", "scales", self.key
        yield "v.norms", "v", "scales", self.value
        yield from self.inner.tensors()


def _times(rows: Tensor, norms: Tensor) -> Tensor:
    return (rows.float() * norms.float().unsqueeze(-1)).to(rows.dtype)


@dataclass(frozen=True)
class NeighboursAgree:
    """Keys and values of two layers that share a direction point nearly the same way.

    At a cosine c the merged direction is off by half the angle: a vector comes back with a relative error of
    2 sin(arccos(c) / 4), 0.32 at the bound, about what 2-bit codes do.
    """

    sharer: SlerpPairs
    method = "minicache"
    says = "neighbouring layers hold the same directions"
    measures = "mean cosine of the keys and values that layers share"
    bound = 0.8

    def sample(self, block: Block, seen: Evidence) -> Tensor:
        """(2, H, s, D) unit keys and values of the first row, the narrower ones padded with zeros."""
        at = spread(block)
        key, value = (F.normalize(x[0][:, at].float(), dim=-1) for x in (block.k, block.v))
        width = max(key.shape[-1], value.shape[-1])
        return torch.stack([F.pad(x, (0, width - x.shape[-1])) for x in (key, value)])

    def figure(self, samples: Sequence[Tensor]) -> float:
        pairs = self.sharer.pairs(len(samples))
        cosines = [float((samples[low] * samples[high]).sum(-1).mean()) for low, high in pairs]
        return sum(cosines) / len(cosines) if cosines else 1.0


@preset("minicache", small="start=0, block=6, retained=0.1")
def minicache(
    start: float = 0.5,
    t: float = 0.6,
    retained: float = 0.05,
    rule: str = "ratio",
    gamma: float = 0.05,
    block: int = 32,
) -> Decisions:
    """Neighbouring layers share the directions of keys and values (2405.14366)."""
    inside = 0 <= start < 1 and 0 <= t <= 1 and 0 <= retained < 1 and 0 <= gamma <= 1
    if rule not in ("ratio", "range") or not inside or block < 1:
        raise PressSyntaxError(
            f'start={start}, t={t}, retained={retained} and gamma={gamma} are fractions, rule={rule!r} is "ratio" or '
            f'"range" and block={block} a number of slots.'
        )
    return {"sharer": SlerpPairs(start, t, retained, rule, gamma, block)}  # type: ignore[arg-type]


variant(
    minicache,
    "paper",
    "MiniCache from half depth, t 0.6; whole are the slots within gamma 0.05 of the largest angle.",
    rule="range",
)
variant(minicache, "factory", "MiniCache as in KVCache-Factory: the 5 % of largest angle stay whole.", rule="ratio")
