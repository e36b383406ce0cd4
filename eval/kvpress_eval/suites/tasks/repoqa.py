"""Code retrieval (Code.RepoQA): repeat the function that a description describes.

Papers: SCBench (arXiv 2412.10319), RepoQA (arXiv 2406.06025). The code is the standard library's own, under
other names and with other constants, as a model knows it by heart; descriptions are read off the syntax tree.
No other function of a context has a description that shares more than 0.7 of its words with the one asked
for, nor code whose BLEU with it, names aside, reaches 0.6. Other Python versions give other episodes (and ids):
the context names the version. A context of more than about 250K tokens holds functions again, under new names.
"""

from __future__ import annotations

import ast
import itertools
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ...errors import EpisodeError
from ...metrics.bleu import sentence_bleu
from ..episode import Episode, Request, Turn
from ..task import Fact, Filler, Task, Text, depth, finish
from ..texts.describe import describe, takes
from ..texts.release_prompts import HEADS
from ..texts.renaming import Function, Source, Words
from ..texts.stdlib_code import shuffled

__all__ = ["JOINT", "TASK", "Needle", "asked", "code", "draw", "found", "head", "stream"]

JOINT = "\n\n\n"  # no function holds an empty line
_DESCRIPTION = "Function Description:\n"
_CUE = "\n\nThe function is:"
_CODE, _SAID = range(120, 361), range(150, 481)  # characters of a needle, and of its description
_NAMES = 4  # own names of a needle, at least
_DECOYS = 5  # other functions that an answer is compared with
_PASS = 1500  # functions until the library begins again under new names
_SAME_WORDS, _SAME_CODE, _KNOWN = 0.7, 0.6, 0.5


@dataclass(frozen=True)
class Needle:
    """A function to be asked about, as it stands in the library and in the context."""

    source: Source
    function: Function

    @property
    def changed(self) -> tuple[str, ...]:
        """Its lines with a constant that the library does not have there."""
        return self.source.changed(self.function)


def draw(request: Request, n: int) -> list[Needle]:
    """``n`` functions from modules of their own, none easily taken for another.

    Raises:
        EpisodeError: where the library has fewer.
    """
    rng, words = request.rng("facts"), Words(request.rng("names"))
    needles: list[Needle] = []
    left = shuffled(rng)
    while len(needles) < n:
        sources = next(left, None)
        if sources is None:
            raise EpisodeError(
                f"task {request.task!r} found {len(needles)} functions to ask about in the standard library, "
                f"needs {n}; ask for fewer turns"
            )
        able = [source for source in sources if _is_able(source) and not _is_taken_for(source, needles)]
        if able:
            source = rng.choice(able)
            needle = Needle(source, source.fill(words))
            text = needle.function.text
            known = sentence_bleu(text.split(), source.original.split())
            if len(text) in _CODE and needle.changed and known < _KNOWN:
                needles.append(needle)
    return needles


def _is_able(source: Source) -> bool:
    return len(source.description) in _SAID and len(source.names) >= _NAMES and bool(source.constants)


def _is_taken_for(source: Source, needles: Sequence[Needle]) -> bool:
    """Whether the description or the code is too near to that of a needle."""
    for needle in needles:
        other = needle.source
        common = len(source.words & other.words)
        if common > _SAME_WORDS * (len(source.words) + len(other.words) - common):
            return True
        # so few shared runs of four cannot make a BLEU of 0.6
        alike = len(source.runs & other.runs) > 0.1 * len(source.runs)
        if alike and sentence_bleu(other.normal.split(), source.normal.split()) >= _SAME_CODE:
            return True
    return False


def code(request: Request, needles: Sequence[Needle]) -> Iterator[Function]:
    """Endless other functions."""
    order = request.rng("order")
    words = Words(request.rng("filler"), [needle.function.name for needle in needles])
    seen: list[Source] = []
    for source in itertools.islice(itertools.chain.from_iterable(shuffled(order)), _PASS):
        if not _is_taken_for(source, needles):
            seen.append(source)
            yield source.fill(words)
    while True:
        order.shuffle(seen)
        for source in seen:
            yield source.fill(words)


def head() -> str:
    """What stands before the code: whose it is."""
    return f"# Python {platform.python_version()}, its library under other names{JOINT}"


def asked(needles: Sequence[Needle], others: Sequence[Function], lead: str = "") -> list[Turn]:
    """One turn per needle, ``lead`` before each question; ``others`` are further functions that an answer is
    compared with.
    """
    pool = [{"name": f.name, "needle": f.text} for f in (*(needle.function for needle in needles), *others)]
    return [
        Turn(
            f"{lead}{_DESCRIPTION}{needle.source.description}{_CUE}",
            f"```\n{needle.function.text}\n```",
            (),
            {"func_name": needle.function.name, "lang": "python", "needles": pool, "lines": needle.changed},
        )
        for needle in needles
    ]


def stream(request: Request, needles: Sequence[Needle]) -> tuple[list[Function], Iterator[Function]]:
    """The functions that answers are also compared with, and all functions beside the needles, these first."""
    functions = code(request, needles)
    first = list(itertools.islice(functions, _DECOYS))
    return first, itertools.chain(first, functions)


def _natural(request: Request) -> Episode:
    needles, placing = draw(request, request.turns), request.rng("placement")
    facts = [Fact(depth(request, t, placing), needle.function.text, t) for t, needle in enumerate(needles)]
    others, functions = stream(request, needles)
    filler = Filler(function.text for function in functions)
    text = Text(filler, facts, JOINT, f"{HEADS['repoqa']}\n\n{head()}", "", HEADS["repoqa"])
    return finish(request, text, asked(needles, others))


def found(context: str, question: str) -> str:
    """The only function of the context with the description that the question gives, in a block.

    Raises:
        ValueError: where it is not the only one.
    """
    said = question.split(_DESCRIPTION)[1].removesuffix(_CUE)
    (given,) = (line.removesuffix(".").split(": ", 1)[1] for line in said.split("\n") if line.startswith("2."))
    matches = [piece for piece in _by_input(context).get(given, ()) if _described(piece) == said]
    if len(matches) != 1:
        raise ValueError(f"the description fits {len(matches)} functions")
    return f"```\n{matches[0]}\n```"


@lru_cache(maxsize=1)
def _by_input(context: str) -> dict[str, list[str]]:
    """The functions of a context, by what they take: that needs their first lines only."""
    pieces: dict[str, list[str]] = {}
    for piece in context.split(JOINT):
        if piece.startswith("def "):
            pieces.setdefault(takes(_parsed(piece.split("\n", 1)[0] + " pass")), []).append(piece)
    return pieces


@lru_cache(maxsize=8192)
def _described(piece: str) -> str:
    return describe(_parsed(piece))


def _parsed(text: str) -> ast.FunctionDef:
    (node,) = ast.parse(text).body
    if not isinstance(node, ast.FunctionDef):
        raise ValueError(f"not a function: {text[:40]!r}")
    return node


TASK = Task(
    name="repoqa",
    about="code retrieval: repeat the function that a description describes",
    build={"natural": _natural},
    solve={"natural": found},
    chance=lambda rendering, turns: 0.0,
)
