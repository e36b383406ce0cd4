"""Presses of other installed packages: what they declare under the entry-point group ``kvpress.presses``.

An entry point names a preset (``mine = "my_package.mine:mine"``) or a module whose import registers presets. It is
imported when a press name is not known otherwise, so that importing kvpress runs nobody else's code.
"""

from __future__ import annotations

import threading
import warnings
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from kvpress.registry import Registry

GROUP = "kvpress.presses"
_tried: set[tuple[str, str]] = set()  # entry points, so that a broken one is told once
_lock = threading.RLock()


class PluginWarning(RuntimeWarning):
    """A package declares presses that could not be registered."""


def load_plugins(presets: Registry[Any]) -> None:
    """Register in `presets` what installed packages declare; a package that fails is a PluginWarning.

    Each entry point is imported once. One that fails, or whose name is taken, leaves nothing behind in `presets`,
    and the others are registered all the same.
    """
    problems = []
    with _lock:
        for point in entry_points(group=GROUP):
            if (point.name, point.value) in _tried:
                continue
            _tried.add((point.name, point.value))
            before = set(presets)
            try:
                _register(point, presets)
            except (Exception, SystemExit) as error:
                for name in set(presets) - before:
                    presets.forget(name)
                problems.append(f"{_title(point)} is left out: {type(error).__name__}: {error}")
    for problem in problems:  # after the last one: a warning that is made an error does not stop the others
        warnings.warn(problem, PluginWarning, stacklevel=2)


def _register(point: EntryPoint, presets: Registry[Any]) -> None:
    found = point.load()
    items = list(vars(found).values()) if isinstance(found, ModuleType) else [found]
    made = [item for item in items if isinstance(item, presets.of)]
    if not made:
        raise TypeError(
            f"it is a {type(found).__name__}, expected a press: decorate a function with "
            f'@preset("{point.name}") from kvpress.recipe.press, and name that function.'
        )
    for item in made:  # the decorator did, unless another entry point failed half-way through its package
        if item.name not in presets or presets[item.name] is not item:
            presets.register(item.name)(item)


def _title(point: EntryPoint) -> str:
    package = f" of {point.dist.name} {point.dist.version}" if point.dist is not None else ""
    return f"The press plug-in {point.name!r} ({point.value}){package}"
