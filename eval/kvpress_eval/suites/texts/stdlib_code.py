"""Functions of the standard library that runs this: real code that needs no download.

A module is read when it is first needed and kept for the process. Other Python versions give other code, and
so other episodes: an episode's text, and with it its id, names the version.
"""

from __future__ import annotations

import ast
import gc
import os
import random
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ...errors import EpisodeError
from .holes import read
from .renaming import Source

__all__ = ["functions", "modules", "shuffled", "source"]

_SKIPPED = {"__pycache__", "dist-packages", "idlelib", "lib2to3", "site-packages", "test", "tests", "turtledemo"}


@cache
def _root() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


@cache
def modules() -> tuple[str, ...]:
    """Paths of the library's modules, relative to its folder, sorted; tests and what pip installed left out.

    Raises:
        EpisodeError: for a Python without the sources of its library.
    """
    found, root = list[str](), _root()
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if name not in _SKIPPED]
        place = Path(folder).relative_to(root)
        found += [(place / name).as_posix() for name in files if name.endswith(".py")]
    if not found:
        raise EpisodeError(f"no sources of the standard library under {root}; install them, or choose other tasks")
    return tuple(sorted(found))


def source(module: str) -> str:
    """The text of a module; empty for one that is not UTF-8."""
    try:
        return (_root() / module).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


@cache
def functions(module: str) -> tuple[Source, ...]:
    """The functions of a module that can be asked about, in their order; none for one that does not parse."""
    path = _root() / module
    collecting = gc.isenabled()
    gc.disable()  # a tree is many objects and no cycle: looking for garbage in between takes longer than parsing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in old modules
            tree = ast.parse(path.read_text(encoding="utf-8"))
        found = [read(node) for node in _defined(tree.body)]
    except (SyntaxError, ValueError, RecursionError):
        return ()
    finally:
        if collecting:
            gc.enable()
    return tuple(source for source in found if source)


def _defined(body: list[ast.stmt]) -> Iterator[ast.FunctionDef]:
    for node in body:
        if isinstance(node, ast.FunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from _defined(node.body)
        elif isinstance(node, (ast.If, ast.Try)):
            yield from _defined([*node.body, *node.orelse])


def shuffled(rng: random.Random) -> Iterator[tuple[Source, ...]]:
    """The functions of every module that has any, the modules in random order."""
    for module in rng.sample(modules(), len(modules())):
        if found := functions(module):
            yield found
