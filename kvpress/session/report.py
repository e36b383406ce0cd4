"""What a press made of a cache, as figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from kvpress.cache.cache import PressCache


@dataclass(frozen=True)
class LayerReport:
    """One layer: slots held per KV head (mean over rows and heads; extremes), bytes held and bytes dense."""

    layer: int
    slots: float
    least: int
    most: int
    bytes: int


@dataclass(frozen=True)
class Report:
    """What a press made of a cache.

    logical: tokens seen. bytes: held, everything included. dense_bytes: the same tokens dense. by_kind: the
    ledger. fired: how often the press was applied. kept_all: it changed nothing yet: no slot or channel was dropped
    and none stored in another form, because all are asked for, or the prompt is shorter than the budget, the protected
    slots or the dense window.
    """

    press: str
    logical: int
    bytes: int
    dense_bytes: int
    by_kind: dict[str, int]
    fired: int
    layers: tuple[LayerReport, ...]
    kept_all: bool = False

    @property
    def ratio(self) -> float:
        """Bytes held / bytes dense."""
        return self.bytes / max(1, self.dense_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self) | {"ratio": self.ratio}

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in self.by_kind.items())
        return (
            f"{self.press}: {self.logical} tokens in {self.bytes:,} bytes, {self.ratio:.3f} of dense "
            f"({self.dense_bytes:,}); {kinds}" + ("; kept everything" if self.kept_all else "")
        )


def report_of(cache: PressCache) -> Report:
    """Slots and bytes of a cache, by layer and by kind."""
    ledger = cache.ledger()
    by_layer = ledger.by_layer()
    layers = []
    for layer in cache.stores:
        empty = torch.zeros(1, 1, dtype=torch.float32, device="cpu")
        counts = layer.counts().float() if layer.is_initialized else empty
        layers.append(
            LayerReport(
                layer.index,
                float(counts.mean()),
                int(counts.min()),
                int(counts.max()),
                by_layer.get(layer.index, 0),
            )
        )
    return Report(
        str(cache.press),
        cache.get_seq_length(),
        ledger.total,
        cache.dense_nbytes(),
        ledger.by_kind(),
        max((layer.fired for layer in cache.stores), default=0),
        tuple(layers),
        kept_all(cache),
    )


def kept_all(cache: PressCache) -> bool:
    """Whether a press that decides something has dropped no slot and no channel, and packed none."""
    recipe = cache.press.recipe
    for layer in cache.stores:
        if not layer.is_initialized:
            return False
        key, value = layer.tail.k.shape[-1], layer.tail.v.shape[-1]
        packs = recipe.block > 0 or (recipe.channels is not None and recipe.channels.widths(key, value) != (key, value))
        if packs and layer.held:
            return False
        if recipe.evicts and bool((layer.counts() < layer.lengths().cpu()[:, None]).any()):
            return False
    return str(cache.press) != "full"
