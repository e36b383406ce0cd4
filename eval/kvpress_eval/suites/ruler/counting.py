"""Aggregation: common words (cwe) and frequent words (fwe) of a list, one question each.

Paper: RULER (arXiv 2404.06654). Common words stand 30 times among others that stand 3 times; under 4096 tokens 6
times among others that stand once, without the worked example. Frequent words follow a zeta distribution
(alpha 2) of which the most frequent one is printed as dots. Difference: counts of fwe are exact in every 50
words instead of over the whole text, so that a longer text begins like a shorter one.
"""

from __future__ import annotations

import itertools
import random
import re
import string
from collections import Counter
from collections.abc import Iterator

from ..episode import Episode, Request, Span, Turn
from ..task import Fact, Filler, Numbered, Task, Text, at_most, finish, no_depth
from .made_up import SUITE, made_up

__all__ = ["TASKS"]

_EVERYWHERE = "what is counted stands all over the context"
_COMMON = 10  # words asked for
_LONG = 4096  # tokens from which common words stand 30 times, not 6, after a worked example
_GROUP = 20  # other words that are shuffled together
_CWE_HEAD = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n\n"
)
_CWE_QUESTION = f"Question: What are the {_COMMON} most common words in the above list?"
_CWE_OPENING = f"Answer: The top {_COMMON} words that appear most often in the list are:"
_FWE_HEAD = (
    "Read the following coded text and track the frequency of each coded word. "
    "Find the three most frequently appeared coded words.\n\n"
)
_FWE_QUESTION = (
    "Question: Do not provide any explanation. Please ignore the dots '...'. "
    "What are the three most frequently appeared words in the above coded text?"
)
_FWE_OPENING = "Answer: According to the coded text above, the three most frequently appeared words are:"
_DOTS, _BLOCK, _TOP = 30, 50, (8, 4, 3)  # zeta(2) of 50 words: 30.4 dots, then 7.6, 3.4, 1.9 (3: above the others)
_RARE = 200  # the other words, of which a block holds five different ones


def _listed(words: list[str]) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, 1))


def _others(rng: random.Random, words: Iterator[str], times: int) -> Iterator[str]:
    while True:
        group = list(itertools.islice(words, _GROUP)) * times
        rng.shuffle(group)
        yield from group


def _example(rng: random.Random, words: Iterator[str]) -> str:
    """RULER's example: 40 words, ten of them ten times and the others three times."""
    common = sorted(itertools.islice(words, _COMMON))
    shown = common * 10 + list(itertools.islice(words, 30)) * 3
    rng.shuffle(shown)
    return f"{_CWE_HEAD}{_listed(shown)}\n{_CWE_QUESTION} {_CWE_OPENING} {_listed(common)}\n\n"


def _cwe(request: Request) -> Episode:
    no_depth(request, _EVERYWHERE)
    request = at_most(request, 1)
    long, taken = request.length >= _LONG, set[str]()
    common = sorted(itertools.islice(made_up(request.rng("facts"), taken), _COMMON))
    rng, placing = request.rng("filler"), request.rng("placement")
    head = _CWE_HEAD
    if long:
        example = request.rng("example")
        head = _example(example, made_up(example, taken)) + head
    facts = [Fact(placing.random(), word) for word in common for _ in range(30 if long else 6)]
    filler = Filler(_others(rng, made_up(rng, taken), 3 if long else 1))
    turn = Turn(_CWE_QUESTION, _listed(common), (), tuple(common), opening=_CWE_OPENING)
    text = Numbered(filler, facts, " ", head, instruction=head)
    return finish(request, text, [turn], lambda context, _: _spans(context, len(head), common))


def _fwe(request: Request) -> Episode:
    no_depth(request, _EVERYWHERE)
    request = at_most(request, 1)
    rng = request.rng("facts")
    coded: list[str] = []
    while len(coded) < len(_TOP) + _RARE:
        word = "".join(rng.choices(string.ascii_lowercase, k=6))
        if word not in coded:
            coded.append(word)
    words = _coded_words(request.rng("filler"), coded)
    first = " ".join(itertools.islice(words, _BLOCK))  # from one block on the three are ahead
    top = sorted(coded[: len(_TOP)])
    turn = Turn(_FWE_QUESTION, " ".join(top), (), tuple(top), opening=_FWE_OPENING)
    text = Text(Filler(words), [Fact(0.0, first)], " ", _FWE_HEAD, instruction=_FWE_HEAD)
    return finish(request, text, [turn], lambda context, _: _spans(context, len(_FWE_HEAD), top))


def _coded_words(rng: random.Random, coded: list[str]) -> Iterator[str]:
    frequent, rare = coded[: len(_TOP)], coded[len(_TOP) :]
    most = [word for word, times in zip(frequent, _TOP, strict=True) for _ in range(times)]
    weights = [1 / rank**2 for rank in range(len(_TOP) + 1, len(coded) + 1)]
    while True:
        others: set[int] = set()
        while len(others) < _BLOCK - _DOTS - len(most):
            others.add(rng.choices(range(_RARE), weights)[0])
        block = ["..."] * _DOTS + most + [rare[i] for i in sorted(others)]
        rng.shuffle(block)
        yield from block


def _spans(context: str, start: int, words: list[str]) -> tuple[Span, ...]:
    """Everywhere that one of ``words`` stands, after the instruction."""
    pattern = re.compile(rf"\b(?:{'|'.join(words)})\b")
    return tuple(found.span() for found in pattern.finditer(context, start))


def _most_common(words: list[str], n: int) -> list[str]:
    """The ``n`` most common words in alphabetical order."""
    ranked = Counter(words).most_common(n + 1)
    if len(ranked) > n and ranked[n - 1][1] == ranked[n][1]:
        raise ValueError(f"words {n} and {n + 1} are equally common")
    return sorted(word for word, _ in ranked[:n])


def _solve_cwe(context: str, question: str) -> str:
    return _listed(_most_common(re.findall(r"\d+\. (\w+)", context[context.rindex(_CWE_HEAD) :]), _COMMON))


def _solve_fwe(context: str, question: str) -> str:
    words = context[len(_FWE_HEAD) :].split()
    return " ".join(_most_common([word for word in words if word != "..."], len(_TOP)))


TASKS = (
    Task(
        name="ruler_cwe",
        about="RULER-like: the ten most common words of a list: one turn",
        build={"natural": _cwe},
        solve={"natural": _solve_cwe},
        chance=lambda rendering, turns: 0.0,
        suite=SUITE,
    ),
    Task(
        name="ruler_fwe",
        about="RULER-like: the three most frequent words of a coded text: one turn",
        build={"natural": _fwe},
        solve={"natural": _solve_fwe},
        chance=lambda rendering, turns: 0.0,
        suite=SUITE,
    ),
)
