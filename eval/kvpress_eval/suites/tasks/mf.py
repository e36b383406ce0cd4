"""Finding numbers in a list (Math.Find): extremes, the median, and how many numbers exceed one.

Paper: SCBench (arXiv 2412.10319), after InfiniteBench. Uniform draws would hold every value, and the largest
would give the second largest away. So few values occur, with gaps of random width around those asked about; an
extreme stands one to three times. Filler comes in pairs, one number on either side of the median, and never
beyond what is counted: a longer list keeps its answers. Here the numbers have up to four digits instead of three,
since three leave no room for gaps that cannot be guessed.
"""

from __future__ import annotations

import json
import random
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from ...errors import EpisodeError
from ..episode import Episode, Request, Span, Turn
from ..task import Fact, Filler, Task, Text, depth, finish
from ..texts.release_prompts import HEADS

__all__ = ["TASK"]

_INSTRUCTION = HEADS["mf"]
_GAP = (2, 401)  # from one extreme to the next
_COUNTED = (13, 62)  # numbers above the threshold
_SUPPORT = 60  # values on either side of the median, at most
_ONCE = ", counting equal numbers once"
_RANKED = {
    "largest": ("largest number", ""),
    "second largest": ("second largest number", _ONCE),
    "third largest": ("third largest number", _ONCE),
    "smallest": ("smallest number", ""),
    "second smallest": ("second smallest number", _ONCE),
    "third smallest": ("third smallest number", _ONCE),
}
_KINDS = (*_RANKED, "median", "count")


@dataclass(frozen=True)
class _World:
    """What is true of the list, however long: each statistic's value, and the numbers that make it so."""

    gold: dict[str, int]
    above: int
    fixed: tuple[tuple[str, int], ...]  # kind it belongs to ("" is none), number
    low: tuple[int, ...]
    high: tuple[int, ...]


def _world(rng: random.Random) -> _World:
    largest, smallest = rng.randint(8000, 9999), rng.randint(1, 2000)
    second, third = (largest - (first := rng.randint(*_GAP)), largest - first - rng.randint(*_GAP))
    low_second, low_third = (smallest + (first := rng.randint(*_GAP)), smallest + first + rng.randint(*_GAP))
    ranked = (largest, second, third, smallest, low_second, low_third)
    gold = dict(zip(_RANKED, ranked, strict=True))
    gold["median"] = median = rng.randint(4001, 5999)
    gold["count"] = counted = rng.randint(*_COUNTED)
    above = third - rng.randint(50, 850)
    fixed = [(kind, gold[kind]) for kind in (*_RANKED, "median") for _ in range(rng.randint(1, 3))]
    counts = sum(number > above for _, number in fixed)
    fixed += [("count", rng.randrange(above + 2, third - 1)) for _ in range(counted - counts)]
    low = rng.sample(range(low_third + 2, median - 1), _SUPPORT)
    high = rng.sample(range(median + 2, above - 1), _SUPPORT)
    # as many below the median as above
    missing = counted - sum(number < median for _, number in fixed)
    fixed += [("", rng.choice(low)) for _ in range(missing)]
    fixed += [("", rng.choice(high)) for _ in range(-missing)]
    return _World(gold, above, tuple(fixed), tuple(low), tuple(high))


def _natural(request: Request) -> Episode:
    if request.turns > len(_KINDS):
        raise EpisodeError(f"task 'mf' has at most {len(_KINDS)} turns, got {request.turns}; ask for fewer")
    rng, placing = request.rng("facts"), request.rng("placement")
    world = _world(rng)
    kinds = rng.sample(_KINDS, request.turns)
    facts = [Fact(_place(request, world, kinds, fixed, placing), str(fixed[1])) for fixed in world.fixed]
    turns = [Turn(_question(kind, world.above), str(world.gold[kind]), (), world.gold[kind]) for kind in kinds]
    head = f"{_INSTRUCTION}\n\n["
    text = Text(Filler(_pairs(request.rng("filler"), world)), facts, ", ", head, "]", _INSTRUCTION)
    return finish(request, text, turns, lambda context, t: _evidence(context, kinds[t], world))


def _place(request: Request, world: _World, kinds: list[str], fixed: tuple[str, int], rng: random.Random) -> float:
    """Where a number of the world stands: what is counted is everywhere, unless the request names a depth."""
    kind, number = fixed
    if kind in kinds and kind != "count":
        return depth(request, kinds.index(kind), rng)
    if request.depth is not None and "count" in kinds and number > world.above:
        return request.depth
    return rng.random()


def _pairs(rng: random.Random, world: _World) -> Iterator[str]:
    """Two numbers, one on either side of the median, in random order."""
    while True:
        low, high = rng.choice(world.low), rng.choice(world.high)
        yield f"{low}, {high}" if rng.random() < 0.5 else f"{high}, {low}"


def _question(kind: str, above: int) -> str:
    if kind == "count":
        return (
            f"How many numbers in the list are greater than {above}, counting equal numbers every time?\n\n"
            f"The count of numbers greater than {above} is"
        )
    if kind == "median":
        return (
            "What is the median, the number in the middle when the list is sorted with all its repetitions?\n\n"
            "The median is"
        )
    name, how = _RANKED[kind]
    return f"What is the {name}{how}?\n\nThe {name} in the list is"


def _evidence(context: str, kind: str, world: _World) -> tuple[Span, ...]:
    """Where the numbers stand that make the answer, in their order."""
    wanted = {world.gold[kind]} if kind != "count" else {n for _, n in world.fixed if n > world.above}
    spans: list[Span] = []
    for text in map(str, wanted):
        at = context.find(text)
        while at >= 0:
            end = at + len(text)
            if context[at - 1] in " [" and context[end] in ",]":
                spans.append((at, end))
            at = context.find(text, end)
    return tuple(sorted(spans))


@lru_cache(maxsize=1)
def _sorted(context: str) -> tuple[list[int], list[int]]:
    """The numbers of a context in order, with their repetitions and without."""
    numbers: list[int] = json.loads(context[context.index("[") :])
    return sorted(numbers), sorted(set(numbers))


def _solve(context: str, question: str) -> str:
    numbers, distinct = _sorted(context)
    if found := re.search(r"greater than (\d+)", question):
        return str(len(numbers) - bisect_right(numbers, int(found[1])))
    if "median" in question:
        middle = {numbers[(len(numbers) - 1) // 2], numbers[len(numbers) // 2]}
        if len(middle) > 1:
            raise ValueError("two numbers share the middle")
        return str(middle.pop())
    rank = 1 if "second" in question else 2 if "third" in question else 0
    return str(distinct[-1 - rank if "largest" in question else rank])


def _chance(rendering: str, turns: int) -> float:
    """Mean over the kinds. The gold next to one that the history told is as good as a guess at one gap; one between
    two told is a guess at how their distance was split: at best 2 in 400.
    """
    gap, counted = 2 / (_GAP[1] - _GAP[0] + 1), 1 / (_COUNTED[1] - _COUNTED[0] + 1)
    return (gap * (len(_KINDS) - 1) + counted) / len(_KINDS)


TASK = Task(
    name="mf",
    about="numbers in a list: extremes, the median, how many exceed one",
    build={"natural": _natural},
    solve={"natural": _solve},
    chance=_chance,
)
