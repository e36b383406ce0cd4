"""Presses read in a world of their own where torch is only a name, so that a mistake is told before torch is imported.

Whether parts go together is decided by kvpress/recipe/press.py, and what an argument may be by each press. Neither
computes anything, but both stand in modules that import torch for what they compute later. Here the same code is run
once more with a stand-in for every package that is not Python's own: its names can be written down and nothing else.
So there is one copy of every rule, and its words are the same. Modules made here are known to nobody else.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from kvpress import METHODS
from kvpress.errors import KVPressError

__all__ = ["check"]

_TOP = __name__.partition(".")[0]
_SHARED = (
    "errors",
    "registry",
    "recipe",
    "recipe.numbers",
    "recipe.plugins",
    "recipe.text",
)  # they import nothing slow, and errors are to be caught


def check(text: str, entered: bool = False) -> None:
    """Raise what ``Press.parse`` would for presses of this package alone; nothing where that takes torch to tell.

    Args:
        entered: raise what ``Press.ready`` would too.

    Raises:
        KVPressError: with the same words.
    """
    try:
        press = _press().Press.parse(text)
        if entered:
            press.ready()
    except KVPressError:
        raise
    except Exception:  # whatever stands in for torch was asked for more than its name
        return


@lru_cache(maxsize=1)
def _press() -> ModuleType:
    return _World().module("kvpress.recipe.press")


class _Absent:
    """Stands for a package, and for everything in it. It has every name, and cannot be called or compared with."""

    def __getattr__(self, name: str) -> _Absent:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("not here")

    __bool__ = __eq__ = __instancecheck__ = __call__
    __hash__ = object.__hash__


class _World:
    """Modules of this package by their names, each run from its source when another one imports it."""

    def __init__(self) -> None:
        self.made: dict[str, ModuleType] = {}
        self.builtins = {**vars(builtins), "__import__": self._import}

    def module(self, name: str) -> ModuleType:
        """The module of this package with a full name, run at the first use."""
        if name in self.made:
            return self.made[name]
        path = Path(__file__).parents[1].joinpath(*name.split(".")[1:])
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        code = SourceFileLoader(name, str(path)).get_code(name)
        assert code is not None
        made = self.made[name] = ModuleType(_TOP)  # dataclasses look their module up among those that are imported
        vars(made).update(__builtins__=self.builtins, __file__=str(path))
        exec(code, vars(made))
        return made

    def _methods(self) -> None:
        """Run every file of a method, which registers its presses."""
        for room in METHODS:
            for path in sorted(Path(__file__).parents[1].joinpath(room).glob("[!_]*.py")):
                self.module(f"{_TOP}.{room}.{path.stem}")

    def _import(
        self, name: str, globals_: Any = None, locals_: Any = None, fromlist: Sequence[str] = (), level: int = 0
    ) -> Any:
        top, _, inside = name.partition(".")
        if top == _TOP and inside not in _SHARED:
            made = self.module(name)
            for part in fromlist:
                if not hasattr(made, part):  # a module of that room
                    setattr(made, part, self.module(f"{name}.{part}"))
            return made
        if name == "importlib":  # the package is asked for all presses
            return SimpleNamespace(import_module=lambda name: SimpleNamespace(_load=self._methods))
        if top in sys.stdlib_module_names or top == _TOP:
            return __import__(name, globals_, locals_, fromlist, level)
        return _Absent()
