"""Quantized slots with corrections, the stored form of GEAR: low-rank factors of the error, and outliers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from kvpress.lowrank.outliers import add_product, index_type, per_side
from kvpress.quant.affine import AffinePacked, renumber
from kvpress.storage.codec import Packed

_PRODUCTS = 1 << 22  # numbers in flight


class Settings(Protocol):
    """What it was packed with. outliers: share of the numbers; block: slots that decoded tokens are packed in."""

    @property
    def axis(self) -> str: ...

    @property
    def block(self) -> int: ...

    @property
    def outliers(self) -> float: ...


class Corrected:
    """R runs of n slots in P blocks, each of which was packed at once.

    inner: the quantized slots. left: (R, n, r) fp16. right: (R, P, D, r) fp16, one factor a block.
    owner: (R, n) the block of each slot, None where all blocks are of one length.
    value, index: outliers, fp16 and integers, None without. By channel: (R, P, D, c), index counts the slots of the
    block. By token: (R, n, c), index is a channel. Entries that stand for nothing are 0 at index 0.
    """

    def __init__(
        self,
        codec: Settings,
        inner: AffinePacked,
        left: Tensor,
        right: Tensor,
        owner: Tensor | None,
        value: Tensor | None,
        index: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        self.codec, self.inner, self.left, self.right, self.owner = codec, inner, left, right, owner
        self.value, self.index, self.dtype = value, index, dtype
        self.runs, self.slots = left.shape[:2]
        self.blocks, self.dim, self.rank = right.shape[1:]

    def _owners(self) -> Tensor:
        """(R, n) int64."""
        if self.owner is not None:
            return self.owner.long()
        each = torch.arange(self.slots, dtype=torch.int64, device=self.left.device) // max(
            1, self.slots // max(1, self.blocks)
        )
        return each.expand(self.runs, -1)

    def _starts(self, owners: Tensor) -> Tensor:
        """(R, P) int64: the first slot of each block."""
        number = torch.arange(self.blocks, dtype=torch.int64, device=owners.device).expand(owners.shape[0], -1)
        return torch.searchsorted(owners.contiguous(), number.contiguous())

    def _entries(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Outliers as slots, channels and fp32 values, each (R, E)."""
        if self.value is None or self.index is None or self.value.numel() == 0:
            return None
        index = self.index.long()
        if self.codec.axis == "token":
            slot = torch.arange(self.slots, dtype=torch.int64, device=index.device).view(1, -1, 1).expand_as(index)
            channel = index
        else:
            # Where a run has fewer blocks than its neighbour, those it lacks begin after its last slot.
            slot = (self._starts(self._owners()).view(self.runs, -1, 1, 1) + index).clamp(max=self.slots - 1)
            channel = torch.arange(self.dim, dtype=torch.int64, device=index.device).view(1, 1, -1, 1).expand_as(index)
        return slot.flatten(1), channel.flatten(1), self.value.float().flatten(1)

    def values(self) -> Tensor:
        """(R, n, D) fp32, before rounding to the type of the model."""
        out = self.inner.decode()
        at = self._owners().unsqueeze(-1).expand(-1, -1, self.dim)
        for one in range(self.rank):  # the same sums in the same order, however blocks are joined
            out = out + self.left[..., one : one + 1].float() * self.right[..., one].float().gather(1, at)
        if (entries := self._entries()) is not None:
            slot, channel, value = entries
            out.view(self.runs, -1).scatter_add_(1, slot * self.dim + channel, value)
        return out

    def decode(self) -> Tensor:
        return self.values().to(self.dtype)

    def logits(self, q: Tensor) -> Tensor:
        q = q.float()
        out = self.inner.logits(q)
        through = q.unsqueeze(1) @ self.right.float()  # (R, P, m, r)
        if self.owner is None:
            left = self.left.float().unflatten(1, (self.blocks, -1))
            out = out + (through @ left.mT).transpose(1, 2).flatten(2)
        else:
            left, at = self.left.float().unsqueeze(2), self._owners()[..., None, None]
            for rows in self._rows(q.shape[1]):
                mine = through[:, :, rows]
                out[:, rows] += (mine.gather(1, at.expand(-1, -1, *mine.shape[2:])) * left).sum(-1).mT
        if (entries := self._entries()) is not None:
            slot, channel, value = entries
            add_product(out, q, channel, slot, value)
        return out

    def mix(self, weights: Tensor) -> Tensor:
        out = self.inner.mix(weights)
        if self.owner is None:
            through = weights.unflatten(2, (self.blocks, -1)).transpose(1, 2)
            through = through @ self.left.float().unflatten(1, (self.blocks, -1))  # (R, P, m, r)
        else:
            left, at = self.left.float().unsqueeze(2), self._owners()[..., None, None]
            through = out.new_zeros(self.runs, self.blocks, weights.shape[1], self.rank)
            for rows in self._rows(weights.shape[1]):
                each = weights[:, rows].mT.unsqueeze(-1) * left  # (R, n, m, r)
                through[:, :, rows] = through[:, :, rows].scatter_add(1, at.expand_as(each), each)
        out = out + (through @ self.right.float().mT).sum(1)
        if (entries := self._entries()) is not None:
            slot, channel, value = entries
            add_product(out, weights, slot, channel, value)
        return out

    def _rows(self, count: int) -> list[slice]:
        """Rows of a query in pieces whose products stay small."""
        step = max(1, _PRODUCTS // max(1, self.left.numel()))
        return [slice(start, start + step) for start in range(0, count, step)]

    def take(self, run: Tensor, index: Tensor) -> Corrected:
        inner, run = self.inner.take(run, index), run.unsqueeze(-1)
        new, source = renumber(self._owners()[run, index])
        owner = new.to(index_type(source.shape[1])) if source.shape[1] > 1 else None
        value, at = self.value, self.index
        if value is not None and at is not None:
            token = self.codec.axis == "token"
            kept = (value[run, index], at[run, index]) if token else self._kept_entries(run, index, new, source)
            value, at = kept
        left, right = self.left[run, index], self.right[run, source]
        return Corrected(self.codec, inner, left, right, owner, value, at, self.dtype)

    def _kept_entries(self, run: Tensor, index: Tensor, new: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Outliers by channel of the slots `index`, whose blocks `source` are now numbered `new`."""
        assert self.value is not None and self.index is not None
        value, at = self.value[run, source], self.index[run, source].long()  # (R, P, D, c)
        at = (at + self._starts(self._owners())[run, source][..., None, None]).clamp(max=self.slots - 1)
        place = index.new_full((index.shape[0], self.slots), -1)
        place.scatter_(1, index, torch.arange(index.shape[1], dtype=torch.int64, device=index.device).expand_as(index))
        now = place.gather(1, at.flatten(1)).view_as(at)
        there = torch.arange(source.shape[1], dtype=torch.int64, device=index.device) <= new[:, -1:]
        alive = (now >= 0) & (value != 0) & there[..., None, None]
        number = torch.arange(source.shape[1], dtype=torch.int64, device=index.device).expand_as(source)
        begin = torch.searchsorted(new, number.contiguous())[..., None, None]
        width = int(alive.sum(-1).max()) if alive.numel() else 0
        order = (~alive).to(torch.int8).argsort(dim=-1, stable=True)[..., :width]
        value = torch.where(alive, value, 0.0).gather(-1, order)
        return value, torch.where(alive, now - begin, 0).gather(-1, order).to(self.index.dtype)

    def joins(self, other: Packed) -> bool:
        """Blocks of one rank, and of nearly as many outliers a channel, so that neither has to be filled up.

        A prompt and the blocks packed while decoding stay apart; there are few prompts.
        """
        if not isinstance(other, Corrected) or other.rank != self.rank:
            return False
        if self.value is None or other.value is None or self.codec.axis == "token":
            return True
        spare = 2 * per_side(self.codec.outliers, self.codec.block)
        return abs(self.value.shape[-1] - other.value.shape[-1]) <= spare

    def cat(self, others: Sequence[Packed]) -> Corrected:
        parts = [self, *(o for o in others if isinstance(o, Corrected))]
        inner = self.inner.cat([part.inner for part in parts[1:]])
        left, right = (torch.cat([getattr(part, name) for part in parts], 1) for name in ("left", "right"))
        owner = None
        equal = {part.slots // part.blocks for part in parts}
        if len(equal) > 1 or any(part.owner is not None for part in parts):
            owners, base = [], 0
            for part in parts:
                owners.append(part._owners() + base)
                base += part.blocks
            owner = torch.cat(owners, 1).to(index_type(base))
        value, index = (_joined([getattr(part, name) for part in parts]) for name in ("value", "index"))
        return Corrected(self.codec, inner, left, right, owner, value, index, self.dtype)

    def tensors(self) -> dict[str, tuple[str, Tensor]]:
        out = {f"inner.{name}": entry for name, entry in self.inner.tensors().items()}
        out |= {"left": ("factors", self.left), "right": ("factors", self.right)}
        if self.owner is not None:
            out["owner"] = ("indices", self.owner)
        if self.value is not None and self.index is not None:
            out |= {"value": ("outliers", self.value), "index": ("outliers", self.index)}
        return out


def _joined(entries: list[Tensor | None]) -> Tensor | None:
    found = [entry for entry in entries if entry is not None]
    if not found:
        return None
    width = max(entry.shape[-1] for entry in found)
    return torch.cat([torch.nn.functional.pad(entry, (0, width - entry.shape[-1])) for entry in found], 1)
