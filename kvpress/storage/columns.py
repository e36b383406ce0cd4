"""Columns: what a cache knows of every slot besides its key and value, as named tensors that travel with the slots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)  # known by identity: columns are looked up in every step
class Column:
    """One number a slot. kind: its line in the ledger. fill: what a new slot has, and a place where no slot is.

    frozen: it does not change once the slot is packed, and belongs to the segment, which forks share; what is not
    frozen, every cache keeps for itself.
    """

    name: str
    kind: str
    fill: float
    dtype: torch.dtype = torch.float32
    frozen: bool = False

    def empty(self, batch: int, heads: int, device: torch.device) -> Tensor:
        """The column of no slots, (B, H, 0)."""
        return torch.zeros(batch, heads, 0, dtype=self.dtype, device=device)


POSITION = Column("pos", "positions", -1, torch.int32, frozen=True)
"""Logical index of the slot's token; kept as a range where slots follow each other."""
BIAS = Column("bias", "scales", 0.0, frozen=True)
"""Added to the slot's logits: log of how many tokens it stands for."""
MASS = Column("mass", "evidence", 0.0)
"""Attention the slot received so far."""
ADDED = Column("added", "evidence", torch.nan)
"""What its value adds to the output of the layer; NaN = not worked out yet."""


class Columns(Mapping[Column, Tensor]):
    """Tensors (..., n) of the same slots. Whatever is done to slots is done to all of their columns, by `map`."""

    def __init__(self, values: Mapping[Column, Tensor] | None = None) -> None:
        self._values: dict[Column, Tensor] = dict(values or {})

    def __getitem__(self, column: Column) -> Tensor:
        return self._values[column]

    def __contains__(self, column: object) -> bool:
        return column in self._values

    def __iter__(self) -> Iterator[Column]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def map(self, change: Callable[[Tensor], Tensor]) -> Columns:
        """The same columns of other slots, or of the same in another order."""
        return Columns({column: change(values) for column, values in self._values.items()})

    def take(self, index: Tensor) -> Columns:
        """Of the slots `index` (..., m)."""
        return self.map(lambda values: values.gather(-1, index))

    def join(self, later: Columns) -> Columns:
        """Of these slots and then of others that have the same columns."""
        return Columns({column: torch.cat([values, later[column]], -1) for column, values in self._values.items()})

    def put(self, column: Column, values: Tensor) -> Columns:
        """With one more column, or another in its place."""
        return Columns({**self._values, column: values})

    def without(self, *columns: Column) -> Columns:
        """All but these."""
        return Columns({column: values for column, values in self._values.items() if column not in columns})

    def only(self, frozen: bool) -> Columns:
        """Those that are frozen, or the others."""
        return Columns({column: values for column, values in self._values.items() if column.frozen == frozen})

    def tensors(self) -> Iterator[tuple[str, str, str, Tensor]]:
        """(name, '-', ledger kind, tensor) of everything held."""
        for column, values in self._values.items():
            yield column.name, "-", column.kind, values
