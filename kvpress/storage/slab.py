"""One rectangle of frozen slots: runs of equal length, each the slots of one KV head of one row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from kvpress.attention.partial import Partial
from kvpress.storage.columns import BIAS, POSITION, Columns
from kvpress.storage.pages import Pages, Selects
from kvpress.storage.pair import Pair, Scores

NONE = Columns()


@dataclass(frozen=True)
class Slab:
    """Runs of equal length.

    runs: (R,) int64, row * heads + head of each run. pair: keys and values of R runs of n slots. pos: (R, n) int32
    logical index of each slot, or (R, 1) where the slots of a run follow each other without a gap. columns: (R, n)
    each, the frozen ones but positions. pages: where a selector may read some of the slots, None = all are read.
    """

    runs: Tensor
    pair: Pair
    pos: Tensor
    columns: Columns = field(default_factory=Columns)
    pages: Pages | None = None

    @property
    def slots(self) -> int:
        return self.pair.slots

    def positions(self) -> Tensor:
        """(R, n) int32."""
        if self.pos.shape[1] == self.slots:
            return self.pos
        return self.pos + torch.arange(self.slots, device=self.pos.device, dtype=torch.int32)

    def decode(self) -> tuple[Tensor, Tensor]:
        """Keys (R, n, Dk) and values (R, n, Dv)."""
        return self.pair.decode(self.positions)

    def attend(self, q: Tensor, scale: float, cap: float | None, select: bool = False) -> Partial:
        """q (R, m, Dk) -> Partial (R, m, Dv). select: of the pages that the selector chooses, where there is one."""
        if select and self.pages is not None:
            pair, slots = self.pages.read(self.pair, q)
            if slots is not None:
                columns = self.columns.take(slots)
                at = partial(self.positions().gather, 1, slots)
                return pair.attend(q, Scores(scale, cap, columns.get(BIAS)), at)
        return self.pair.attend(q, self._scores(scale, cap), self.positions)

    def bytes_read(self, q: Tensor | None) -> int:
        """Bytes of keys and values that a decoded token reads, whose queries are q (R, G, Dk); None = all."""
        pair = self.pair if self.pages is None or q is None else self.pages.read(self.pair, q)[0]
        return sum(tensor.nbytes for *_, tensor in pair.tensors())

    def mass(self, q: Tensor, lse: Tensor, scale: float, cap: float | None) -> Tensor:
        """(R, n) fp32: attention each slot gets from q (R, m, Dk) whose final log-sum-exp is lse (R, m)."""
        return self.pair.mass(q, lse, self._scores(scale, cap), self.positions)

    def _scores(self, scale: float, cap: float | None) -> Scores:
        return Scores(scale, cap, self.columns.get(BIAS))

    def take(self, runs: Tensor, run: Tensor, index: Tensor) -> Slab:
        """Slots `index` (r, k) of the runs `run` (r,) of this slab, as the runs `runs` (r,) of a layer."""
        pos = compact_positions(self.positions()[run].gather(1, index))
        columns = self.columns.map(lambda values: values[run].gather(1, index))
        return made(runs, self.pair.take(run, index), pos, columns, None if self.pages is None else self.pages.selector)

    def take_runs(self, runs: Tensor, run: Tensor) -> Slab:
        """All slots of the runs `run` (r,) of this slab, as the runs `runs` (r,) of a layer."""
        index = torch.arange(self.slots, dtype=torch.int64, device=run.device).expand(run.numel(), -1)
        columns = self.columns.map(lambda values: values[run])
        pages = None if self.pages is None else self.pages.take_runs(run)
        return Slab(runs, self.pair.take(run, index), self.pos[run], columns, pages)

    def join(self, later: Slab) -> Slab | None:
        """These slots, and then those of a slab of the same runs; None where they have to stay apart."""
        pages = None
        if self.pages is not None and later.pages is not None:
            if self.slots % self.pages.selector.page:
                return None  # its last slots are in no page, and those of the other begin one
            pages = self.pages.join(later.pages)
        pair = self.pair.join(later.pair)
        if pair is None:
            return None
        pos = compact_positions(torch.cat([self.positions(), later.positions()], 1))
        return Slab(self.runs, pair, pos, self.columns.join(later.columns), pages)

    def tensors(self) -> Iterator[tuple[str, str, str, Tensor]]:
        """(name, 'k' | 'v' | '-', ledger kind, tensor) of everything held."""
        yield "runs", "-", "indices", self.runs
        yield POSITION.name, "-", POSITION.kind, self.pos
        yield from self.columns.tensors()
        if self.pages is not None:
            yield from self.pages.tensors()
        yield from self.pair.tensors()


def made(runs: Tensor, pair: Pair, pos: Tensor, columns: Columns, selector: Selects | None) -> Slab:
    """A slab whose pages, where there are any, are worked out now."""
    slab = Slab(runs, pair, pos, columns)
    return slab if selector is None else replace(slab, pages=Pages.of(selector, pair, slab.positions))


def compact_positions(pos: Tensor) -> Tensor:
    """(R, n) positions as (R, 1) starts where every run is without gaps, a copy otherwise."""
    steps = torch.arange(pos.shape[1], device=pos.device, dtype=pos.dtype)
    if torch.equal(pos, pos[:, :1] + steps):
        return pos[:, :1].clone()
    return pos.clone(memory_format=torch.contiguous_format)
