"""A function of real code under other names and with other constants.

A ``Source`` is the code with holes where its own names (function, arguments, variables) and its constants
stand: made once, filled in as often as wanted. What is named elsewhere (builtins, methods, modules, keywords
of calls) keeps its name. Decorators, docstrings and comments are gone.
"""

from __future__ import annotations

import builtins
import keyword
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from .describe_words import GERUNDS

__all__ = ["MARK", "Function", "Source", "Words"]

MARK = "\u00a7"  # around a hole: of a name (n) or a constant (c), with its number
_HOLE = re.compile(f"{MARK}([nc])([0-9]+){MARK}")
_LETTERS = re.compile("[A-Za-z]{3,}")
_SAID = re.compile("[A-Za-z]+")


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
    """A filled source: its names (its own first), and its text."""

    names: tuple[str, ...]
    text: str

    @property
    def name(self) -> str:
        """The name that no other function of a context has."""
        return self.names[0]


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
        return Function(tuple(names), self._filled(names, values))

    def changed(self, function: Function) -> tuple[str, ...]:
        """The lines of this source, so filled, with a constant that the original does not have."""
        plain = self._filled(function.names, self.constants)
        pairs = zip(function.text.split("\n"), plain.split("\n"), strict=True)
        return tuple(new for new, old in pairs if new != old)

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
