"""A function of real code under other names and with other constants.

A ``Source`` is the code with holes where its own names (function, arguments, variables) and its constants
stand: made once, filled in as often as wanted. What is named elsewhere (builtins, methods, modules, keywords
of calls) keeps its name. Decorators, docstrings and comments are gone.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from .describe import describe
from .describe_words import GERUNDS

__all__ = ["Function", "Source", "Words", "read"]

_MARK = "\u00a7"  # around a hole; code that holds it already is left out
_HOLE = re.compile(f"{_MARK}([nc])([0-9]+){_MARK}")
_LETTERS = re.compile("[A-Za-z]{3,}")
_SAID = re.compile("[A-Za-z]+")
_LINES = range(6, 41)
_LONGEST = 100  # source lines, docstring and comments included: longer ones are not even looked into
_SCOPES = frozenset((ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Nonlocal))
_BODIES = frozenset(("body", "orelse", "finalbody"))
_FIELDS: dict[type[ast.AST], tuple[str, ...]] = {}  # what below a node of a kind is to be looked at


class _Number(int):
    def __repr__(self) -> str:
        return f"{_MARK}c{int(self)}{_MARK}"


class _Real(float):
    def __repr__(self) -> str:
        return f"{_MARK}c{int(self)}{_MARK}"


class _Letters(str):
    def __repr__(self) -> str:
        return f"{_MARK}c{self!s}{_MARK}"


class Words:
    """Pseudo-words: never a keyword, a builtin, or a verb that a description knows."""

    _SYLLABLES = tuple(c + v for c in "bdfgjklmnprstvz" for v in "aeiou")
    _ENDS = ("", "k", "l", "m", "n", "r", "sh", "th")
    _TAKEN = frozenset((*keyword.kwlist, *dir(builtins), *GERUNDS))

    def __init__(self, rng: random.Random, taken: Iterable[str] = ()) -> None:
        self.rng, self._functions = rng, set(taken)

    def word(self) -> str:
        pick, n = self.rng.random, len(self._SYLLABLES)
        while True:
            body = "".join([self._SYLLABLES[int(pick() * n)] for _ in range(2 + (pick() < 0.5))])
            word = body + self._ENDS[int(pick() * len(self._ENDS))]
            if len(word) > 4 and word not in self._TAKEN:
                return word

    def function(self) -> str:
        """A name that no other function has."""
        while (name := f"{self.word()}_{self.word()}") in self._functions:
            pass
        self._functions.add(name)
        return name


@dataclass(frozen=True)
class Function:
    """A filled source: ``changed`` are its lines with a constant that the original does not have."""

    name: str
    text: str
    changed: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Source:
    """A function with holes; ``names[0]`` is its own name, ``kept`` what else it names.

    ``normal`` is its text with holes for names and constants: equal for two copies of the same code.
    """

    normal: str
    names: tuple[str, ...]
    constants: tuple[int | float | str, ...]
    kept: frozenset[str]
    description: str

    @cached_property
    def words(self) -> frozenset[str]:
        """The distinct words of the description."""
        return frozenset(_SAID.findall(self.description))

    @cached_property
    def runs(self) -> frozenset[tuple[str, ...]]:
        """The distinct runs of four tokens of the code, names and constants aside."""
        tokens = self.normal.split()
        return frozenset(zip(*(tokens[i:] for i in range(4)), strict=False))

    @property
    def original(self) -> str:
        """As it stands in the library (without decorators, docstring and comments)."""
        return self._filled(self.names, self.constants)

    def fill(self, words: Words) -> Function:
        """Under new names, with one or two constants changed (where it has any that can be)."""
        names = [words.function()]
        while len(names) < len(self.names):
            word = words.word()
            if word not in self.kept and word not in names:
                names.append(word)
        values = list(self.constants)
        able = [i for i, value in enumerate(values) if not isinstance(value, str) or _LETTERS.search(value)]
        for i in words.rng.sample(able, min(len(able), words.rng.randint(1, 2))):
            values[i] = _other(values[i], words)
        text = self._filled(names, values)
        plain = self._filled(names, self.constants)
        pairs = zip(text.split("\n"), plain.split("\n"), strict=True)
        return Function(names[0], text, tuple(new for new, old in pairs if new != old))

    def _filled(self, names: Sequence[str], values: Sequence[int | float | str]) -> str:
        pieces = _HOLE.split(self.normal)
        for i in range(1, len(pieces), 3):
            at = int(pieces[i + 1])
            pieces[i], pieces[i + 1] = (names[at], "") if pieces[i] == "n" else (repr(values[at]), "")
        return "".join(pieces)


def _other(value: int | float | str, words: Words) -> int | float | str:
    if isinstance(value, str):
        return _LETTERS.sub(lambda _: words.word(), value, count=1)
    return value + words.rng.randint(1, 9)


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
    constants = _make_holes(node, nodes, {name: f"{_MARK}n{i}{_MARK}" for i, name in enumerate(names)})
    text = ast.unparse(node)
    if text.count("\n") + 1 not in _LINES or "\n\n" in text or "```" in text or text.count(_MARK) % 2:
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
    return type(node) is ast.Expr and type(node.value) is ast.Constant


def _own_names(function: ast.FunctionDef, nodes: list[ast.AST]) -> tuple[list[str], set[str]]:
    """Names bound in the function, its own first, and those that stay."""
    own: dict[str, None] = {function.name: None}
    kept, stay = set[str](), {"self", "cls"}
    for node in nodes:
        kind = type(node)
        if kind is ast.Name:
            if type(node.ctx) is ast.Load:
                kept.add(node.id)
            else:
                own[node.id] = None
        elif kind is ast.arg:
            own[node.arg] = None
        elif kind is ast.Import or kind is ast.ImportFrom:
            stay |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif kind is ast.Global:
            stay |= set(node.names)
        elif kind in _BINDING:
            own |= dict.fromkeys(_bound(node).values())
    return [name for name in own if name not in stay or name == function.name], kept | stay


_BINDING = frozenset((ast.ExceptHandler, ast.MatchAs, ast.MatchStar, ast.MatchMapping))


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
        kind = type(node)
        if kind is ast.Name:
            node.id = holes.get(node.id, node.id)
        elif kind is ast.Constant:
            if id(node) not in fixed:
                _hole_for_constant(node, constants)
        elif kind is ast.Attribute:
            # the function calling itself, or what it overrides
            if node.attr == own and _is_self(node.value):
                node.attr = function.name
        elif kind is ast.arg:
            node.arg = holes.get(node.arg, node.arg)
            _fix(node.annotation, fixed)
        elif kind is ast.JoinedStr or kind is ast.MatchValue:
            _fix(node, fixed)
        elif kind is ast.AnnAssign:
            _fix(node.annotation, fixed)
        elif kind in _BINDING:
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
