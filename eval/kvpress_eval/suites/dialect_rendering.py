"""The dialect rendering of most tasks that have one: documents full of records in the bundled model's language, and the
solvers of all (see ``haystack`` for documents of a few).

The bundled model reads one answer form per kind and ends it with ``;``. Two differences to the
natural rendering: it learnt prefix look-up only (no suffixes), and documents of different lengths
do not share their records. A document of several kinds asks about them in turn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

from ..errors import EpisodeError, TooShortError
from ..models.bundled import dialect
from ..models.bundled.words import CONSONANTS, NUMBERS
from .episode import Episode, Request, Span, Turn
from .task import no_depth

__all__ = ["STOP", "builder", "solver"]

STOP = ";"
# longest answer of a kind, its end included, and longest question
_ANSWER = {"kv": 6, "fact": 6, "prefix": 8, "trace": 14, "label": 3}
_QUESTION = {"kv": 6, "fact": 6, "prefix": 5, "trace": 7, "label": 4}
_DRAWS = 50


def builder(*kinds: str, filler: float = 0.0, names: Sequence[str] = ("",)) -> Callable[[Request], Episode]:
    """An episode generator over documents of these ``kinds``, ``filler`` of them filler words.

    ``names`` are the sub-tasks of a mix, one per kind. Its turns ask about one kind after the other; which comes
    first changes from session to session.
    """
    return partial(_build, kinds=kinds, filler=filler, names=names)


def _build(request: Request, kinds: Sequence[str], filler: float, names: Sequence[str]) -> Episode:
    no_depth(request, "the bundled model's documents of this task come with their records in place")
    asked = [kinds[(request.session + t) % len(kinds)] for t in range(request.turns)]
    # + 1: the end of an answer, which is fed with the next question
    taken = sum(_QUESTION[kind] + _ANSWER[kind] + 1 for kind in asked)
    room = request.length - taken
    if request.bare or room < 32:
        raise TooShortError(request.task, request.turns, taken + 32, request.length)
    for draw in range(_DRAWS):
        doc = dialect.document(request.rng(f"document {draw}"), room, kinds, filler)
        chosen = _choose(doc, request, request.rng(f"questions {draw}"), asked)
        if chosen:
            context, starts = _text(doc.tokens[1:])
            named = dict(zip(kinds, names, strict=True))
            turns = tuple(_turn(question, starts, named[question.task]) for question in chosen)
            return request.episode(context, turns, max(_ANSWER[kind] for kind in kinds))
    raise EpisodeError(
        f"task {request.task!r} found no {request.turns} independent questions at length "
        f"{request.length}; ask for fewer turns or a greater length"
    )


def _choose(
    doc: dialect.Document, request: Request, rng: random.Random, asked: Sequence[str]
) -> list[dialect.Question]:
    """One question per turn, of the kind asked, each from its part of the document, no two with a record (chain,
    class) in common.
    """
    fits = [q for q in doc.questions if len(q.prompt) <= _QUESTION[q.task] and len(q.answer) <= _ANSWER[q.task]]
    hops = [q for q in fits if q.task != "trace" or len(q.evidence) > 1]
    free = hops if len({q.evidence[0] for q in hops}) >= 2 * request.turns else fits
    chosen: list[dialect.Question] = []
    for stratum, kind in zip(request.strata(), asked, strict=True):
        able = [q for q in free if q.task == kind]
        if not able:
            return []
        middle = (stratum + 0.5) / request.turns
        near = [q for q in able if abs(_depth(q, doc) - middle) <= 0.375 / request.turns]
        # else the nearest; a label is demonstrated everywhere, so any is near
        pick = rng.choice(near or [min(able, key=lambda q: abs(_depth(q, doc) - middle))])
        chosen.append(pick)
        # chains are told apart by their first record, classes by all of theirs
        free = [q for q in free if q.evidence[0] != pick.evidence[0]]
    return chosen


def _depth(question: dialect.Question, doc: dialect.Document) -> float:
    return sum(start for start, _ in question.evidence) / len(question.evidence) / len(doc.tokens)


def _text(words: Sequence[str]) -> tuple[str, list[int]]:
    """Words joined by spaces, and the offset of each (with one more for the end)."""
    starts, at = [], 0
    for word in words:
        starts.append(at)
        at += len(word) + 1
    return " ".join(words), [*starts, at]


def _turn(question: dialect.Question, starts: Sequence[int], name: str) -> Turn:
    # document index 0 is <bos>, which the text does not hold
    spans: tuple[Span, ...] = tuple((starts[a - 1], starts[b - 1] - 1) for a, b in question.evidence)
    most = _ANSWER[question.task] if name else 0
    return Turn(" ".join(question.prompt), " ".join(question.answer), spans, task=name, max_new_tokens=most)


def solver(*kinds: str) -> Callable[[str, str], str]:
    """Answers a question of one of the ``kinds`` from the words of the context alone."""
    if len(kinds) == 1:
        return _SOLVERS[kinds[0]]
    return lambda context, question: _SOLVERS[_kind(question.split())](context, question)


def _kind(question: list[str]) -> str:
    """The kind of a question, from its form."""
    if question[-1] == "->":
        return "label"
    return {"pre": "prefix", "trace": "trace"}.get(question[1], "kv")


def _after(words: list[str], pattern: list[str], starts: Sequence[str] = (STOP, ".")) -> list[str]:
    """The words between the only record that begins with ``pattern`` and its ``;``."""
    n = len(pattern)
    found = [i + n for i in range(len(words) - n) if words[i : i + n] == pattern and (i == 0 or words[i - 1] in starts)]
    if len(found) != 1:
        raise ValueError(f"{' '.join(pattern)!r} stands {len(found)} times")
    return words[found[0] : words.index(STOP, found[0]) + 1]


def _solve_kv(context: str, question: str) -> str:
    return " ".join(_after(context.split(), question.split()[1:]))


def _solve_prefix(context: str, question: str) -> str:
    return " ".join(_after(context.split(), ["str", *question.split()[2:-1]]))


def _solve_trace(context: str, question: str) -> str:
    words, answer = context.split(), list[str]()
    name = question.split()[2:]  # with its "="
    while True:
        value = _after(words, ["let", *name])
        if value[0] in NUMBERS:
            return " ".join([*answer, *value])
        name = [*value[:-1], "="]
        answer += name


def _solve_label(context: str, question: str) -> str:
    words = context.split()
    target = _class(question.split()[2])
    labels = {words[i + 1] for i, word in enumerate(words) if word == "->" and _class(words[i - 1]) == target}
    if len(labels) != 1:
        raise ValueError(f"class {target!r} has {len(labels)} labels")
    return f"{labels.pop()} {STOP}"


def _class(syllable: str) -> str:
    if syllable[:-1] not in CONSONANTS:
        raise ValueError(f"{syllable!r} is no syllable")
    return syllable[:-1]


_SOLVERS: dict[str, Callable[[str, str], str]] = {
    "kv": _solve_kv,
    "fact": _solve_kv,
    "prefix": _solve_prefix,
    "trace": _solve_trace,
    "label": _solve_label,
}
