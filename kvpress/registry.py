"""One small generic registry: names to objects, with suggestions when a name is wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from kvpress.errors import KVPressError, nearest, short

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of thing. Names are case-insensitive and treat ``-`` as ``_``.

    of: the type of an item. origin: the module an item comes from, for errors. more: called when a name is not known,
    and may register it. listing: the command that lists all names. first: called once before the first look, and
    registers what is always there.
    """

    def __init__(
        self,
        kind: str,
        of: type[T],
        origin: Callable[[T], str] | None = None,
        more: Callable[[Registry[T]], None] | None = None,
        listing: str = "",
        first: Callable[[], None] | None = None,
    ) -> None:
        self.kind, self.of, self.listing = kind, of, listing
        self._origin, self._more, self._first = origin, more, first
        self._complete, self._lock, self._filling = first is None, threading.RLock(), False
        self._items: dict[str, T] = {}

    def ready(self) -> None:
        """Have what is always there registered. A second thread waits for it; what registers it may look meanwhile."""
        if self._complete:
            return
        with self._lock:
            if self._first is not None and not self._complete and not self._filling:
                self._filling = True
                try:
                    self._first()
                    self._complete = True
                finally:
                    self._filling = False

    @staticmethod
    def canonical(name: str) -> str:
        return name.strip().lower().replace("-", "_")

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that stores its target under `name`; a second use of a name is an error that names both."""
        key = self.canonical(name)

        def store(item: T) -> T:
            if key in self._items:
                by = (
                    "" if self._origin is None else f", by {self._origin(self._items[key])} and by {self._origin(item)}"
                )
                raise KVPressError(f"{self.kind} {key!r} is registered twice{by}; choose another name.")
            self._items[key] = item
            return item

        return store

    def forget(self, name: str) -> None:
        """Undo `register`; nothing where the name is not known."""
        self._items.pop(self.canonical(name), None)

    def __contains__(self, name: str) -> bool:
        self.ready()
        return self.canonical(name) in self._items

    def __iter__(self) -> Iterator[str]:
        self.ready()
        return iter(sorted(self._items))

    def __getitem__(self, name: str) -> T:
        self.ready()
        key = self.canonical(name)
        if key not in self._items and self._more is not None:
            self._more(self)
        if key in self._items:
            return self._items[key]
        raise KVPressError(f"Unknown {self.kind} {short(name, 60)!r}; {nearest(key, self, self.listing)}")
