"""A small world: people, places and horses, what is true of them, and what can be asked.

A story is what one question needs: the statements that answer it, and statements that mislead
(the same relation of others, values that no longer hold, rumours that the text denies). Filler is made of
stories that nobody asks about, told in the same words: nothing but the names tells them apart.
No language here: see ``narrative`` for how statements become sentences and back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["KINDS", "Names", "Statement", "Story", "kind_of", "stories"]

_YEARS = range(1100, 1900)


@dataclass(frozen=True)
class Statement:
    """One fact: a relation, the names it holds between, and a year where it has one (else 0).

    A ``denied`` statement is told as a rumour that is false.
    """

    relation: str
    names: tuple[str, ...]
    year: int = 0
    denied: bool = False


@dataclass(frozen=True)
class Story:
    """A question about ``asked`` and its answer ``gold``.

    ``needed`` are the statements that answer it, ``others`` mislead. ``decoys`` are three names of the gold's
    type that these statements hold.
    """

    kind: str
    asked: str
    gold: str
    decoys: tuple[str, str, str]
    needed: tuple[Statement, ...]
    others: tuple[Statement, ...]


class Names:
    """Draws names that nobody has. ``draw(rng, what)`` makes one, ``what`` being "person" or "thing".

    Names hold no character of ``barred``; with ``spread`` no two names share a character.
    """

    def __init__(
        self,
        draw: Callable[[random.Random, str], str],
        rng: random.Random,
        taken: set[str] | None = None,
        barred: set[str] | None = None,
        spread: bool = False,
    ) -> None:
        self._draw, self._rng, self._spread = draw, rng, spread
        self.taken, self._barred = set(taken or ()), set(barred or ())

    def new(self, what: str) -> str:
        while True:
            name = self._draw(self._rng, what)
            if name not in self.taken and self._barred.isdisjoint(name):
                self.taken.add(name)
                if self._spread:
                    self._barred.update(name)
                return name

    def people(self, n: int) -> list[str]:
        return [self.new("person") for _ in range(n)]

    def things(self, n: int) -> list[str]:
        return [self.new("thing") for _ in range(n)]


def _horse(rng: random.Random, names: Names) -> Story:
    """One hop: the horse of a person."""
    x, y, z = names.people(3)
    gold, rumoured, other, third = names.things(4)
    needed = (Statement("owns", (x, gold)),)
    others = (
        Statement("owns", (x, rumoured), denied=True),
        Statement("owns", (y, other)),
        Statement("owns", (z, third)),
    )
    return Story("horse", x, gold, (rumoured, other, third), needed, others)


def _mentor_home(rng: random.Random, names: Names) -> Story:
    """Two hops: where a person's mentor lives. The rumoured mentor lives somewhere too."""
    x, mentor, rumoured = names.people(3)
    gold, own, other, denied = names.things(4)
    needed = (Statement("mentor", (x, mentor)), Statement("home", (mentor, gold)))
    others = (
        Statement("home", (x, own)),
        Statement("mentor", (x, rumoured), denied=True),
        Statement("home", (rumoured, other)),
        Statement("home", (mentor, denied), denied=True),
    )
    return Story("mentor_home", x, gold, (own, other, denied), needed, others)


def _last_home(rng: random.Random, names: Names) -> Story:
    """Latest state: the years tell, the order in the text does not. A rumour is later still."""
    x = names.new("person")
    first, second, gold, rumoured = names.things(4)
    years = sorted(rng.sample(_YEARS, 4))
    moves = [Statement("moved", (x, place), year) for place, year in zip((first, second, gold), years, strict=False)]
    rumour = Statement("moved", (x, rumoured), years[3], denied=True)
    return Story("last_home", x, gold, (first, second, rumoured), tuple(moves), (rumour,))


def _arrival(rng: random.Random, names: Names) -> Story:
    """Comparison: who came first, or last, of three; a rumour goes beyond them."""
    harbour = names.new("thing")
    people = names.people(4)
    years = sorted(rng.sample(_YEARS, 4), reverse=rng.random() < 0.5)
    kind = "first_arrival" if years[0] < years[1] else "last_arrival"
    told = [Statement("arrived", (who, harbour), year) for who, year in zip(people[1:], years[1:], strict=True)]
    rumour = Statement("arrived", (people[0], harbour), years[0], denied=True)
    return Story(kind, harbour, people[1], (people[0], people[2], people[3]), tuple(told), (rumour,))


def _absent(rng: random.Random, names: Names) -> Story:
    """Who was not: of three invited, two came; the third was at another feast."""
    feast, elsewhere = names.things(2)
    gold, one, two, uninvited = names.people(4)
    invited = rng.sample((gold, one, two), 3)
    needed = (
        Statement("invited", (*invited, feast)),
        Statement("attended", (one, feast)),
        Statement("attended", (two, feast)),
    )
    others = (
        Statement("attended", (uninvited, feast)),
        Statement("attended", (gold, elsewhere)),
        Statement("attended", (gold, feast), denied=True),
    )
    return Story("absent", feast, gold, (one, two, uninvited), needed, others)


KINDS: tuple[Callable[[random.Random, Names], Story], ...] = (_horse, _mentor_home, _last_home, _arrival, _absent)


def kind_of(session: int, turn: int) -> Callable[[random.Random, Names], Story]:
    """What a turn asks: every kind at every turn over five sessions, and, with five turns, in every part
    of the context (twice the session, where ``Request.strata`` has it once: a Graeco-Latin square).
    """
    return KINDS[(2 * session + turn) % len(KINDS)]


def stories(rng: random.Random, names: Names, open_at_once: int = 8) -> Iterator[Statement]:
    """Endless statements of stories that nobody asks about, several of them told at the same time."""
    running: list[list[Statement]] = []
    while True:
        while len(running) < open_at_once:
            story = rng.choice(KINDS)(rng, names)
            told = [*story.needed, *story.others]
            rng.shuffle(told)
            running.append(told)
        chosen = rng.randrange(open_at_once)
        yield running[chosen].pop()
        if not running[chosen]:
            del running[chosen]
