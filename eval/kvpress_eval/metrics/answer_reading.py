"""What a person reads from an answer: which option, which number."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import cache

__all__ = ["after_announcement", "first_number", "option"]

# A number on its own: not part of a word ("2nd"), a version or a longer number.
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9])(?<![0-9][.,])"
    r"(?:([-+−])(?=[0-9.]))?"
    r"([0-9][0-9,]*(?:\.[0-9]+)?|(?<!\.)\.[0-9]+)"
    r"(?![A-Za-z0-9]|[.,][0-9])"
)
_ANNOUNCED = re.compile(
    r"\b(?:(?:answer|option|choice|letter)(?:\s+(?:is|would\s+be|should\s+be|must\s+be))?\s*[:：]"
    r"|(?:answer|option|choice|letter)\s+(?:is|would\s+be|should\s+be|must\s+be))\s*",
    re.IGNORECASE,
)


def first_number(text: str) -> Decimal | None:
    """The first number on its own, with its sign and without thousands separators; None if there is none."""
    found = _NUMBER.search(text)
    if found is None:
        return None
    digits = found[2].rstrip(",")
    if not re.fullmatch(r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?", digits):
        digits = digits.split(",")[0]  # a list without spaces
    value = Decimal(digits.replace(",", ""))
    return -value if found[1] in ("-", "−") else value


def after_announcement(text: str) -> str | None:
    """What follows the first "answer is", "answer:" or "option is"; None if nothing announces an answer."""
    found = _ANNOUNCED.search(text)
    return text[found.end() :] if found else None


def option(text: str, letters: str = "A-Z", bare: bool = True) -> str | None:
    """The letter of the option that an answer picks, None if it picks none.

    In this order: the letter the answer begins with, the one after "answer is", the first in parentheses or
    bold, the one after "it is", "choose", "option". Words that begin with a letter, initials of contractions
    and the words "A" and "I" in a sentence are no options.

    Args:
        text: the answer.
        letters: the letters of the options, as inside a character class.
        bare: whether a leading letter may be followed by a space and a word ("A Saturday").
    """
    first, announced, dressed, verb = _patterns(letters, bare)
    stripped = text.strip()
    if len(alone := stripped.strip("*_`'\"()[]{}.:,; ")) == 1:
        stripped = alone.upper()
    if found := first.match(stripped):
        return found[1] or found[2].upper()
    rest = after_announcement(stripped)
    if rest is not None and (found := announced.match(rest)):
        return found[1] or found[2].upper()
    if found := dressed.search(stripped):
        return next(letter for letter in found.groups() if letter)
    return found[1] if (found := verb.search(stripped)) else None


@cache
def _patterns(letters: str, bare: bool) -> tuple[re.Pattern[str], ...]:
    upper, lower = f"([{letters}])", f"([{letters.lower()}])"
    reason = "(?:is|because|since|as)\\b"
    # not "A1", "I'd", "B-flat", and neither "A man" nor "I think"
    end = rf"(?![A-Za-z0-9])(?!['’-][A-Za-z])(?!(?<=[AI])[ ]+(?!{reason})[a-z])"
    strict = "" if bare else rf"(?=[^\S\n]*(?:$|[\n.):,;*\]}}\"'`–—-]|{reason}))"
    dress = r"[ *_`\"'(\[{]*"
    option = rf"(?:(?i:the\s+)?(?i:option|choice|letter)\s+)?{dress}"
    return (
        re.compile(rf"[\W_]*(?:(?i:option|choice)\s+{dress})?(?:{upper}{end}{strict}|(?<=\(){lower}\))"),
        re.compile(rf"{option}(?:{upper}{end}{strict}|(?<=\(){lower}\))"),
        re.compile(rf"\({upper}\)|\*\*\(?{upper}[.:)]*\*\*|\\boxed\{{{upper}\}}"),
        re.compile(rf"\b(?i:is|be|was|choose|pick|select|say|with|option|choice)\s+{dress}{upper}{end}"),
    )
