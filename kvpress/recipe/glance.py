"""What can be said of presses without torch: their names, their arguments, and whether a text names one rightly.

Importing torch takes seconds, a mistyped name should not. Presses are read from source: the functions under
``@preset("name")`` and the calls ``variant(base, "name", summary, ...)``, of this package and of the files that other
packages declare. What is said agrees with what parsing would say. Whether parts go together, and which values a press
itself refuses, is judged by the very rules of parsing (see kvpress.recipe.torchless), where all presses are of this
package; of others no line is run, and what their source does not tell is left to parsing.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from kvpress.recipe import torchless
from kvpress.recipe.plugins import GROUP
from kvpress.recipe.text import arguments, clean, split
from kvpress.registry import Registry

__all__ = ["Glimpse", "check", "glimpses"]

_OWN = __name__.partition(".")[0]


@dataclass(frozen=True)
class Glimpse:
    """A press as its source says: its line, its parameters with their annotations as text, and the package it is of."""

    name: str
    summary: str
    parameters: Mapping[str, str]
    package: str


def check(text: str, entered: bool = False) -> None:
    """Raise what ``Press.parse`` would for a text that cannot be read, a wrong name, a wrong argument, or parts that
    do not go together, as far as that can be seen. Nothing but how it is written is looked at where presses are known
    to this process, which parses soon enough, or where the source does not tell of all.

    Args:
        entered: the press is to be entered, so that one that is only a part of a press is a mistake too.

    Raises:
        KVPressError: with the same words.
    """
    parts = split(text)
    known = None if "kvpress.recipe.press" in sys.modules else glimpses()
    if known is None:
        return
    own = True
    for name, inside in parts:
        found = known[name]
        clean(found.name, found.parameters, arguments(name, inside, list(found.parameters)))
        if found.package == _OWN:
            torchless.check(f"{name}({inside})")
        own = own and found.package == _OWN
    if own:
        torchless.check(text, entered)


@lru_cache(maxsize=1)
def glimpses() -> Registry[Glimpse] | None:
    """Every press of this package, and of those that declare some; None where their source does not tell of all."""
    own = sorted(Path(__file__).parents[1].rglob("*.py"))
    found: Registry[Glimpse] = Registry("press", Glimpse, listing="kvpress list presses")
    if not _read(own, _OWN, found):
        return None  # installed without source
    for point in entry_points(group=GROUP):
        path = _source(point)
        if path is None or point.attr not in _read([path], point.module.partition(".")[0], found):
            return None
    return found


def _source(point: EntryPoint) -> Path | None:
    """The file of a declared press, found without importing anything of its package; None where there is none."""
    top, *inside = point.module.split(".")
    spec = find_spec(top)
    if spec is None or not point.attr:  # a whole module may register what stands elsewhere
        return None
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, *inside[:-1], f"{inside[-1] if inside else '__init__'}.py")
        if path.is_file():
            return path
    return None


def _read(paths: Iterable[Path], package: str, found: Registry[Glimpse]) -> dict[str, Glimpse]:
    """Register the presses of files; those that have a function of their own, by its name."""
    functions: dict[str, Glimpse] = {}
    calls: list[ast.Call] = []
    for path in paths:
        source = path.read_text(encoding="utf-8")
        if "@preset(" not in source and "variant(" not in source:
            continue
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef) and (name := _preset(node)):
                functions[node.name] = found.register(name)(_glimpse(name, node, package))
            if isinstance(node, ast.Expr | ast.Assign) and _called(node.value) == "variant":
                assert isinstance(node.value, ast.Call)
                calls.append(node.value)
    for call in calls:
        base, suffix, summary = call.args[:3]
        assert isinstance(base, ast.Name)
        of = functions[base.id]
        full = f"{of.name}@{ast.literal_eval(suffix)}"
        found.register(full)(Glimpse(full, ast.literal_eval(summary), of.parameters, package))
    return functions


def _called(value: ast.expr) -> str:
    """The name that a call has; "" for what is none."""
    return value.func.id if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else ""


def _preset(node: ast.FunctionDef) -> str:
    """The name under which a function is registered; "" where it is not."""
    for one in node.decorator_list:
        if isinstance(one, ast.Call) and _called(one) == "preset":
            return str(ast.literal_eval(one.args[0]))
    return ""


def _glimpse(name: str, node: ast.FunctionDef, package: str) -> Glimpse:
    said = (ast.get_docstring(node) or "").split("\n")[0]
    parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    annotations = {p.arg: ast.unparse(p.annotation) if p.annotation else "" for p in parameters}
    return Glimpse(name, said, annotations, package)
