"""The rules of the SCBench release, one function each, faults included.

What looks wrong here is wrong on purpose: substrings without word boundaries, golds read letter by letter,
the first character taken for an option, digits without their sign. It is mended in ``corrected``, never here.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping

from .code import repoqa
from .golds import Gold, Rule, golds
from .ruler_longgen import longgen_positional, match_all, match_part
from .text import multiset_f1, rouge_lsum

__all__ = ["REFERENCE", "first_digits"]

# Chinese marks that the release deletes, as ranges of code points. The mark that opens a book's title is
# not among them, the one that closes it is.
_CHINESE_MARKS = (
    *((0x2013, 0x2014), (0x2018, 0x2019), (0x201B, 0x201F), (0x2026, 0x2027), (0x3001, 0x3003), (0x300B, 0x3011)),
    *((0x3014, 0x301F), (0x3030, 0x3030), (0x303E, 0x303F), (0xFE4F, 0xFE4F), (0xFF01, 0xFF0D), (0xFF0F, 0xFF0F)),
    *((0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF64)),
)
_DELETED = dict.fromkeys(
    [*map(ord, string.punctuation), *(c for low, high in _CHINESE_MARKS for c in range(low, high + 1))]
)
_ANSWER_PREFIXES = ("answer is:", "answer:", "answer is", "option is")


def first_digits(prediction: str, reference: Gold) -> float:
    """The first run of digits, as a string: leading zeros count."""
    found = re.search(r"[0-9]+", prediction)
    # the release compares without converting: a gold that is a number never matches
    gold = reference if isinstance(reference, (str, int, float)) else golds(reference)[0]
    return float(found is not None and found[0] == gold)


def _contains(prediction: str, reference: Gold) -> float:
    """Case-sensitive substring, no normalisation."""
    return float(golds(reference)[0] in prediction)


def _recall_of_names(prediction: str, reference: Gold) -> float:
    """Share of names found as substrings in any case, to two decimals. A string is a list of its letters."""
    names = list(reference) if isinstance(reference, str) else golds(reference)
    text = prediction.lower()
    return round(sum(name.lower() in text for name in names) / len(names), 2)


def _upper_cased_part(prediction: str, names: list[str]) -> float:
    text = prediction.strip().upper()
    return float(any(name.upper() in text for name in names))


def _qa_eng(prediction: str, reference: Gold) -> float:
    # the release's runner puts the gold of this task into a list, so a string is one gold
    return _upper_cased_part(prediction, golds(reference))


def _any_letter(prediction: str, reference: Gold) -> float:
    """1 if any character of a gold string occurs anywhere."""
    return _upper_cased_part(prediction, list(reference) if isinstance(reference, str) else golds(reference))


def _qa_chn(prediction: str, reference: Gold) -> float:
    """Best F1 over characters; a gold string is as many golds as it has characters."""
    options = list(reference) if isinstance(reference, str) else golds(reference)
    said = _chinese(prediction)
    return max(multiset_f1(said, _chinese(option)) for option in options)


def _chinese(text: str) -> list[str]:
    return list("".join(text.lower().translate(_DELETED).split()))


def _choice(prediction: str, reference: Gold) -> float:
    """First character if it is a capital of ABCD, else what follows "answer is", else the first bare letter."""
    # membership in a list, but substring of a string, as in the release
    options = reference if isinstance(reference, str) else golds(reference)
    text = prediction.strip()
    if not text:
        return 0.0
    if text[0] in "ABCD":
        return float(text[0] in options)
    if text in options:
        return 1.0
    text = re.sub(" +", " ", re.sub("[\n\"'.,?!{}]", " ", text))
    for prefix in _ANSWER_PREFIXES:
        at = text.find(prefix)
        if at >= 0:
            return float(any(text[at + len(prefix) + 1 :].startswith(option) for option in options))
    letters = next((word for word in text.split() if word in "ABCD"), None)
    return float(letters is not None and letters in options)


def _math_find(prediction: str, reference: Gold) -> float:
    """First unsigned number; cut to an integer where the gold is one."""
    gold = reference if isinstance(reference, (str, int, float, Mapping)) else reference[0]
    if not isinstance(gold, (int, float)):
        raise TypeError(f"mf: the released scorer takes an int or a float as gold, got {type(gold).__name__}")
    found = re.search(r"\d+\.\d+|\d+", prediction)
    value = float(found[0]) if found else math.inf
    if math.isinf(value):  # also a run of hundreds of digits, on which the release stops
        return 0.0
    return float((int(value) if isinstance(gold, int) else value) == gold)


def _summary(prediction: str, reference: Gold) -> float:
    return rouge_lsum(prediction, golds(reference)[0], ascii_only=True)


REFERENCE: dict[str, Rule] = {
    "kv": _contains,
    "prefix_suffix": _contains,
    "vt": _recall_of_names,
    "repoqa": repoqa,
    "qa_eng": _qa_eng,
    "qa_chn": _qa_chn,
    "choice_eng": _choice,
    "many_shot": _any_letter,
    "mf": _math_find,
    "summary": _summary,
    "passkey": first_digits,
    "needle": first_digits,
    "ruler_match_all": match_all,
    "ruler_match_part": match_part,
    "longgen": longgen_positional,
}
