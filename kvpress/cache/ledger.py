"""Bytes of everything a cache holds, by layer, side and kind."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One storage: the layer it belongs to, side "k", "v" or "-", what it is for, and its bytes."""

    layer: int
    side: str
    kind: str
    bytes: int


@dataclass(frozen=True)
class Ledger:
    """Bytes of every distinct storage a cache holds.

    Kinds: rows (dense frozen slots), codes, scales, factors (of low rank), outliers, indices, positions, masks,
    window (the dense tail, its spare room included), evidence (what the press remembers to score with), other
    (layers left to transformers).
    """

    entries: tuple[Entry, ...]

    @property
    def total(self) -> int:
        return sum(entry.bytes for entry in self.entries)

    def by_kind(self) -> dict[str, int]:
        """kind -> bytes."""
        return self._sum("kind")

    def by_layer(self) -> dict[int, int]:
        """layer -> bytes."""
        return self._sum("layer")

    def by_side(self) -> dict[str, int]:
        """ "k", "v" and "-" (neither) -> bytes."""
        return self._sum("side")

    def _sum(self, name: str) -> dict[Any, int]:
        out: dict[Any, int] = defaultdict(int)
        for entry in self.entries:
            out[getattr(entry, name)] += entry.bytes
        return dict(sorted(out.items()))
