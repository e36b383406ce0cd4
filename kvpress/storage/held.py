"""Segments as one cache holds them: which rows read which, and the columns that this cache keeps for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kvpress.attention.partial import Partial
from kvpress.storage.columns import Column, Columns
from kvpress.storage.segment import Segment


@dataclass
class Held:
    """A segment as one cache holds it.

    rows: (B,) int64, which stored row each batch row reads, or None when batch row i reads stored row i. columns:
    (B, H, width) each, those that are not frozen.
    """

    segment: Segment
    rows: Tensor | None = None
    columns: Columns = field(default_factory=Columns)

    def attend(self, q: Tensor, scale: float, cap: float | None, select: bool = False) -> Partial:
        """q (B, H, m, Dk) -> Partial. Batch rows that read the same stored row are answered in one pass over it."""
        if self.rows is None:
            return self.segment.attend(q, scale, cap, select)
        if select and any(slab.pages is not None for slab in self.segment.slabs):
            return self.own().segment.attend(q, scale, cap, select)  # every row reads pages of its own
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
        return Held(self.segment.take_rows(self.rows), None, self.columns)

    def reread(self, rows: Tensor) -> Held:
        """Batch row i becomes what batch row rows[i] was; nothing packed is copied."""
        now = rows if self.rows is None else self.rows[rows]
        each = torch.arange(now.numel(), dtype=torch.int64, device=now.device)
        same = now.numel() == self.segment.rows and bool((now == each).all())
        return Held(self.segment, None if same else now, self.columns.map(lambda values: values[rows]))

    def column(self, column: Column) -> Tensor:
        """(B, H, width) of a column, whoever keeps it."""
        return self.per_row(self.segment.column(column)) if column.frozen else self.columns[column]

    def select(self, keep: Tensor) -> Held | None:
        """The slots where `keep` (B, H, width) is true, of a segment whose rows are not shared; None = none is left."""
        segment = self.segment.select(keep)
        if segment is None:
            return None
        if not self.columns:
            return Held(segment)
        first = (~keep).to(torch.int8).argsort(dim=-1, stable=True)[..., : segment.width]
        return Held(segment, None, self.columns.take(first))

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
        columns = new.columns
        if columns:
            whole = joined.width == last.segment.width + new.segment.width and len(joined.slabs) == 1
            if not whole:
                break
            columns = last.columns.join(columns)
        out.pop(alike[-1])
        new = Held(joined, None, columns)
    return [*out, new]
