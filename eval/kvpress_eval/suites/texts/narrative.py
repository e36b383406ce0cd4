"""Statements of the world as sentences, sentences as statements, and the episodes made of them.

A language gives every relation at least eight wordings, active and passive. The solver reads them back: it
looks for sentences that hold the name asked about, leaves out what the text denies, and reasons over the rest.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from ..episode import Episode, Request, Turn
from ..task import Fact, Filler, Text, depth, finish
from .world import Names, Statement, Story, kind_of, stories

__all__ = ["Language", "narrative", "solve"]

_PLACES = "abcp"  # what a wording calls the names of a statement


@dataclass(frozen=True, eq=False)
class Language:
    """How a language tells statements.

    Attributes:
        relations: the wordings of each relation, with ``{a}``, ``{b}``, ``{c}``, ``{p}`` for names and ``{t}`` for
            the year, without a capital or a full stop.
        denials: wordings around a statement (``{}``) that say it is false.
        questions: the question of each kind of story, ``{}`` for what it asks about.
        draw: makes a name; ``name`` is the pattern of any.
        year: writes a year; ``digits`` are the ten digits it uses.
        stop: ends a sentence and stands nowhere else; ``joint`` stands between sentences.
        spread: no two names of what is asked about share a character, nor filler one with an answer.
    """

    relations: Mapping[str, tuple[str, ...]]
    denials: tuple[str, ...]
    questions: Mapping[str, str]
    draw: Callable[[random.Random, str], str]
    name: str
    year: Callable[[int], str]
    digits: str
    stop: str
    joint: str
    spread: bool = False

    def say(self, statement: Statement, rng: random.Random) -> str:
        """A sentence, in a wording drawn at random."""
        named = dict(zip(_PLACES, statement.names, strict=False))
        wording = rng.choice(self.relations[statement.relation])
        text = wording.format(t=self.year(statement.year) if statement.year else "", **named)
        if statement.denied:
            text = rng.choice(self.denials).format(text)
        return text[0].upper() + text[1:] + self.stop

    def read(self, sentence: str) -> Statement:
        """The statement that a sentence (without its full stop) makes.

        Raises:
            ValueError: where it makes none.
        """
        for text in _with_either_first_letter(sentence):
            for pattern in self._denials:
                if found := pattern.fullmatch(text):
                    return replace(self._plain(found[1]), denied=True)
        return self._plain(sentence)

    def ask(self, story: Story) -> str:
        return self.questions[story.kind].format(story.asked)

    def asked(self, question: str) -> tuple[str, str]:
        """Kind and name of the question that stands in a text."""
        for kind, wording in self.questions.items():
            if found := re.search(re.escape(wording).replace(r"\{\}", f"({self.name})"), question):
                return kind, found[1]
        raise ValueError(f"no question that is known: {question!r}")

    def _plain(self, sentence: str) -> Statement:
        for text in _with_either_first_letter(sentence):
            for relation, pattern in self._patterns:
                if found := pattern.fullmatch(text):
                    groups = found.groupdict()
                    year = "".join(str(self.digits.index(digit)) for digit in groups.get("t", ""))
                    return Statement(relation, tuple(groups[p] for p in _PLACES if p in groups), int(year or 0))
        raise ValueError(f"no sentence that is known: {sentence!r}")

    @cached_property
    def _patterns(self) -> list[tuple[str, re.Pattern[str]]]:
        parts = {place: f"(?P<{place}>{self.name})" for place in _PLACES}
        parts["t"] = self.year(0).replace(self.digits[0], f"(?P<t>[{self.digits}]+)")
        return [
            (relation, re.compile(wording.format(**parts)))
            for relation, wordings in self.relations.items()
            for wording in wordings
        ]

    @cached_property
    def _denials(self) -> list[re.Pattern[str]]:
        return [re.compile(re.escape(text).replace(r"\{\}", "(.+)")) for text in self.denials]


def _with_either_first_letter(sentence: str) -> tuple[str, str]:
    """Wordings begin with a small letter, or with a name."""
    return sentence, sentence[0].lower() + sentence[1:]


def narrative(request: Request, language: Language, instruction: str, turn: Callable[[int, Story], Turn]) -> Episode:
    """The episode whose turn t is ``turn(t, story)``; the context is ``instruction`` and then the tales."""
    rng, placing = request.rng("facts"), request.rng("placement")
    names = Names(language.draw, rng, spread=language.spread)
    asked = [kind_of(request.session, t)(rng, names) for t in range(request.turns)]
    facts = []
    for t, story in enumerate(asked):
        facts += [Fact(depth(request, t, placing), language.say(s, rng), t) for s in story.needed]
        facts += [Fact(placing.random(), language.say(s, rng)) for s in story.others]
    golds = {character for story in asked for character in story.gold} if language.spread else None
    telling = request.rng("filler")
    others = Names(language.draw, telling, names.taken, golds)
    filler = Filler(language.say(s, telling) for s in stories(telling, others))
    text = Text(filler, facts, language.joint, instruction, instruction=instruction, uneven=True)
    return finish(request, text, [turn(t, story) for t, story in enumerate(asked)])


def solve(language: Language, context: str, question: str) -> str:
    """The one name that answers the question.

    Raises:
        ValueError: where the context holds no answer, or more than one.
    """
    kind, name = language.asked(question)

    def known(about: str, relation: str) -> list[Statement]:
        """What the text says is true; ``about`` is one of its names."""
        told = [language.read(sentence) for sentence in _mentions(context, about, language.stop)]
        return [s for s in told if s.relation == relation and not s.denied]

    found = _ANSWERS[kind](known, name)
    if len(found) != 1:
        raise ValueError(f"{question!r} has {len(found)} answers")
    return found[0]


def _mentions(context: str, name: str, stop: str) -> Iterator[str]:
    at = context.find(name)
    while at >= 0:
        end = context.index(stop, at)
        yield context[context.rfind(stop, 0, at) + 1 : end].strip()
        at = context.find(name, end)


_Known = Callable[[str, str], list[Statement]]


def _horse(known: _Known, x: str) -> list[str]:
    return [s.names[1] for s in known(x, "owns") if s.names[0] == x]


def _mentor_home(known: _Known, x: str) -> list[str]:
    mentors = [s.names[1] for s in known(x, "mentor") if s.names[0] == x]
    return [s.names[1] for mentor in mentors for s in known(mentor, "home") if s.names[0] == mentor]


def _last_home(known: _Known, x: str) -> list[str]:
    moves = [s for s in known(x, "moved") if s.names[0] == x]
    last = max((s.year for s in moves), default=0)
    return [s.names[1] for s in moves if s.year == last]


def _arrived(extreme: Callable[..., int]) -> Callable[[_Known, str], list[str]]:
    def answer(known: _Known, harbour: str) -> list[str]:
        arrivals = [s for s in known(harbour, "arrived") if s.names[1] == harbour]
        year = extreme((s.year for s in arrivals), default=0)
        return [s.names[0] for s in arrivals if s.year == year]

    return answer


def _absent(known: _Known, feast: str) -> list[str]:
    came = {s.names[0] for s in known(feast, "attended") if s.names[1] == feast}
    invited = [who for s in known(feast, "invited") if s.names[3] == feast for who in s.names[:3]]
    return [who for who in invited if who not in came]


_ANSWERS: dict[str, Callable[[_Known, str], list[str]]] = {
    "horse": _horse,
    "mentor_home": _mentor_home,
    "last_home": _last_home,
    "first_arrival": _arrived(min),
    "last_arrival": _arrived(max),
    "absent": _absent,
}
