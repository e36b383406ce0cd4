"""Frozen packed slots of one layer, as rectangles of equal length, and the attention that runs on them.

Heads and rows may keep different numbers of slots. Slots are therefore kept in *slabs*: all runs (one KV
head of one row) of the same length form one rectangle (R, n, D), so that ragged budgets cost no padding
and every operation stays a batched one. A segment never changes; forks share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.attention import backends as kernels
from kvpress.attention.partial import TILE_BYTES, Partial, attend, merge, soft_cap, softmax_partial
from kvpress.storage.codec import ChannelPacked, Codec, DensePacked, Packed, joinable

_TILE_NUMBERS = 1 << 18  # decoded numbers in flight
_TILE_SLOTS = 256


@dataclass(frozen=True)
class Slab:
    """Runs of equal length.

    runs: (R,) int64, row * heads + head of each run. key, value: R runs of n slots. pos: (R, n) int32
    logical index of each slot, or (R, 1) where the slots of a run follow each other without a gap.
    """

    runs: Tensor
    key: Packed
    value: Packed
    pos: Tensor

    @property
    def slots(self) -> int:
        return self.key.slots

    def positions(self) -> Tensor:
        """(R, n) int32."""
        if self.pos.shape[1] == self.slots:
            return self.pos
        return self.pos + torch.arange(self.slots, device=self.pos.device, dtype=torch.int32)

    def attend(self, q: Tensor, scale: float, cap: float | None) -> Partial:
        """q (R, m, Dk) -> Partial (R, m, Dv). Every slot precedes every query, so there is no mask."""
        fused = kernels.attend([kernels.Part(self.key, self.value, self.slots)], q, scale, cap)
        if fused is not None:
            return fused
        if isinstance(self.key, DensePacked) and isinstance(self.value, DensePacked):
            k, v = self.key.rows[None], self.value.rows[None]
            part = attend(q[None], k, v, scale, None, cap)
            return Partial(part.out[0], part.lse[0])
        if self._few(q):
            probs, lse = softmax_partial(soft_cap(self.key.logits(q) * scale, cap))
            return Partial(self.value.mix(probs), lse)
        # A tile of slots is decoded for all queries, so that neither (m, n) logits nor all slots exist.
        done: Partial | None = None
        for start in range(0, self.slots, step := max(_TILE_SLOTS, _TILE_NUMBERS // (q.shape[0] * q.shape[2]))):
            k, v = (_piece(packed, start, start + step).decode()[None] for packed in (self.key, self.value))
            part = attend(q[None], k, v, scale, None, cap)
            done = part if done is None else merge([done, part])
        assert done is not None
        return Partial(done.out[0], done.lse[0])

    def mass(self, q: Tensor, lse: Tensor, scale: float, cap: float | None) -> Tensor:
        """(R, n) fp32: attention each slot gets from q (R, m, D) whose final log-sum-exp is lse (R, m)."""
        if self._few(q):
            return torch.exp(soft_cap(self.key.logits(q) * scale, cap) - lse.unsqueeze(-1)).sum(1)
        sums, q = [], q.float() * scale
        for start in range(0, self.slots, step := max(1, TILE_BYTES // (4 * lse.numel()))):
            logits = soft_cap(q @ _piece(self.key, start, start + step).decode().float().mT, cap)
            sums.append(logits.sub_(lse.unsqueeze(-1)).exp_().sum(1))
        return torch.cat(sums, 1)

    def _few(self, q: Tensor) -> bool:
        """So few queries q (R, m, D) that products with the codes are cheaper than decoding, and their logits small."""
        return q.shape[1] <= kernels.MAX_ROWS and 4 * q.shape[0] * q.shape[1] * self.slots <= TILE_BYTES


def _piece(packed: Packed, start: int, stop: int) -> Packed:
    """Slots start ... stop - 1 of all runs."""
    device = next(iter(packed.tensors().values()))[1].device
    index = torch.arange(start, min(stop, packed.slots), dtype=torch.int64, device=device)
    return packed.take(torch.arange(packed.runs, dtype=torch.int64, device=device), index.expand(packed.runs, -1))


def compact_positions(pos: Tensor) -> Tensor:
    """(R, n) positions as (R, 1) starts where every run is without gaps, a copy otherwise."""
    steps = torch.arange(pos.shape[1], device=pos.device, dtype=pos.dtype)
    if torch.equal(pos, pos[:, :1] + steps):
        return pos[:, :1].clone()
    return pos.clone(memory_format=torch.contiguous_format)


class Segment:
    """Immutable slots of `rows` batch rows and `heads` KV heads."""

    def __init__(self, rows: int, heads: int, slabs: Sequence[Slab]) -> None:
        self.rows, self.heads, self.slabs = rows, heads, tuple(slabs)
        self.width = max((slab.slots for slab in self.slabs), default=0)
        self.form = {(type(slab.key), type(slab.value)) for slab in self.slabs}  # only alike segments can be joined
        # A slab may have no runs, where no row was taken that has its length; codecs need not know that.
        self._filled = [slab for slab in self.slabs if slab.key.runs]
        self._whole = len(self.slabs) == 1 and self.slabs[0].key.runs == rows * heads

    @staticmethod
    def encode(
        codecs: tuple[Codec, Codec],
        k: Tensor,
        v: Tensor,
        pos: Tensor,
        order: Tensor,
        counts: Tensor,
        channels: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> Segment:
        """Pack the first `counts` (B, H) slots in `order` (B, H, n) of k, v (B, H, n, D) and pos (B, H, n).

        channels: (B, H, kept) which channels of keys and of values are stored, None = all.
        """
        flat_k, flat_v = k.flatten(0, 1), v.flatten(0, 1)

        def make(runs: Tensor, index: Tensor) -> tuple[Packed, Packed]:
            key = _encode(codecs[0], flat_k, runs, index, channels[0])
            return key, _encode(codecs[1], flat_v, runs, index, channels[1])

        return Segment.build(pos, order, counts, make)

    @staticmethod
    def build(
        pos: Tensor, order: Tensor, counts: Tensor, make: Callable[[Tensor, Tensor], tuple[Packed, Packed]]
    ) -> Segment:
        """As `encode`, with make(runs (r,), index (r, n)) -> keys and values of those slots of those runs, packed."""
        flat_pos, flat_order, flat_counts = pos.flatten(0, 1), order.flatten(0, 1), counts.flatten()
        slabs = []
        for count in sorted(set(flat_counts.tolist()) - {0}):
            runs = (flat_counts == count).nonzero().flatten()
            index = flat_order[runs, :count]
            key, value = make(runs, index)
            slabs.append(Slab(runs, key, value, compact_positions(flat_pos[runs].gather(1, index))))
        return Segment(counts.shape[0], counts.shape[1], slabs)

    def attend(self, q: Tensor, scale: float, cap: float | None = None) -> Partial:
        """q (S, H, m, Dk) -> Partial (S, H, m, Dv) over all slots of each run; S must be `rows`."""
        shape = q.shape[:3]
        q = q.flatten(0, 1)
        if self._whole:
            part = self.slabs[0].attend(q, scale, cap)
            return Partial(part.out.view(*shape, -1), part.lse.view(shape))
        parts = [slab.attend(q[slab.runs], scale, cap) for slab in self._filled]
        width = parts[0].out.shape[-1] if parts else 1  # of a value; where no row has a slot, zeros that broadcast
        out = torch.zeros(*q.shape[:2], width, dtype=torch.float32, device=q.device)
        lse = torch.full(q.shape[:2], -torch.inf, dtype=torch.float32, device=q.device)
        for slab, part in zip(self._filled, parts, strict=True):
            out[slab.runs], lse[slab.runs] = part
        return Partial(out.view(*shape, -1), lse.view(shape))

    def parts(self) -> list[kernels.Part]:
        """What a fused kernel reads."""
        return [
            kernels.Part(slab.key, slab.value, slab.slots, None if self._whole else slab.runs) for slab in self.slabs
        ]

    def mass(self, q: Tensor, lse: Tensor, scale: float, cap: float | None = None) -> Tensor:
        """(S, H, width) fp32: attention each slot gets from q (S, H, m, D) whose final log-sum-exp is `lse`."""
        q, lse = q.flatten(0, 1), lse.flatten(0, 1)
        sums = []
        for slab in self.slabs:
            if slab.key.runs:
                sums.append(slab.mass(q[slab.runs], lse[slab.runs], scale, cap))
            else:
                sums.append(lse.new_zeros(0, slab.slots))
        return self.spread(sums, 0.0)

    def spread(self, values: Sequence[Tensor], fill: float) -> Tensor:
        """Per-slab (R, n, ...) values as one (S, H, width, ...) tensor, `fill` where a run is shorter."""
        first = values[0]
        out = first.new_full((self.rows * self.heads, self.width, *first.shape[2:]), fill)
        for slab, value in zip(self.slabs, values, strict=True):
            out[slab.runs, : slab.slots] = value
        return out.unflatten(0, (self.rows, self.heads))

    def positions(self) -> Tensor:
        """(S, H, width) int32, -1 where a run is shorter."""
        return self.spread([slab.positions() for slab in self.slabs], -1)

    def decode(self) -> tuple[Tensor, Tensor]:
        """Keys and values (S, H, width, D), zero where a run is shorter."""
        if self._whole:
            shape = (self.rows, self.heads)
            return self.slabs[0].key.decode().unflatten(0, shape), self.slabs[0].value.decode().unflatten(0, shape)
        keys = self.spread([slab.key.decode() for slab in self.slabs], 0.0)
        return keys, self.spread([slab.value.decode() for slab in self.slabs], 0.0)

    def counts(self) -> Tensor:
        """(S, H) int64 slots of each run."""
        out = torch.zeros(self.rows * self.heads, dtype=torch.long, device="cpu")
        for slab in self.slabs:
            out[slab.runs.cpu()] = slab.slots
        return out.view(self.rows, self.heads)

    def select(self, keep: Tensor) -> Segment | None:
        """The slots where `keep` (S, H, width) is true, in their stored form; None when none is left."""
        flat = keep.flatten(0, 1)
        slabs: list[Slab] = []
        for slab in self.slabs:
            mine = flat[slab.runs, : slab.slots]
            counts = mine.sum(1)
            order = (~mine).to(torch.int8).argsort(dim=1, stable=True)
            pos = slab.positions()
            for count in sorted(set(counts.tolist()) - {0}):
                run = (counts == count).nonzero().flatten()
                index = order[run, :count]
                kept = compact_positions(pos[run].gather(1, index))
                slabs.append(Slab(slab.runs[run], slab.key.take(run, index), slab.value.take(run, index), kept))
        return Segment(self.rows, self.heads, _regroup(slabs)) if slabs else None

    def take_rows(self, rows: Tensor) -> Segment:
        """A segment whose row i holds the slots of row rows[i] (int64) of this one."""
        slabs = []
        for slab in self.slabs:
            at = torch.full((self.rows * self.heads,), -1, dtype=torch.long, device=slab.runs.device)
            at[slab.runs] = torch.arange(slab.runs.numel(), dtype=torch.int64, device=at.device)
            source = at.view(self.rows, self.heads)[rows.to(at.device)].flatten()
            runs = (source >= 0).nonzero().flatten()
            run = source[runs]
            index = torch.arange(slab.slots, dtype=torch.int64, device=run.device).expand(run.numel(), -1)
            slabs.append(Slab(runs, slab.key.take(run, index), slab.value.take(run, index), slab.pos[run]))
        return Segment(int(rows.numel()), self.heads, slabs)

    def join(self, other: Segment) -> Segment | None:
        """Both, one after the other, as one segment; None when their runs are grouped differently or do not join."""
        if len(self.slabs) != len(other.slabs):
            return None
        pairs = list(zip(self.slabs, other.slabs, strict=True))
        if not all(torch.equal(a.runs, b.runs) for a, b in pairs):
            return None
        if not all(joinable(a.key, b.key) and joinable(a.value, b.value) for a, b in pairs):
            return None
        slabs = []
        for a, b in pairs:
            pos = compact_positions(torch.cat([a.positions(), b.positions()], 1))
            slabs.append(Slab(a.runs, a.key.cat([b.key]), a.value.cat([b.value]), pos))
        return Segment(self.rows, self.heads, slabs)

    def tensors(self) -> Iterator[tuple[str, str, str, Tensor]]:
        """(name, 'k' | 'v' | '-', ledger kind, tensor) of everything held."""
        for number, slab in enumerate(self.slabs):
            yield f"{number}.runs", "-", "indices", slab.runs
            yield f"{number}.pos", "-", "positions", slab.pos
            for side, packed in (("k", slab.key), ("v", slab.value)):
                for name, (kind, tensor) in packed.tensors().items():
                    yield f"{number}.{side}.{name}", side, kind, tensor


def _encode(codec: Codec, x: Tensor, runs: Tensor, index: Tensor, channels: Tensor | None) -> Packed:
    """Slots `index` (r, n) of the runs `runs` (r,) of x (R, N, D), in the channels that are kept."""
    rows = x[runs].gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
    if channels is None:
        return codec.encode(rows)
    mine = channels.flatten(0, 1)
    if len(runs) < len(mine):  # else the layer's own tensor is shared, not copied
        mine = mine[runs]
    kept = rows.gather(-1, mine.long().unsqueeze(1).expand(-1, rows.shape[1], -1))
    return ChannelPacked(codec.encode(kept), mine, x.shape[-1])


def _regroup(slabs: list[Slab]) -> list[Slab]:
    return sorted(slabs, key=lambda slab: int(slab.runs[0]))


@dataclass
class Held:
    """A segment as one cache holds it: which of its rows each batch row reads, and the mass slots got.

    rows: (B,) int64, or None when batch row i reads stored row i. mass: (B, H, width) fp32 or None.
    """

    segment: Segment
    rows: Tensor | None = None
    mass: Tensor | None = None

    def attend(self, q: Tensor, scale: float, cap: float | None) -> Partial:
        """q (B, H, m, Dk) -> Partial. Batch rows that read the same stored row are answered in one pass over it."""
        if self.rows is None:
            return self.segment.attend(q, scale, cap)
        _, heads, count, dim = q.shape  # dim: of a key; a value may be wider or narrower
        place, wide = self._places()
        gathered = q.new_zeros(self.segment.rows * wide, heads, count, dim).index_copy_(0, place, q)
        gathered = gathered.view(self.segment.rows, wide, heads, count, dim).transpose(1, 2)
        part = self.segment.attend(gathered.reshape(self.segment.rows, heads, wide * count, dim), scale, cap)
        out = part.out.view(self.segment.rows, heads, wide, count, -1).transpose(1, 2).flatten(0, 1)
        lse = part.lse.view(self.segment.rows, heads, wide, count).transpose(1, 2).flatten(0, 1)
        return Partial(out[place], lse[place])

    def _places(self) -> tuple[Tensor, int]:
        """Where each batch row goes in a (stored row, reader) table, and how many readers it is wide."""
        rows = self.rows
        assert rows is not None
        order = rows.argsort(stable=True)
        counts = torch.bincount(rows, minlength=self.segment.rows)
        first = counts.cumsum(0) - counts
        reader = torch.empty_like(rows)
        reader[order] = torch.arange(rows.numel(), dtype=torch.int64, device=rows.device) - first[rows[order]]
        wide = int(counts.max())
        return rows * wide + reader, wide

    def own(self) -> Held:
        """The same slots, with stored row i for batch row i (a copy where rows were shared)."""
        if self.rows is None:
            return self
        return Held(self.segment.take_rows(self.rows), None, self.mass)

    def reread(self, rows: Tensor) -> Held:
        """Batch row i becomes what batch row rows[i] was; nothing packed is copied."""
        now = rows if self.rows is None else self.rows[rows]
        each = torch.arange(now.numel(), dtype=torch.int64, device=now.device)
        same = now.numel() == self.segment.rows and bool((now == each).all())
        mass = None if self.mass is None else self.mass[rows]
        return Held(self.segment, None if same else now, mass)

    def per_row(self, values: Tensor) -> Tensor:
        """(S, ...) values of the stored rows as (B, ...)."""
        return values if self.rows is None else values[self.rows.to(values.device)]


def appended(held: Sequence[Held], new: Held) -> list[Held]:
    """The list with one more, joined with its predecessors of the same form while they are not much larger.

    As in a log-structured merge, the number of segments grows with the logarithm of the length. Joining
    makes new segments out of the same codes; a fork keeps reading the old ones.
    """
    out = list(held)
    while alike := [i for i, old in enumerate(out) if old.segment.form == new.segment.form]:
        last = out[alike[-1]]
        if last.rows is not None or last.segment.width > 2 * new.segment.width:
            break
        joined = last.segment.join(new.segment)
        if joined is None:
            break
        mass = new.mass
        if mass is not None and last.mass is not None:
            whole = joined.width == last.segment.width + new.segment.width and len(joined.slabs) == 1
            if not whole:
                break
            mass = torch.cat([last.mass, mass], -1)
        out.pop(alike[-1])
        new = Held(joined, None, mass)
    return [*out, new]
