"""What the full cache predicts of each passage, kept for the presses to come, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

__all__ = ["Bases"]


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


_T = TypeVar("_T", bound=_Sized)


@dataclass
class Bases(Generic[_T]):
    """Results by passage; the ones used longest ago make room. ``limit`` in bytes: what is larger is made again."""

    limit: int = 1 << 30
    kept: OrderedDict[str, _T] = field(default_factory=OrderedDict)

    def get(self, key: str, make: Callable[[], _T]) -> _T:
        """What is kept under ``key``, else what ``make`` makes."""
        found = self.kept.pop(key, None)
        found = make() if found is None else found
        self.kept[key] = found
        held = sum(one.nbytes for one in self.kept.values())
        while held > self.limit:
            _, gone = self.kept.popitem(last=False)
            held -= gone.nbytes
        return found
