"""Frozen packed slots of one layer, as rectangles of equal length, and the attention that runs on them.

Heads and rows may keep different numbers of slots. Slots are therefore kept in *slabs*: all runs (one KV
head of one row) of the same length form one rectangle (R, n, D), so that ragged budgets cost no padding
and every operation stays a batched one. A segment never changes; forks share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from kvpress.attention import backends
from kvpress.attention.partial import Partial
from kvpress.storage.columns import BIAS, POSITION, Column, Columns
from kvpress.storage.pages import Selects
from kvpress.storage.pair import Pair, PairCodec, Slots
from kvpress.storage.slab import NONE, Slab, compact_positions, made


class Segment:
    """Immutable slots of `rows` batch rows and `heads` KV heads."""

    def __init__(self, rows: int, heads: int, slabs: Sequence[Slab]) -> None:
        self.rows, self.heads, self.slabs = rows, heads, tuple(slabs)
        self.width = max((slab.slots for slab in self.slabs), default=0)
        self.form = {slab.pair.form for slab in self.slabs}  # only alike segments can be joined
        # A slab may have no runs, where no row was taken that has its length; codecs need not know that.
        self._filled = [slab for slab in self.slabs if slab.pair.runs]
        self._whole = len(self.slabs) == 1 and self.slabs[0].pair.runs == rows * heads

    @staticmethod
    def encode(
        codec: PairCodec,
        k: Tensor,
        v: Tensor,
        pos: Tensor,
        order: Tensor,
        counts: Tensor,
        own: Mapping[str, Tensor] | None = None,
        columns: Columns = NONE,
        selector: Selects | None = None,
    ) -> Segment:
        """Pack the first `counts` (B, H) slots in `order` (B, H, n) of k, v (B, H, n, D) and pos (B, H, n).

        own: what the form of storage keeps for the layer. columns: (B, H, n) of the slots; the frozen ones are kept.
        """
        flat_k, flat_v, kept = k.flatten(0, 1), v.flatten(0, 1), dict(own or {})

        def make(runs: Tensor, index: Tensor, at: Tensor) -> Pair:
            return codec.encode(Slots(_rows(flat_k, runs, index), _rows(flat_v, runs, index), at, runs, kept))

        return Segment.build(pos, order, counts, make, columns, selector)

    @staticmethod
    def build(
        pos: Tensor,
        order: Tensor,
        counts: Tensor,
        make: Callable[[Tensor, Tensor, Tensor], Pair],
        columns: Columns = NONE,
        selector: Selects | None = None,
    ) -> Segment:
        """As `encode`, with make(runs (r,), index (r, n), pos (r, n)) -> those slots of those runs, packed."""
        flat_pos, flat_order, flat_counts = pos.flatten(0, 1), order.flatten(0, 1), counts.flatten()
        frozen = columns.without(POSITION).only(frozen=True).map(lambda values: values.flatten(0, 1))
        slabs = []
        for count in sorted(set(flat_counts.tolist()) - {0}):
            runs = (flat_counts == count).nonzero().flatten()
            index = flat_order[runs, :count]
            at = flat_pos[runs].gather(1, index)
            mine = frozen.map(partial(_of_runs, runs=runs, index=index))
            slabs.append(made(runs, make(runs, index, at), compact_positions(at), mine, selector))
        return Segment(counts.shape[0], counts.shape[1], slabs)

    def attend(self, q: Tensor, scale: float, cap: float | None = None, select: bool = False) -> Partial:
        """q (S, H, m, Dk) -> Partial (S, H, m, Dv) over all slots of each run; S must be `rows`. select: see Slab."""
        shape = q.shape[:3]
        q = q.flatten(0, 1)
        if self._whole:
            part = self.slabs[0].attend(q, scale, cap, select)
            return Partial(part.out.view(*shape, -1), part.lse.view(shape))
        parts = [slab.attend(q[slab.runs], scale, cap, select) for slab in self._filled]
        width = parts[0].out.shape[-1] if parts else 1  # of a value; where no row has a slot, zeros that broadcast
        out = torch.zeros(*q.shape[:2], width, dtype=torch.float32, device=q.device)
        lse = torch.full(q.shape[:2], -torch.inf, dtype=torch.float32, device=q.device)
        for slab, part in zip(self._filled, parts, strict=True):
            out[slab.runs], lse[slab.runs] = part
        return Partial(out.view(*shape, -1), lse.view(shape))

    @cached_property
    def parts(self) -> list[backends.Part] | None:
        """What a fused kernel reads; None where the slots are in no form that one could."""
        found = []
        for slab in self.slabs:
            layouts = slab.pair.layouts
            if layouts is None or BIAS in slab.columns or slab.pages is not None:
                return None
            found.append(backends.Part(*layouts, slab.slots, None if self._whole else slab.runs))
        return found

    def mass(self, q: Tensor, lse: Tensor, scale: float, cap: float | None = None) -> Tensor:
        """(S, H, width) fp32: attention each slot gets from q (S, H, m, D) whose final log-sum-exp is `lse`."""
        q, lse = q.flatten(0, 1), lse.flatten(0, 1)
        sums = []
        for slab in self.slabs:
            if slab.pair.runs:
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

    def bytes_read(self, q: Tensor | None) -> int:
        """Bytes of keys and values that a decoded token reads, whose queries are q (S, H, G, Dk); None = all."""
        return sum(slab.bytes_read(None if q is None else q.flatten(0, 1)[slab.runs]) for slab in self._filled)

    def column(self, column: Column) -> Tensor:
        """(S, H, width) of a frozen column."""
        return self.spread([slab.columns[column] for slab in self.slabs], column.fill)

    def decode(self) -> tuple[Tensor, Tensor]:
        """Keys and values (S, H, width, D), zero where a run is shorter."""
        if self._whole:
            shape = (self.rows, self.heads)
            k, v = self.slabs[0].decode()
            return k.unflatten(0, shape), v.unflatten(0, shape)
        decoded = [slab.decode() for slab in self.slabs]
        return self.spread([k for k, _ in decoded], 0.0), self.spread([v for _, v in decoded], 0.0)

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
            for count in sorted(set(counts.tolist()) - {0}):
                run = (counts == count).nonzero().flatten()
                slabs.append(slab.take(slab.runs[run], run, order[run, :count]))
        return Segment(self.rows, self.heads, _regroup(slabs)) if slabs else None

    def take_rows(self, rows: Tensor) -> Segment:
        """A segment whose row i holds the slots of row rows[i] (int64) of this one."""
        slabs = []
        for slab in self.slabs:
            at = torch.full((self.rows * self.heads,), -1, dtype=torch.long, device=slab.runs.device)
            at[slab.runs] = torch.arange(slab.runs.numel(), dtype=torch.int64, device=at.device)
            source = at.view(self.rows, self.heads)[rows.to(at.device)].flatten()
            runs = (source >= 0).nonzero().flatten()
            slabs.append(slab.take_runs(runs, source[runs]))
        return Segment(int(rows.numel()), self.heads, slabs)

    def join(self, other: Segment) -> Segment | None:
        """Both, one after the other, as one segment; None when their runs are grouped differently or do not join."""
        if len(self.slabs) != len(other.slabs):
            return None
        pairs = list(zip(self.slabs, other.slabs, strict=True))
        if not all(torch.equal(a.runs, b.runs) for a, b in pairs):
            return None
        slabs = []
        for a, b in pairs:
            if (joined := a.join(b)) is None:
                return None
            slabs.append(joined)
        return Segment(self.rows, self.heads, slabs)

    def tensors(self) -> Iterator[tuple[str, str, str, Tensor]]:
        """(name, 'k' | 'v' | '-', ledger kind, tensor) of everything held."""
        for number, slab in enumerate(self.slabs):
            for name, side, kind, tensor in slab.tensors():
                yield f"{number}.{name}", side, kind, tensor


def _of_runs(values: Tensor, runs: Tensor, index: Tensor) -> Tensor:
    """Values (R, N) of the slots `index` (r, n) of the runs `runs` (r,)."""
    return values[runs].gather(1, index)


def _rows(x: Tensor, runs: Tensor, index: Tensor) -> Tensor:
    """Slots `index` (r, n) of the runs `runs` (r,) of x (R, N, D)."""
    return x[runs].gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _regroup(slabs: list[Slab]) -> list[Slab]:
    return sorted(slabs, key=lambda slab: int(slab.runs[0]))
