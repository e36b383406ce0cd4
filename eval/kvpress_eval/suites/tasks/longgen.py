"""Long output: many word problems, all answered in one generation.

After LongGenBench (Liu et al., as used by SCOPE): worked examples, then 60 numbered problems, 30 where 60 do
not fit, as many as fit where 30 do not. Problems are made from templates; some need the price list that stands
before the examples. One turn; what a longer context has more of is examples. Differences: examples have numbers
of their own, so that the problems keep theirs, and the answers are drawn first, evenly from 100 to 999.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator

from ...errors import EpisodeError
from ..episode import Episode, Request, Span, Turn
from ..task import Fact, Filler, Numbered, Task, at_most, finish, no_depth, words

__all__ = ["TASK"]

_SIZES = (60, *range(30, 1, -1))  # problems: the first that fits
_EXAMPLES = 2  # that even the shortest context holds
_INSTRUCTION = (
    "Answer each question step by step, as in the examples. Begin each answer on a line of its own with 'Answer_' "
    "and the number of the question, and end it with 'The answer is' and a whole number. Leave no question out.\n\n"
)
_ANSWERS = range(100, 1000)
_NAMES = words("Ada Bruno Clara Dario Edith Felix Greta Hugo Irma Jonas Karin Lorenz Marta Nils Olga Pavel Rosa Sven")
_THINGS = words("apples beads buttons cards coins eggs marbles nails pears pebbles plums shells stamps tickets")
_GOODS = words("anchor basket candle drum flute hammer jug kettle ladder lamp mirror rope saddle scarf shovel whistle")
_PRICES = re.compile(r"^Prices in francs: (.+)\.$", re.MULTILINE)
_ASKED = re.compile(r"^Question_(\d+): (.+)$", re.MULTILINE)
_MOVED = "{} has {} {}, gets {} more from {} and gives {} to {}. How many {} does {} have now?"
_PACKED = "{} packs {} boxes of {} {} each and has {} left over. How many {} are there in all?"
_BOUGHT = "{} has {} francs and buys {} of the article {}. How many francs are left?"
_Prices = dict[str, int]


def _problem(rng: random.Random, prices: _Prices) -> str:
    answer, (a, b, c), things = rng.choice(_ANSWERS), rng.sample(_NAMES, 3), rng.choice(_THINGS)
    kind = rng.randrange(3)
    if kind == 0:
        got, given = rng.randrange(3, 90), rng.randrange(3, 90)
        return _MOVED.format(a, answer - got + given, things, got, b, given, c, things, a)
    if kind == 1:
        each = rng.randrange(3, 10)
        left = answer % each + each * rng.randrange(3)
        return _PACKED.format(a, (answer - left) // each, each, things, left, things)
    article, bought = rng.choice(_GOODS), rng.randrange(2, 10)
    return _BOUGHT.format(a, answer + bought * prices[article], bought, article)


def _worked(problem: str, prices: _Prices) -> str:
    """The steps and the answer of a problem."""
    numbers = [int(number) for number in re.findall(r"\d+", problem)]
    if "packs" in problem:
        boxes, each, left = numbers
        middle, answer = boxes * each, boxes * each + left
        steps = f"{boxes} * {each} = {middle} and {middle} + {left}"
    elif "buys" in problem:
        francs, bought = numbers
        price = prices[problem.split("article ")[1].split(".")[0]]
        middle, answer = bought * price, francs - bought * price
        steps = f"{bought} * {price} = {middle} and {francs} - {middle}"
    else:
        had, got, given = numbers
        middle, answer = had + got, had + got - given
        steps = f"{had} + {got} = {middle} and {middle} - {given}"
    return f"{steps} = {answer}. The answer is {answer}."


def _examples(rng: random.Random, prices: _Prices) -> Iterator[str]:
    while True:
        problem = _problem(rng, prices)
        yield f"Question: {problem}\nAnswer: {_worked(problem, prices)}"


def _natural(request: Request) -> Episode:
    no_depth(request, "the prices stand before the examples, the problems after them")
    request = at_most(request, 1)
    for size in _SIZES[:-1]:
        try:
            return _episode(request, size)
        except EpisodeError:
            continue
    return _episode(request, _SIZES[-1])


def _episode(request: Request, size: int) -> Episode:
    rng = request.rng("facts")
    prices = {article: rng.randrange(3, 30) for article in _GOODS}
    problems = [_problem(rng, prices) for _ in range(size)]
    worked = [_worked(problem, prices) for problem in problems]
    examples = _examples(request.rng("filler"), prices)
    facts = [Fact(0.0, text) for text in itertools.islice(examples, _EXAMPLES)]
    listing = ", ".join(f"{article} {price}" for article, price in prices.items())
    head = f"{_INSTRUCTION}Prices in francs: {listing}.\n\nExamples\n\n"
    asked = "\n\n".join(f"Question_{i}: {problem}" for i, problem in enumerate(problems, 1))
    turn = Turn(
        f"Answer Question_1 to Question_{size}, all of them, in this order.",
        "\n".join(f"Answer_{i}: {text}" for i, text in enumerate(worked, 1)),
        (),
        tuple(text.split()[-1].strip(".") for text in worked),
    )
    foot = f"\n\nQuestions\n\n{asked}"
    text = Numbered(Filler(examples), facts, "\n\n", head, foot, _INSTRUCTION, label="Example {}\n")
    return finish(request, text, [turn], lambda context, _: _evidence(context))


def _evidence(context: str) -> tuple[Span, ...]:
    """The price list and every problem."""
    return tuple(found.span() for pattern in (_PRICES, _ASKED) for found in pattern.finditer(context))


def _solve(context: str, question: str) -> str:
    (listing,) = _PRICES.findall(context)
    prices = {article: int(price) for article, price in re.findall(r"(\w+) (\d+)", listing)}
    problems = {int(number): text for number, text in _ASKED.findall(context)}
    first, last = map(int, re.findall(r"Question_(\d+)", question))
    return "\n".join(f"Answer_{i}: {_worked(problems[i], prices)}" for i in range(first, last + 1))


TASK = Task(
    name="longgen",
    about="many word problems answered in one generation: one turn",
    build={"natural": _natural},
    solve={"natural": _solve},
    chance=lambda rendering, turns: 1 / len(_ANSWERS),
    suite="longgen",
)
