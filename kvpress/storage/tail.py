"""The dense recent slots of one layer: the only part that grows, and the only causal one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from kvpress.attention import backends as kernels
from kvpress.attention.partial import TILE_BYTES, Partial, attend, fold_queries, merge
from kvpress.storage.block import slots_of
from kvpress.storage.columns import BIAS, POSITION, Column, Columns

_GROW = 64


def capacity(slots: int) -> int:
    """Slots there is room for in a tail that grew to hold `slots`."""
    return slots + max(_GROW, slots // 32)


class Tail:
    """Dense slots in a buffer that grows by blocks, so that a decode step writes one slot and copies none.

    k, v: (B, H, capacity, D), the first `count` slots are used. columns: (B, H, capacity) each. In the common case slot
    i holds logical index start + i for every head, and `valid` (B, capacity) marks padding (None = none). Once heads
    hold different slots, a column of positions says which (-1 = no slot) and replaces both.
    free: (B, H) int64, the slot of every head that was evicted last and is written over next.
    """

    def __init__(self, k: Tensor, v: Tensor, start: int, columns: Iterable[Column] = ()) -> None:
        batch, heads = k.shape[:2]
        self.k, self.v = k[:, :, :0].clone(), v[:, :, :0].clone()
        self.start, self.count = start, 0
        self.columns = Columns({column: column.empty(batch, heads, k.device) for column in columns})
        self.valid: Tensor | None = None
        self.free: Tensor | None = None

    @property
    def pos(self) -> Tensor | None:
        """(B, H, capacity) int32, None while positions are a range."""
        return self.columns.get(POSITION)

    @property
    def keys(self) -> Tensor:
        return self.k[:, :, : self.count]

    @property
    def values(self) -> Tensor:
        return self.v[:, :, : self.count]

    def used(self) -> Columns:
        """Of the slots in use, (B, H, count) each; positions only where they are no range."""
        return self.columns.map(lambda values: values[:, :, : self.count])

    def positions(self) -> Tensor:
        """(B, H, count) int32, -1 = no slot."""
        if self.pos is not None:
            return self.pos[:, :, : self.count]
        pos = torch.arange(self.start, self.start + self.count, device=self.k.device, dtype=torch.int32)
        pos = pos.expand(*self.k.shape[:2], -1)
        if self.valid is None:
            return pos
        return torch.where(self.valid[:, None, : self.count], pos, -1)

    def append(self, k: Tensor, v: Tensor, logical: int, valid: Tensor | None) -> None:
        """Add k, v (B, H, n, D) with logical indices from `logical`; valid: (B, n) bool, None = all."""
        added = k.shape[2]
        self._hold(k.dtype, v.dtype)
        if self.free is not None and added == 1:
            self._overwrite(k, v, logical, valid)
            return
        self.free = None
        if self.count == 0:
            self.start = logical
        elif self.pos is None and self.start + self.count != logical:
            self.explicit()  # slots without a gap among them, but not up to the new tokens
        stop = self.count + added
        if stop > self.k.shape[2]:
            self._grow(stop)
        self.k[:, :, self.count : stop] = k
        self.v[:, :, self.count : stop] = v
        if self.pos is not None:
            fresh = torch.arange(logical, logical + added, device=k.device, dtype=torch.int32).expand(k.shape[0], -1)
            if valid is not None:
                fresh = torch.where(valid, fresh, -1)
            self.pos[:, :, self.count : stop] = fresh.unsqueeze(1)
        elif valid is not None and (self.valid is not None or not bool(valid.all())):
            if self.valid is None:
                self.valid = torch.ones(k.shape[0], self.k.shape[2], dtype=torch.bool, device=k.device)
            self.valid[:, self.count : stop] = valid
        elif self.valid is not None:
            self.valid[:, self.count : stop] = True
        for column, values in self.columns.items():
            if column is not POSITION:
                values[:, :, self.count : stop] = column.fill
        self.count = stop

    def _overwrite(self, k: Tensor, v: Tensor, logical: int, valid: Tensor | None) -> None:
        """Write one new slot per head over the one that was evicted last."""
        pos = self.pos
        assert self.free is not None and pos is not None
        index = self.free.unsqueeze(-1)
        for held, new in ((self.k, k), (self.v, v)):  # keys and values may be of different width
            held.scatter_(2, index.unsqueeze(-1).expand_as(new), new.to(held.dtype))
        fresh = torch.full_like(index, logical, dtype=torch.int32)
        if valid is not None:
            fresh = torch.where(valid.unsqueeze(1), fresh, -1)
        pos.scatter_(2, index, fresh)
        for column, values in self.columns.items():
            if column is not POSITION:
                values.scatter_(2, index, column.fill)
        self.free = None

    def _hold(self, key: torch.dtype, value: torch.dtype) -> None:
        """Slots of these types come, perhaps wider ones than before: a turn without autocast, after one with it."""
        if self.k.dtype != key:
            self.k = self.k.to(torch.promote_types(self.k.dtype, key))
        if self.v.dtype != value:
            self.v = self.v.to(torch.promote_types(self.v.dtype, value))

    def _grow(self, needed: int) -> None:
        # The first fill (the prompt) is exact; growth while decoding is by blocks.
        room = needed if self.k.shape[2] == 0 else capacity(needed)

        def grown(old: Tensor) -> Tensor:
            new = old.new_empty(*old.shape[:2], room, *old.shape[3:])
            new[:, :, : self.count] = old[:, :, : self.count]
            return new

        self.k, self.v, self.columns = grown(self.k), grown(self.v), self.columns.map(grown)
        if self.valid is not None:
            more = self.valid.new_ones(len(self.valid), room - self.valid.shape[1])
            self.valid = torch.cat([self.valid, more], 1)

    def keep(self, index: Tensor, pos: Tensor) -> None:
        """Hold the slots `index` (B, H, n) alone, in that order, at the positions pos (B, H, n) int32 (-1 = none)."""
        columns = self.used().without(POSITION).take(index)
        self.k, self.v = slots_of(self.keys, index).contiguous(), slots_of(self.values, index).contiguous()
        self.count, self.valid, self.free = index.shape[2], None, None
        steps = torch.arange(self.count, device=pos.device, dtype=torch.int32)
        first = int(pos[0, 0, 0]) if pos.numel() else self.start
        ordered = first >= 0 and torch.equal(pos, (first + steps).expand_as(pos))
        self.columns = columns if ordered or not pos.numel() else columns.put(POSITION, pos.contiguous().clone())
        if ordered:
            self.start = first

    def explicit(self) -> Tensor:
        """Switch to one position per head and slot, as eviction in place needs; returns the positions in use."""
        pos = self.pos
        if pos is None:
            pos = torch.full((*self.k.shape[:3],), -1, dtype=torch.int32, device=self.k.device)
            pos[:, :, : self.count] = self.positions()
            self.columns, self.valid = self.columns.put(POSITION, pos), None
        return pos[:, :, : self.count]

    def drop_one(self, index: Tensor) -> None:
        """Evict slot index (B, H) of every head; the next single slot is written over it."""
        pos = self.explicit()
        pos.scatter_(2, index.unsqueeze(-1), -1)
        self.free = index

    def there(self, stop: int) -> Tensor | None:
        """(B, 1 or H, 1, stop) bool: which of the first `stop` slots exist, or None when all do."""
        if self.pos is not None:
            return self.pos[:, :, None, :stop] >= 0
        return None if self.valid is None else self.valid[:, None, None, :stop]

    def attend(self, q: Tensor, scale: float, cap: float | None) -> Partial:
        """q (B, Hq, n, D), queries of the last n tokens appended -> Partial (B, H, G*n, D)."""
        heads, new = self.k.shape[1], q.shape[2]
        folded = fold_queries(q, heads)
        bias = self.used()[BIAS] if BIAS in self.columns else None
        if new == 1:
            return attend(folded, self.keys, self.values, scale, self.there(self.count), cap, bias)
        # Slots that stood before this forward precede all its queries; its own are the last, and causal.
        old = self.count - new
        fresh = self._attend_new(q, old, scale, cap)
        if old == 0:
            return fresh
        seen = self.there(old)
        if seen is not None and bool(seen.all()):
            seen = None
        bias = None if bias is None else bias[:, :, :old]  # that of new slots is 0
        return merge([attend(folded, self.keys[:, :, :old], self.values[:, :, :old], scale, seen, cap, bias), fresh])

    def _attend_new(self, q: Tensor, old: int, scale: float, cap: float | None) -> Partial:
        """The slots from `old` on, for their own queries, a tile of queries at a time: no (n, n) mask is built."""
        (batch, heads, *_), new, group = self.k.shape, q.shape[2], q.shape[1] // self.k.shape[1]
        k = self.keys[:, :, old:].repeat_interleave(group, 1)
        v = self.values[:, :, old:].repeat_interleave(group, 1)
        seen = self.there(self.count)
        if seen is not None:
            seen = seen[:, :1, :, old:]  # what has just been read is padding for all heads or for none
        alike = q.dtype == k.dtype == v.dtype and k.shape[-1] == v.shape[-1]
        if alike and seen is None and cap is None and q.device.type == "cpu":
            out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True, scale=scale)
        else:
            slot, parts = torch.arange(new, dtype=torch.int64, device=q.device), []
            step = max(1, TILE_BYTES // (4 * batch * new))
            for start in range(0, new, step):
                stop = min(start + step, new)
                mask = (slot[:stop] <= slot[start:stop, None])[None, None]
                mask = mask if seen is None else mask & seen[..., :stop]
                parts.append(attend(q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop], scale, mask, cap))
            out, lse = (torch.cat(tensors, 2) for tensors in zip(*parts, strict=True))
        shape = (batch, heads, group * new)
        return Partial(out.float().reshape(*shape, -1), lse.float().reshape(shape))

    def part(self) -> kernels.Part:
        """What a fused kernel reads, for one query a row: the newest token, which sees every slot."""
        return kernels.Part(self.k, self.v, self.count, None, self.pos, self.valid)

    def take_rows(self, rows: Tensor) -> None:
        """Batch row i becomes what row rows[i] (int64) was."""
        for name in ("k", "v", "valid", "free"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value.index_select(0, rows))
        self.columns = self.columns.map(lambda values: values.index_select(0, rows))

    def trim(self, count: int) -> None:
        """Keep the first `count` slots."""
        self.count = count

    def clone(self) -> Tail:
        """An independent copy."""
        other = object.__new__(Tail)
        other.__dict__.update({k: v.clone() if isinstance(v, Tensor) else v for k, v in self.__dict__.items()})
        other.columns = self.columns.map(Tensor.clone)
        return other

    def tensors(self) -> Iterator[tuple[str, str, str, Tensor]]:
        """(name, 'k' | 'v' | '-', ledger kind, tensor) of everything held."""
        yield "k", "k", "window", self.k
        yield "v", "v", "window", self.v
        yield from self.columns.tensors()
        for name, kind in (("valid", "masks"), ("free", "indices")):
            value = getattr(self, name)
            if value is not None:
                yield name, "-", kind, value
