"""Needles in a haystack, RULER's eight kinds: one or several keys, values and keys asked, in three haystacks.

Paper: RULER (arXiv 2404.06654). Differences: essays are filler prose that does not repeat itself, and the words
of keys are made up. ``single`` stays single, one turn; in the other kinds a further turn asks about further keys.
A single fact keeps off the edges: without ``--depth`` the needle of one turn stands at 12.5 to 87.5 percent of the
context, RULER's at 0 to 100. ``needle_grid`` with ``--depth`` 0 and 100 asks at the edges.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ...models.rendering import Rendering
from ..dialect_rendering import builder
from ..dialect_rendering import solver as dialect_solver
from ..episode import Episode, Request, Turn
from ..task import Fact, Filler, Task, Text, at_most, finish, places
from ..texts.draws import uuids
from ..texts.haystack import needle_builder, noise
from ..texts.prose import sentences
from .made_up import SUITE, keys

__all__ = ["TASKS"]

_DIGITS = 7
_NEEDLE = re.compile(r"One of the special magic \w+ for (\S+) is: (\S+)\.")


@dataclass(frozen=True)
class _Kind:
    """What one of the eight asks for.

    ``least`` keys stand in the context at least, ``asked`` of them belong to a turn, each has ``values``.
    ``turns`` is the most turns of an episode.
    """

    haystack: str
    value: str = "numbers"
    key: str = "words"
    least: int = 1
    asked: int = 1
    values: int = 1
    turns: int | None = None

    @property
    def one(self) -> bool:
        """One value is asked for: RULER words this in the singular."""
        return self.asked * self.values == 1


def _needle(kind: _Kind, key: str, value: str) -> str:
    return f"One of the special magic {kind.value} for {key} is: {value}."


def _numbers(request: Request, stream: str, taken: set[str]) -> Iterator[str]:
    rng = request.rng(stream)
    while True:
        number = str(rng.randrange(10 ** (_DIGITS - 1), 10**_DIGITS))
        if number not in taken:
            taken.add(number)
            yield number


def _natural(request: Request, kind: _Kind) -> Episode:
    request = request if kind.turns is None else at_most(request, kind.turns)
    names, numbers = set[str](), set[str]()

    def drawn(stream: str) -> tuple[Iterator[str], Iterator[str]]:
        """Keys and values that nobody has."""
        rng = request.rng(f"{stream} keys")
        values = uuids(request.rng(f"{stream} values"))
        return (
            uuids(rng) if kind.key == "uuids" else keys(rng, names),
            values if kind.value == "uuids" else _numbers(request, f"{stream} values", numbers),
        )

    key, value = drawn("facts")
    placing = request.rng("placement")
    facts, turns = list[Fact](), list[Turn]()
    for t in range(request.turns):
        names_of_turn = list(itertools.islice(key, kind.asked))
        golds = list(itertools.islice(value, kind.asked * kind.values))
        # the values of one key stand in the order in which the answer lists them
        at = places(request, t, len(golds), placing)
        owners = [name for name in names_of_turn for _ in range(kind.values)]
        if kind.asked > 1:
            placing.shuffle(at)
        facts += [Fact(d, _needle(kind, k, v), t) for d, k, v in zip(at, owners, golds, strict=True)]
        question, opening = _question(kind, names_of_turn)
        turns.append(Turn(question, ", ".join(golds), (), tuple(golds), opening=opening))
    others = kind.least - request.turns * kind.asked
    facts += [Fact(placing.random(), _needle(kind, next(key), next(value))) for _ in range(others)]
    head = _head(kind)
    joint = " " if kind.haystack in ("essay", "noise") else "\n"
    pieces = _haystack(request, kind, *drawn("filler"))
    return finish(request, Text(Filler(pieces), facts, joint, head, instruction=head), turns)


def _haystack(request: Request, kind: _Kind, key: Iterator[str], value: Iterator[str]) -> Iterator[str]:
    if kind.haystack == "noise":
        return noise()
    if kind.haystack == "essay":
        return sentences(request.rng("filler"))
    return (_needle(kind, k, v) for k, v in zip(key, value, strict=False))


def _head(kind: _Kind) -> str:
    what = kind.value[:-1] if kind.one else kind.value
    begin = f"A special magic {what} is" if kind.one else f"Some special magic {what} are"
    return (
        f"{begin} hidden within the following text. Make sure to memorize it. "
        f"I will quiz you about the {what} afterwards.\n\n"
    )


def _question(kind: _Kind, names: list[str]) -> tuple[str, str]:
    """The question, and what the answer begins with."""
    about = names[0] if len(names) == 1 else ", ".join(names[:-1]) + ", and " + names[-1]
    if kind.one:
        subject = f"special magic {kind.value[:-1]} for {about} mentioned in the provided text"
        return f"What is the {subject}?", f"The {subject} is"
    subject = f"special magic {kind.value} for {about} mentioned in the provided text"
    return f"What are all the {subject}?", f"The {subject} are"


def _solve(context: str, question: str) -> str:
    (about,) = re.findall(r" for (.+) mentioned ", question)
    found: dict[str, list[str]] = {name: [] for name in re.split(r", and |, ", about)}
    for key, value in _NEEDLE.findall(context):
        if key in found:
            found[key].append(value)
    counts = {len(values) for values in found.values()}
    if len(counts) != 1 or 0 in counts or (question.startswith("What is ") and counts != {1}):
        raise ValueError(f"{about} have {sorted(counts)} values")
    return ", ".join(value for values in found.values() for value in values)


_KINDS = {
    "single_1": _Kind("noise", turns=1),
    "single_2": _Kind("essay", turns=1),
    "single_3": _Kind("essay", value="uuids", turns=1),
    "multikey_1": _Kind("essay", least=4),
    "multikey_2": _Kind("needles"),
    "multikey_3": _Kind("needles", value="uuids", key="uuids"),
    "multivalue": _Kind("essay", values=4),
    "multiquery": _Kind("essay", asked=4),
}
_ABOUT = {
    "single_1": "one number in repeated noise",
    "single_2": "one number in prose",
    "single_3": "one UUID in prose",
    "multikey_1": "one of several keys in prose",
    "multikey_2": "one key among nothing but needles (dialect: key-value look-up)",
    "multikey_3": "one UUID key among nothing but needles with UUIDs",
    "multivalue": "all four values of a key, in prose",
    "multiquery": "the values of four keys, in prose",
}
_DIALECT = {
    "single_1": (needle_builder(repeated=True, turns=1), "fact"),
    "single_2": (needle_builder(turns=1), "fact"),
    "multikey_1": (needle_builder(records=4), "fact"),
    "multikey_2": (builder("kv"), "kv"),
}


def _task(name: str) -> Task:
    build: dict[Rendering, Callable[[Request], Episode]] = {"natural": partial(_natural, kind=_KINDS[name])}
    solve: dict[Rendering, Callable[[str, str], str]] = {"natural": _solve}
    if name in _DIALECT:
        build["dialect"], solve["dialect"] = _DIALECT[name][0], dialect_solver(_DIALECT[name][1])
    return Task(
        name=f"ruler_niah_{name}",
        about=f"RULER-like: {_ABOUT[name]}",
        build=build,
        solve=solve,
        chance=lambda rendering, turns: 1e-4 if rendering == "dialect" else 0.0,
        suite=SUITE,
    )


TASKS = tuple(_task(name) for name in _KINDS)
