"""Every storage an object keeps alive, by following its attributes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

# References from a cache to what it does not own: the model and its parts, and the logits of the last token.
_NOT_HELD = ("rule", "given", "next_logits", "model", "press", "recipe", "watch", "session", "_arguments")
_FOREIGN = ("torch", "builtins", "weakref", "functools", "types")


def storages(holder: object) -> dict[int, int]:
    """Address -> bytes of every storage that a cache or a Packed reaches, found without its own list."""
    found: dict[int, int] = {}
    seen: set[int] = set()

    def walk(thing: Any) -> None:
        if id(thing) in seen:
            return
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            storage = thing.untyped_storage()
            if storage.nbytes():
                found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, list | tuple | set):
            for item in thing:
                walk(item)
        elif isinstance(thing, dict):
            for item in thing.values():
                walk(item)
        elif type(thing).__module__.split(".")[0] not in _FOREIGN:
            slots = {name: getattr(thing, name, None) for name in getattr(type(thing), "__slots__", ())}
            for name, item in {**slots, **getattr(thing, "__dict__", {})}.items():
                if name not in _NOT_HELD:
                    walk(item)

    walk(holder)
    return found
