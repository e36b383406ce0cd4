"""How slots are stored: the protocol every storage format follows, and plain dense storage.

A codec turns a rectangle of slots (R, n, D) into a `Packed`: R runs (one run = the slots of one KV head of
one batch row) of n slots each. Packed data never changes. `decode(encode(x))` defines the codec's error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from kvpress.attention.layout import Layout


@runtime_checkable
class Packed(Protocol):
    """R runs of n frozen slots in some format. Tensors it owns are whole storages, never views."""

    runs: int
    slots: int

    def decode(self) -> Tensor:
        """(R, n, D) in the dtype of the model."""
        ...

    def logits(self, q: Tensor) -> Tensor:
        """(R, m, n) fp32: q (R, m, D) times the decoded rows."""
        ...

    def mix(self, weights: Tensor) -> Tensor:
        """(R, m, D) fp32: weights (R, m, n) fp32 times the decoded rows."""
        ...

    def take(self, run: Tensor, index: Tensor) -> Packed:
        """Slots `index` (r, k) of the runs `run` (r,), exactly as they are stored, nothing re-encoded."""
        ...

    def cat(self, others: Sequence[Packed]) -> Packed:
        """This, then `others` (same format, same runs, `joinable`), joined along the slots."""
        ...

    def tensors(self) -> dict[str, tuple[str, Tensor]]:
        """Everything it owns: name -> (ledger kind, tensor)."""
        ...


@runtime_checkable
class Selective(Protocol):
    """A `Packed` that cannot be joined with every other of its format; those without this method can."""

    def joins(self, other: Packed) -> bool:
        """`cat` with `other` (same format, same runs) is possible."""
        ...


@runtime_checkable
class Laid(Protocol):
    """A `Packed` that kernels may read where it lies."""

    def layout(self) -> Layout | None:
        """How its bytes lie; None = in no way that kernels know. Asked once."""
        ...


def joinable(first: Packed, second: Packed) -> bool:
    """`first.cat([second])` is possible; where it is not, the two stay segments of their own."""
    if getattr(first, "dtype", None) != getattr(second, "dtype", None):  # of what they decode to
        return False
    return first.joins(second) if isinstance(first, Selective) else True


class Codec(Protocol):
    """A storage format.

    block: slots are packed in multiples of this many; 0 = the format is exact and packs nothing until
    slots are evicted. name: how errors and files call it.
    """

    name: str
    block: int

    def check(self, head_dim: int) -> None:
        """Raise if rows of `head_dim` channels cannot be stored."""
        ...

    def encode(self, x: Tensor) -> Packed:
        """Pack (R, n, D)."""
        ...

    def load(self, tensors: dict[str, Tensor], dtype: torch.dtype, dim: int) -> Packed:
        """Rebuild from `Packed.tensors()` of a saved cache."""
        ...


@dataclass(frozen=True)
class Dense:
    """Slots as they are: bytes = n * D * element size."""

    name = "dense"
    block = 0

    def check(self, head_dim: int) -> None:
        return None

    def encode(self, x: Tensor) -> DensePacked:
        return DensePacked(x.clone(memory_format=torch.contiguous_format))

    def load(self, tensors: dict[str, Tensor], dtype: torch.dtype, dim: int) -> DensePacked:
        return DensePacked(tensors["rows"])


class DensePacked:
    """Frozen dense rows (R, n, D)."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.runs, self.slots = rows.shape[:2]

    def layout(self) -> Layout:
        return Layout("dense", self.rows, self.rows.shape[-1])

    def decode(self) -> Tensor:
        return self.rows

    def logits(self, q: Tensor) -> Tensor:
        return q.float() @ self.rows.float().mT

    def mix(self, weights: Tensor) -> Tensor:
        return weights @ self.rows.float()

    def take(self, run: Tensor, index: Tensor) -> DensePacked:
        return DensePacked(self.rows[run.unsqueeze(-1), index])

    def cat(self, others: Sequence[Packed]) -> DensePacked:
        rows = [self.rows, *(o.rows for o in others if isinstance(o, DensePacked))]
        return DensePacked(torch.cat(rows, 1))

    def tensors(self) -> dict[str, tuple[str, Tensor]]:
        return {"rows": ("rows", self.rows)}
