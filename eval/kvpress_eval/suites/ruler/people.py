"""A small world for questions about documents: people with a trade, a teacher and towns, a document each.

Every person's teacher is a person too, so that two documents answer what one does not. Names are made up; each
fact has several wordings, of which no other fact has one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..task import words
from .made_up import made_up

__all__ = ["FACTS", "Person", "people", "read"]

FACTS = ("birth", "home", "teacher")
_NAME = "[A-Z][a-z]+"
_WORDINGS = {
    "birth": (
        "{who} was born in {what}.",
        "The birthplace of {who} is {what}.",
        "{what} is where {who} was born.",
    ),
    "home": (
        "Today {who} lives in {what}.",
        "{who} has since settled in {what}.",
        "The present home of {who} is {what}.",
    ),
    "teacher": (
        "{who} learned the trade from {what}.",
        "{what} was the teacher of {who}.",
        "As an apprentice, {who} worked under {what}.",
    ),
}
_ASIDES = (
    "For {n} years {who} kept a workshop in {what}.",
    "A fire in {what} destroyed much of the work of {who} in {y}.",
    "In {y} a journey took {who} to {what}.",
    "The letters of {who} from {y} are kept in {what}.",
    "A street in {what} has borne the name of {who} since {y}.",
    "{who} turned down an offer from {what} in {y}.",
)
_TRADES = words(
    "clockmaker painter botanist engraver bookbinder glassblower astronomer composer potter cartographer goldsmith "
    "shipwright weaver printer sculptor organist"
)


@dataclass(frozen=True)
class Person:
    """A person's name, document and facts (``teacher`` is a name, the others are towns)."""

    name: str
    text: str
    facts: dict[str, str]


def _document(rng: random.Random, name: str, facts: dict[str, str], towns: Iterator[str]) -> str:
    said = [rng.choice(_WORDINGS[kind]).format(who=name, what=what) for kind, what in facts.items()]
    for aside in rng.sample(_ASIDES, 3):
        said.append(aside.format(who=name, what=next(towns), n=rng.randrange(2, 40), y=rng.randrange(1500, 1950)))
    rng.shuffle(said)
    return f"{name}\n{name} is a {rng.choice(_TRADES)}. " + " ".join(said)


def people(rng: random.Random, taken: set[str]) -> Iterator[Person]:
    """Endless people; each one is taught by the next."""
    names = (word.capitalize() for word in made_up(rng, taken))
    name = next(names)
    while True:
        teacher = next(names)
        facts = {"birth": next(names), "home": next(names), "teacher": teacher}
        yield Person(name, _document(rng, name, facts, names), facts)
        name = teacher


def read(context: str, kind: str, name: str) -> tuple[str, int]:
    """What the documents say, and where the sentence begins.

    Raises:
        ValueError: unless exactly one sentence says it.
    """
    found = []
    for wording in _WORDINGS[kind]:
        pattern = re.escape(wording).replace(r"\{who\}", name).replace(r"\{what\}", f"({_NAME})")
        found += [(match[1], match.start()) for match in re.finditer(pattern, context)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} sentences say the {kind} of {name}")
    return found[0]
