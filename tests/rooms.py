"""Which module of a package imports which, read from the sources: imports in functions and under TYPE_CHECKING too."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

__all__ = ["arrows", "circles", "problems", "repeated", "sources"]

Arrows = Mapping[str, frozenset[str]]
"""Module -> the modules of the same package that it imports; names without the package's, "" is the package itself."""


def sources(folder: Path) -> dict[str, str]:
    """Dotted name inside the package -> text, for every file of it: ``rows.stats``, ``rows.__init__``, ``__init__``."""
    files = {path.relative_to(folder).with_suffix(""): path for path in sorted(folder.rglob("*.py"))}
    return {".".join(name.parts): path.read_text(encoding="utf-8") for name, path in files.items()}


def arrows(package: str, texts: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """What each module imports of its own package, wherever in the module the import stands."""
    known = {_module(file) for file in texts}
    return {
        _module(file): frozenset(_imported(package, file, text, known) - {_module(file)})
        for file, text in texts.items()
    }


def _module(file: str) -> str:
    return "" if file == "__init__" else file.removesuffix(".__init__")


def _imported(package: str, file: str, text: str, known: Set[str]) -> set[str]:
    found = set()
    here = [package, *file.split(".")]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            wanted = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: -node.level] if node.level else []  # from the folder that the file is in, upwards
            module = ".".join([*base, *filter(None, [node.module])])
            wanted = [(module, alias.name) for alias in node.names]
        else:
            continue
        for module, attribute in wanted:
            top, _, inside = module.partition(".")
            if top == package:
                both = f"{inside}.{attribute}".strip(".")
                found.add(both if attribute and both in known else inside)
    return found


def room(name: str) -> str:
    """The folder at the top of the package that a module is in, or its own name if it is in none."""
    return name.partition(".")[0]


def problems(order: Sequence[str], found: Arrows) -> list[str]:
    """Arrows that go up, by an order of rooms from top to bottom; and modules that are in none of them."""
    said = []
    for name in sorted(found):
        if name and room(name) not in order:
            said.append(f"{name} is in no room")
        for other in sorted(found[name]):
            if room(name) in order and room(other) in order and order.index(room(name)) > order.index(room(other)):
                said.append(f"{name} imports {other}, which is above it")
    return said


def repeated(found: Iterable[str]) -> list[list[str]]:
    """Modules that have one name in different folders."""
    named: dict[str, list[str]] = {}
    for name in sorted(found):
        named.setdefault(name.rpartition(".")[2], []).append(name)
    return [names for names in named.values() if len(names) > 1]


def circles(found: Arrows) -> list[list[str]]:
    """Modules that import each other, directly or in a round; found by Tarjan's algorithm."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    rounds: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in sorted(found.get(name, ())):
            if other not in number:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], number[other])
        if low[name] == number[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                rounds.append(sorted(stack[at:]))
            del stack[at:]

    for name in sorted(found):
        if name not in number:
            visit(name)
    return rounds
