"""The rules that read an answer as a person would.

They differ from the released ones only where those are at fault: see the table of the package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

from ..errors import UsageError
from .answer_reading import after_announcement, first_number, option
from .code import repoqa
from .golds import Gold, Rule, golds
from .reference import first_digits
from .ruler_longgen import longgen_by_index, match_all_words, match_part_words
from .text import char_f1, contains_words, rouge_lsum, starts_with_words

__all__ = ["CORRECTED"]

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# a UUID that is called the key, or stands before a colon
_KEY = re.compile(rf"""\b(?:key|for|of|with)\b[\s:"'`*]*{_UUID.pattern}|{_UUID.pattern}["'`*]*\s*:""", re.IGNORECASE)


def _first_uuid(prediction: str, reference: Gold) -> float:
    """The first UUID that is not the key said again counts: listing the whole context is no answer."""
    gold = golds(reference)[0]
    if not _UUID.fullmatch(gold):
        return _first_string(prediction, reference)
    found = _UUID.search(_KEY.sub(" ", prediction)) or _UUID.search(prediction)
    return float(found is not None and found[0] == gold)


def _first_string(prediction: str, reference: Gold) -> float:
    """The first run of letters as long as the gold counts; of digits and marks too where the gold has them."""
    gold = golds(reference)[0].strip()
    digits = "0-9" if re.search("[0-9]", gold) else ""
    kind = "A-Za-z" + digits + re.escape("".join(sorted(set(re.findall("[^A-Za-z0-9]", gold)))))
    found = re.search(rf"(?<![{kind}])[{kind}]{{{len(gold)}}}(?![{kind}])", prediction)
    return float(found is not None and found[0] == gold)


def _passkey(prediction: str, reference: Gold) -> float:
    """The first run of digits as long as the gold: "document 3" is not the key."""
    gold = golds(reference)[0].strip()
    found = re.search(rf"(?<![0-9])[0-9]{{{len(gold)}}}(?![0-9])", prediction)
    return float(found is not None and found[0] == gold)


def _needle(prediction: str, reference: Gold) -> float:
    return first_digits(prediction, golds(reference)[0])


def _same_names(prediction: str, reference: Gold) -> float:
    """Exactly the gold names, in any order: naming more variables is as wrong as naming fewer."""
    names = set(golds(reference))
    if not all(re.fullmatch("[A-Z]+", name) for name in names):
        raise UsageError(f"the golds of vt are names in capital letters, got {sorted(names)}")
    lengths = "|".join(f"[A-Z]{{{n}}}" for n in sorted({len(name) for name in names}))
    return float(set(re.findall(rf"(?<![A-Za-z])(?:{lengths})(?![A-Za-z])", prediction)) == names)


def _qa_eng(prediction: str, reference: Gold) -> float:
    """1 if a gold stands in the answer as whole words, without punctuation and articles."""
    return float(any(contains_words(prediction, gold) for gold in golds(reference)))


def _qa_chn(prediction: str, reference: Gold) -> float:
    return char_f1(prediction, golds(reference))


def _choice(prediction: str, reference: Gold) -> float:
    """The option's letter as a person writes it, or its text in any case at the start or after "answer is"."""
    given = golds(reference)
    letter = next((gold for gold in reversed(given) if re.fullmatch("[A-D]", gold)), None)
    # of [text, letter] the first is the text even where it is one capital
    texts = given[:1] if len(given) > 1 else [gold for gold in given if gold != letter]
    announced = after_announcement(prediction)
    for place in (prediction, announced or ""):
        if any(starts_with_words(place, text) or starts_with_words(place, f"{letter} {text}") for text in texts):
            return 1.0
    return float(letter is not None and option(prediction, "A-D", bare=False) == letter)


def _option(prediction: str, reference: Gold) -> float:
    """The option that the answer picks."""
    return float(option(prediction) == golds(reference)[0].strip("() "))


def _number(prediction: str, reference: Gold) -> float:
    """The first number on its own, with sign, decimals and thousands separators."""
    if isinstance(reference, Mapping):
        raise UsageError("the reference of mf is a number, got a mapping")
    gold = reference if isinstance(reference, (str, int, float)) else reference[0]
    wanted = first_number(gold) if isinstance(gold, str) else Decimal(str(gold))
    if wanted is None or not wanted.is_finite():
        raise UsageError(f"the reference of mf is a number, got {gold!r}")
    return float(first_number(prediction) == wanted)


def _summary(prediction: str, reference: Gold) -> float:
    return rouge_lsum(prediction, golds(reference)[0])


CORRECTED: dict[str, Rule] = {
    "kv": _first_uuid,
    "prefix_suffix": _first_string,
    "vt": _same_names,
    "repoqa": repoqa,
    "qa_eng": _qa_eng,
    "qa_chn": _qa_chn,
    "choice_eng": _choice,
    "many_shot": _option,
    "mf": _number,
    "summary": _summary,
    "passkey": _passkey,
    "needle": _needle,
    "ruler_match_all": match_all_words,
    "ruler_match_part": match_part_words,
    "longgen": longgen_by_index,
}
