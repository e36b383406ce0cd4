"""RULER and LongGenBench, each with its own rule and the corrected one."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .answer_reading import first_number, option
from .golds import Gold, golds
from .text import contains_words

__all__ = [
    "longgen_by_index",
    "longgen_positional",
    "match_all",
    "match_all_words",
    "match_part",
    "match_part_words",
]

# as SCOPE reads it: integers without separators, or an option
_HEAD = re.compile(r"Answer_[0-9]+:")
_STATED = re.compile(r"answer is (?:([0-9]+)|\(?([A-Z])\)?)")
_PRINTED = re.compile(r"\bAnswer[ _]*([0-9]+)\s*[:.)]", re.IGNORECASE)


def match_all(prediction: str, reference: Gold) -> float:
    """RULER: share of the golds that are substrings in any case. Boundaries of words are not looked at."""
    return sum(_parts(prediction, reference)) / len(golds(reference))


def match_part(prediction: str, reference: Gold) -> float:
    """RULER's questions: 1 if any gold is a substring in any case ("no" is one of "not")."""
    return float(any(_parts(prediction, reference)))


def _parts(prediction: str, reference: Gold) -> list[bool]:
    text = re.sub(r"[\x00-\x1f]", "\n", prediction.strip()).lower()
    return [gold.lower() in text for gold in golds(reference)]


def match_all_words(prediction: str, reference: Gold) -> float:
    """Share of the golds that stand in the answer as whole words."""
    names = golds(reference)
    return sum(contains_words(prediction, name) for name in names) / len(names)


def match_part_words(prediction: str, reference: Gold) -> float:
    """1 if any gold stands in the answer as whole words."""
    return float(any(contains_words(prediction, name) for name in golds(reference)))


def longgen_positional(prediction: str, reference: Gold) -> float:
    """Share of right answers, compared in order of appearance: one that is missing shifts all after it."""
    wanted = list(_by_index(reference).values())
    said: list[str] = []
    at = 0
    # two searches, as one lazy expression would be quadratic in answers that state nothing
    while (head := _HEAD.search(prediction, at)) and (stated := _STATED.search(prediction, head.end())):
        said.append(stated[1] or stated[2])
        at = stated.end()
    return sum(a == b.strip("() ") for a, b in zip(said, wanted, strict=False)) / len(wanted)


def longgen_by_index(prediction: str, reference: Gold) -> float:
    """Share of right answers, each looked up by the index printed before it; the first of two with one index counts."""
    starts = list(_PRINTED.finditer(prediction))
    said: dict[str, str] = {}
    ends = [*(start.start() for start in starts[1:]), len(prediction)]
    for start, end in zip(starts, ends, strict=False):
        said.setdefault(start[1].lstrip("0") or "0", prediction[start.end() : end])
    wanted = _by_index(reference)
    return sum(_answers(said.get(index, ""), gold) for index, gold in wanted.items()) / len(wanted)


def _by_index(reference: Gold) -> dict[str, str]:
    """Golds by printed index: a list is numbered from 1."""
    if isinstance(reference, Mapping):
        return {str(int(index)): str(gold) for index, gold in reference.items()}
    return {str(i): gold for i, gold in enumerate(golds(reference), 1)}


def _answers(text: str, gold: str) -> bool:
    stated = re.split(r"(?i)\banswer(?:\s+is\b|\s*:)\s*:?", text)[-1]
    letter = re.fullmatch(r"\(?([A-Z])\)?", gold.strip())
    if letter:
        return option(stated) == letter[1]
    number = first_number(stated)
    return number is not None and number == first_number(gold)
