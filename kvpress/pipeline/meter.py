"""How many bytes the pressed layers of a cache hold while a prompt is read, and the most there were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from torch import Tensor

from kvpress.errors import KVPressError


class Measured(Protocol):
    """What a layer shows of itself."""

    index: int

    def tensors(self) -> Iterator[tuple[str, str, str, Tensor]]: ...


class Meter:
    """Bytes of the distinct storages of `layers`, read whenever slots are stored or compressed.

    high: the most so far. limit: the most there may be, None = any. One layer is looked at in each reading, so that
    the cost does not grow with the length of the prompt.
    """

    def __init__(self, layers: Iterable[Measured], limit: int | None = None) -> None:
        self.high, self.limit = 0, limit
        self._storages: dict[int, dict[int, int]] = {}
        for layer in layers:
            self._storages[layer.index] = _storages(layer)
        self.now = self._total()

    def read(self, *changed: Measured | None) -> None:
        """Look at the layers that changed. Raises KVPressError above the limit."""
        for layer in changed:
            if layer is not None:
                self._storages[layer.index] = _storages(layer)
        self.now = self._total()
        self.high = max(self.high, self.now)
        if self.limit is not None and self.now > self.limit:
            raise KVPressError(
                f"The cache holds {self.now:,} bytes while a prompt is read, and its bound, worked out before, is "
                f"{self.limit:,}. This is a bug in kvpress: please report the press, the model and the call. The "
                "same call without peak= reads the prompt without this check."
            )

    def _total(self) -> int:
        together: dict[int, int] = {}
        for storages in self._storages.values():
            together |= storages
        return sum(together.values())


def _storages(layer: Measured) -> dict[int, int]:
    """Address -> bytes."""
    found = (tensor.untyped_storage() for *_, tensor in layer.tensors())
    return {storage.data_ptr(): storage.nbytes() for storage in found}
