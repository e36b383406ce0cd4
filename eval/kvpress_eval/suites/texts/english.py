"""The world in English, with made-up names: eight letters, a pair of consonants in the middle that no English
word has, no first letter from A to D (which a scorer might take for an option).
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from ..task import words
from .narrative import Language

__all__ = ["ENGLISH", "NAME", "draw"]

NAME = "[F-Z][a-z]{7}"
_FIRST = "FGHJKLMNPRSTVWZ"
_VOWELS = "aeiou"
_PAIRS = words("vk zd lz mv rz gv kz tv pz fv zg vn zr mz kv zf")
_MIDDLE = "dfgklmnprstvz"
_LAST = "klmnrstx"
_PARTS = (_FIRST, _VOWELS, _PAIRS, _VOWELS, _MIDDLE, _VOWELS, _LAST)
_SIZE = 1
for _part in _PARTS:
    _SIZE *= len(_part)


def draw(rng: random.Random, what: str = "") -> str:
    """One of 3 million names."""
    n, letters = rng.randrange(_SIZE), list[str]()
    for part in _PARTS:
        n, i = divmod(n, len(part))
        letters.append(part[i])
    return "".join(letters)


_RELATIONS: Mapping[str, tuple[str, ...]] = {
    "owns": (
        "{a} owns the horse {b}",
        "the horse {b} is owned by {a}",
        "the horse {b} belongs to {a}",
        "the owner of the horse {b} is {a}",
        "the horse that {a} owns is {b}",
        "{a} has a horse by the name of {b}",
        "it is {a} who owns the horse {b}",
        "in the stable of {a} stands the horse {b}",
    ),
    "mentor": (
        "{a} learned the trade from {b}",
        "{b} taught {a} the trade",
        "{a} was taught the trade by {b}",
        "it was {b} who taught {a} the trade",
        "{b} took {a} on as a pupil",
        "{a} was the pupil of {b}",
        "the mentor of {a} was {b}",
        "as a pupil, {a} was trained by {b}",
    ),
    "home": (
        "{a} lives in {b}",
        "the home of {a} is in {b}",
        "{b} is where {a} lives",
        "{b} has long been the home of {a}",
        "in {b} stands the house of {a}",
        "{a} dwells in {b}",
        "it is in {b} that {a} lives",
        "the house of {a} stands in {b}",
    ),
    "moved": (
        "in {t} {a} moved to {b}",
        "{a} moved to {b} in {t}",
        "{b} became the home of {a} in {t}",
        "in {t} the household of {a} was moved to {b}",
        "it was in {t} that {a} moved to {b}",
        "{a} settled in {b} in {t}",
        "the year {t} saw {a} move to {b}",
        "the move of {a} to {b} took place in {t}",
    ),
    "arrived": (
        "{a} reached the harbour of {b} in {t}",
        "in {t} {a} reached the harbour of {b}",
        "the harbour of {b} was reached by {a} in {t}",
        "in {t} the harbour of {b} was reached by {a}",
        "{a} sailed into the harbour of {b} in {t}",
        "it was in {t} that {a} reached the harbour of {b}",
        "the year {t} saw {a} reach the harbour of {b}",
        "the harbour of {b} welcomed {a} in {t}",
    ),
    "invited": (
        "{a}, {b} and {c} were invited to the feast in {p}",
        "to the feast in {p}, {a}, {b} and {c} were invited",
        "the feast in {p} had three invited guests: {a}, {b} and {c}",
        "invitations to the feast in {p} went to {a}, {b} and {c}",
        "{a}, {b} and {c} received invitations to the feast in {p}",
        "those invited to the feast in {p} were {a}, {b} and {c}",
        "for the feast in {p}, invitations were sent to {a}, {b} and {c}",
        "it was {a}, {b} and {c} who were invited to the feast in {p}",
    ),
    "attended": (
        "{a} attended the feast in {b}",
        "the feast in {b} was attended by {a}",
        "{a} was present at the feast in {b}",
        "at the feast in {b}, {a} was seen",
        "among those present at the feast in {b} was {a}",
        "{a} came to the feast in {b}",
        "the feast in {b} was joined by {a}",
        "at the feast in {b} sat {a}",
    ),
}

ENGLISH = Language(
    relations=_RELATIONS,
    denials=(
        "it was rumoured that {}, but that was false",
        "the rumour that {} was false",
        "some claimed that {}, which was untrue",
        "it is not true that {}",
        "it is a mistake to think that {}",
        "the story that {} was invented",
        "a false report had it that {}",
        "that {} is a lie",
    ),
    questions={
        "horse": "What is the name of the horse that {} owns?",
        "mentor_home": "Where does the mentor of {} live?",
        "last_home": "Where did {} move last?",
        "first_arrival": "Who was the first to reach the harbour of {}?",
        "last_arrival": "Who was the last to reach the harbour of {}?",
        "absent": "Who was invited to the feast in {} but was not there?",
    },
    draw=draw,
    name=NAME,
    year=str,
    digits="0123456789",
    stop=".",
    joint=" ",
)
