"""How the keys and values of a slab are stored together: what every such form can do, and the usual one.

`Split` stores keys by one codec and values by another. A form that stores both in one, or works one of them out from
something else, is a `Pair` of its own; nothing outside its file knows it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from kvpress.attention import backends
from kvpress.attention.layout import Layout
from kvpress.attention.partial import TILE_BYTES, Partial, attend, merge, soft_cap, softmax_partial
from kvpress.storage.codec import Codec, Dense, DensePacked, Laid, Packed, joinable

_TILE_NUMBERS = 1 << 18  # decoded numbers in flight
_TILE_SLOTS = 256

Named = Iterator[tuple[str, str, str, Tensor]]
"""(name, 'k' | 'v' | '-', ledger kind, tensor)"""


class Slots(NamedTuple):
    """R runs of n slots that are to be stored.

    k: (R, n, Dk), v: (R, n, Dv) in the model's dtype. pos: (R, n) int32. runs: (R,) int64, which runs of the layer
    they are (row * heads + head). own: what the form keeps for the layer as a whole, (B, H, ...) each by its name.
    """

    k: Tensor
    v: Tensor
    pos: Tensor
    runs: Tensor
    own: Mapping[str, Tensor]


@dataclass(frozen=True)
class Scores:
    """How queries and keys become logits: scale, soft cap, and a bias (R, n) fp32 of each slot, None = none."""

    scale: float
    cap: float | None = None
    bias: Tensor | None = None

    def __call__(self, products: Tensor) -> Tensor:
        """Logits (R, m, n) fp32 of q k^T (R, m, n)."""
        logits = soft_cap(products * self.scale, self.cap)
        return logits if self.bias is None else logits + self.bias.unsqueeze(1)

    def of(self, start: int, stop: int) -> Scores:
        """For the slots start ... stop - 1."""
        return self if self.bias is None else Scores(self.scale, self.cap, self.bias[:, start:stop])


class Pair(ABC):
    """R runs of n frozen slots, keys and values. It owns whole storages, never views, and never changes.

    positions() gives the logical index of every slot, (R, n) int32, to forms that need it. form: equal for pairs that
    may be joined.
    """

    runs: int
    slots: int
    form: Hashable

    @property
    def layouts(self) -> tuple[Layout, Layout] | None:
        """How keys and values lie in memory, for kernels that read them where they are; None = in no way they know."""
        return None

    @abstractmethod
    def decode(self, positions: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """Keys (R, n, Dk) and values (R, n, Dv) in the dtype of the model. This defines the error of the form."""

    def keys(self, positions: Callable[[], Tensor]) -> Tensor:
        """As `decode`, the keys alone."""
        return self.decode(positions)[0]

    @abstractmethod
    def logits(self, q: Tensor, positions: Callable[[], Tensor]) -> Tensor:
        """(R, m, n) fp32: q (R, m, Dk) times the decoded keys."""

    @abstractmethod
    def mix(self, weights: Tensor, positions: Callable[[], Tensor]) -> Tensor:
        """(R, m, Dv) fp32: weights (R, m, n) fp32 times the decoded values."""

    @abstractmethod
    def take(self, run: Tensor, index: Tensor) -> Pair:
        """Slots `index` (r, k) of the runs `run` (r,), exactly as they are stored, nothing re-encoded."""

    @abstractmethod
    def join(self, later: Pair) -> Pair | None:
        """These slots and then those of a pair of the same form and runs; None where they have to stay apart."""

    @abstractmethod
    def tensors(self) -> Named:
        """Everything it owns."""

    def attend(self, q: Tensor, scores: Scores, positions: Callable[[], Tensor]) -> Partial:
        """q (R, m, Dk) -> Partial (R, m, Dv). Every slot precedes every query, so there is no mask."""
        if self._few(q):
            probs, lse = softmax_partial(scores(self.logits(q, positions)))
            return Partial(self.mix(probs, positions), lse)
        # A tile of slots is decoded for all queries, so that neither (m, n) logits nor all slots exist.
        done: Partial | None = None
        for start, stop, piece in self._tiles(max(_TILE_SLOTS, _TILE_NUMBERS // (q.shape[0] * q.shape[2]))):
            k, v = piece.decode(partial(_span, positions, start, stop))
            if scores.bias is None:
                part = attend(q[None], k[None], v[None], scores.scale, None, scores.cap)
                part = Partial(part.out[0], part.lse[0])
            else:
                probs, lse = softmax_partial(scores.of(start, stop)(q.float() @ k.float().mT))
                part = Partial(probs @ v.float(), lse)
            done = part if done is None else merge([done, part])
        assert done is not None
        return done

    def mass(self, q: Tensor, lse: Tensor, scores: Scores, positions: Callable[[], Tensor]) -> Tensor:
        """(R, n) fp32: attention each slot gets from q (R, m, Dk) whose final log-sum-exp is lse (R, m)."""
        if self._few(q):
            return torch.exp(scores(self.logits(q, positions)) - lse.unsqueeze(-1)).sum(1)
        sums, scaled, left = [], q.float() * scores.scale, Scores(1.0, scores.cap, scores.bias)
        for start, stop, piece in self._tiles(max(1, TILE_BYTES // (4 * lse.numel()))):
            keys = piece.keys(partial(_span, positions, start, stop))
            logits = left.of(start, stop)(scaled @ keys.float().mT)
            sums.append(logits.sub_(lse.unsqueeze(-1)).exp_().sum(1))
        return torch.cat(sums, 1)

    def _few(self, q: Tensor) -> bool:
        """So few queries q (R, m, D) that products with the codes are cheaper than decoding, and their logits small."""
        return q.shape[1] <= backends.MAX_ROWS and 4 * q.shape[0] * q.shape[1] * self.slots <= TILE_BYTES

    def _tiles(self, size: int) -> Iterator[tuple[int, int, Pair]]:
        """(start, stop, the slots start ... stop - 1 of all runs)."""
        device = next(self.tensors())[3].device
        runs = torch.arange(self.runs, dtype=torch.int64, device=device)
        for start in range(0, self.slots, size):
            stop = min(start + size, self.slots)
            index = torch.arange(start, stop, dtype=torch.int64, device=device).expand(self.runs, -1)
            yield start, stop, self.take(runs, index)


def _span(positions: Callable[[], Tensor], start: int, stop: int) -> Tensor:
    return positions()[:, start:stop]


class PairCodec(Protocol):
    """A form of storage. name: how errors call it. block: slots are packed in multiples of this; 0 = the form is
    exact, and nothing is packed until slots are evicted.
    """

    @property
    def name(self) -> str: ...

    @property
    def block(self) -> int: ...

    def check(self, key: int, value: int) -> None:
        """Raise PressConflictError where keys of `key` channels or values of `value` cannot be stored."""
        ...

    def encode(self, slots: Slots) -> Pair:
        """Store slots."""
        ...

    def load(self, tensors: Mapping[str, Tensor], k: Tensor, v: Tensor) -> Pair:
        """From `Pair.tensors()` of a saved cache, by name. k, v (..., D): of the model, which tell dtype and D."""
        ...


@dataclass(frozen=True)
class Around:
    """A codec of pairs around another one, which says what this does not."""

    inner: PairCodec

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def block(self) -> int:
        return self.inner.block

    def check(self, key: int, value: int) -> None:
        self.inner.check(key, value)


@dataclass(frozen=True)
class Split:
    """Keys by one codec, values by another."""

    key: Codec = Dense()
    value: Codec = Dense()

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def block(self) -> int:
        return max(self.key.block, self.value.block)

    def check(self, key: int, value: int) -> None:
        self.key.check(key)
        self.value.check(value)

    def encode(self, slots: Slots) -> SplitPair:
        return SplitPair(self.key.encode(slots.k), self.value.encode(slots.v))

    def load(self, tensors: Mapping[str, Tensor], k: Tensor, v: Tensor) -> SplitPair:
        found = []
        for side, codec, like in (("k.", self.key, k), ("v.", self.value, v)):
            mine = {name.removeprefix(side): tensor for name, tensor in tensors.items() if name.startswith(side)}
            kind: Codec = Dense() if set(mine) == {"rows"} else codec  # slots that stay exact, whatever the codec
            found.append(kind.load(mine, like.dtype, like.shape[-1]))
        return SplitPair(*found)


class SplitPair(Pair):
    """Keys and values each in a format of its own."""

    def __init__(self, key: Packed, value: Packed) -> None:
        self.key, self.value = key, value
        self.runs, self.slots = key.runs, key.slots
        self.form = type(key), type(value)

    @cached_property
    def layouts(self) -> tuple[Layout, Layout] | None:
        key, value = (packed.layout() if isinstance(packed, Laid) else None for packed in (self.key, self.value))
        return None if key is None or value is None else (key, value)

    def decode(self, positions: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        return self.key.decode(), self.value.decode()

    def keys(self, positions: Callable[[], Tensor]) -> Tensor:
        return self.key.decode()

    def logits(self, q: Tensor, positions: Callable[[], Tensor]) -> Tensor:
        return self.key.logits(q)

    def mix(self, weights: Tensor, positions: Callable[[], Tensor]) -> Tensor:
        return self.value.mix(weights)

    def attend(self, q: Tensor, scores: Scores, positions: Callable[[], Tensor]) -> Partial:
        if scores.bias is None:
            if self.layouts is not None:
                fused = backends.attend([backends.Part(*self.layouts, self.slots)], q, scores.scale, scores.cap)
                if fused is not None:
                    return fused
            if isinstance(self.key, DensePacked) and isinstance(self.value, DensePacked):
                found = attend(q[None], self.key.rows[None], self.value.rows[None], scores.scale, None, scores.cap)
                return Partial(found.out[0], found.lse[0])
        return super().attend(q, scores, positions)

    def take(self, run: Tensor, index: Tensor) -> SplitPair:
        return SplitPair(self.key.take(run, index), self.value.take(run, index))

    def join(self, later: Pair) -> SplitPair | None:
        if not isinstance(later, SplitPair) or not joinable(self.key, later.key):
            return None
        if not joinable(self.value, later.value):
            return None
        return SplitPair(self.key.cat([later.key]), self.value.cat([later.value]))

    def tensors(self) -> Named:
        for side, packed in (("k", self.key), ("v", self.value)):
            for name, (kind, tensor) in packed.tensors().items():
                yield f"{side}.{name}", side, kind, tensor
