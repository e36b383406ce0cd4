"""Reading functions of real code into sources: trees in which names and constants become holes."""

from __future__ import annotations

import ast
import math

from .describe import describe
from .renaming import MARK, Source

__all__ = ["read"]

_LINES = range(6, 41)
_LONGEST = 100  # source lines, docstring and comments included: longer ones are not even looked into
# functions that hold these are left out (the last one is newer than some Pythons)
_SCOPES = frozenset(
    (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Nonlocal, getattr(ast, "TemplateStr", ast.Nonlocal))
)
_BINDING = frozenset((ast.ExceptHandler, ast.MatchAs, ast.MatchStar, ast.MatchMapping))
_BODIES = frozenset(("body", "orelse", "finalbody"))
_FIELDS: dict[type[ast.AST], tuple[str, ...]] = {}  # what below a node of a kind is to be looked at


class _Number(int):
    def __repr__(self) -> str:
        return f"{MARK}c{int(self)}{MARK}"


class _Real(float):
    def __repr__(self) -> str:
        return f"{MARK}c{int(self)}{MARK}"


class _Letters(str):
    def __repr__(self) -> str:
        return f"{MARK}c{self!s}{MARK}"


def read(node: ast.FunctionDef) -> Source | None:
    """The source of a function, whose tree is changed on the way.

    None for one that is not of 6 to 40 lines with two statements, or holds other functions or classes.
    """
    if not _LINES[0] <= (node.end_lineno or 0) - node.lineno + 1 <= _LONGEST:
        return None
    node.decorator_list = []
    nodes = _below(node)
    if len(node.body) < 2 or not _SCOPES.isdisjoint(map(type, nodes[1:])):
        return None
    names, kept = _own_names(node, nodes)
    constants = _make_holes(node, nodes, {name: f"{MARK}n{i}{MARK}" for i, name in enumerate(names)})
    text = ast.unparse(node)
    if text.count("\n") + 1 not in _LINES or "\n\n" in text or "```" in text:
        return None
    return Source(text, tuple(names), tuple(constants), frozenset(kept), describe(node))


def _below(root: ast.AST) -> list[ast.AST]:
    """A tree's nodes, each before those below it, without operators and contexts.

    Texts that stand as statements (docstrings, and comments in their shape) are dropped from it.
    """
    nodes = [root]
    for node in nodes:
        kind = type(node)
        if kind not in _FIELDS:
            _FIELDS[kind] = tuple(name for name in kind._fields if name not in ("ctx", "op", "ops", "kind"))
        for name in _FIELDS[kind]:
            value = getattr(node, name, None)
            if type(value) is list:
                if name in _BODIES and any(map(_is_text, value)):
                    value[:] = [part for part in value if not _is_text(part)] or [ast.Pass()]
                nodes += [part for part in value if isinstance(part, ast.AST)]
            elif isinstance(value, ast.AST):
                nodes.append(value)
    return nodes


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _own_names(function: ast.FunctionDef, nodes: list[ast.AST]) -> tuple[list[str], set[str]]:
    """Names bound in the function, its own first, and those that stay."""
    own: dict[str, None] = {function.name: None}
    kept, stay = set[str](), {"self", "cls"}
    for node in nodes:
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                kept.add(node.id)
            else:
                own[node.id] = None
        elif isinstance(node, ast.arg):
            own[node.arg] = None
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            stay |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Global):
            stay |= set(node.names)
        elif type(node) in _BINDING:
            own |= dict.fromkeys(_bound(node).values())
    return [name for name in own if name not in stay or name == function.name], kept | stay


def _bound(node: ast.AST) -> dict[str, str]:
    """Names that a node binds as plain text: of a handler, of a pattern."""
    return {name: value for name in ("name", "rest") if (value := getattr(node, name, None))}


def _make_holes(function: ast.FunctionDef, nodes: list[ast.AST], holes: dict[str, str]) -> list[int | float | str]:
    """Marks instead of names and constants; what the constants were."""
    constants: list[int | float | str] = []
    fixed: set[int] = set()  # constants that are part of a formatted text, a pattern or an annotation
    own, function.name = function.name, holes[function.name]
    _fix(function.returns, fixed)
    for node in nodes:
        if isinstance(node, ast.Name):
            node.id = holes.get(node.id, node.id)
        elif isinstance(node, ast.Constant):
            if id(node) not in fixed:
                _hole_for_constant(node, constants)
        elif isinstance(node, ast.Attribute):
            # the function calling itself, or what it overrides
            if node.attr == own and _is_self(node.value):
                node.attr = function.name
        elif isinstance(node, ast.arg):
            node.arg = holes.get(node.arg, node.arg)
            _fix(node.annotation, fixed)
        elif isinstance(node, (ast.JoinedStr, ast.MatchValue)):
            _fix(node, fixed)
        elif isinstance(node, ast.AnnAssign):
            _fix(node.annotation, fixed)
        elif type(node) in _BINDING:
            for name, value in _bound(node).items():
                setattr(node, name, holes.get(value, value))
    return constants


def _fix(node: ast.AST | None, fixed: set[int]) -> None:
    if node is not None:
        fixed |= {id(part) for part in ast.walk(node) if isinstance(part, ast.Constant)}


def _is_self(node: ast.expr) -> bool:
    called = node.func if isinstance(node, ast.Call) else node
    return isinstance(called, ast.Name) and called.id in ("self", "cls", "super")


def _hole_for_constant(node: ast.Constant, constants: list[int | float | str]) -> None:
    """The kind of the value stays, for the description; its text is the mark."""
    value, at = node.value, len(constants)
    if isinstance(value, str):
        node.value, node.kind = _Letters(at), None
    elif isinstance(value, float) and math.isfinite(value):
        node.value = _Real(at)
    elif isinstance(value, int) and not isinstance(value, bool):
        node.value = _Number(at)
    else:
        return
    constants.append(value)
