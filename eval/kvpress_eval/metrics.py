"""Scorers: the right one for each task, and beside it the one the SCBench release used.

Never mix them in one table. ``corrected`` reads the answer the way a person would, ``reference``
reproduces the released scorer,
faults included; the dialect is scored by exact match. An empty prediction scores 0 everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from .errors import UsageError, choose

__all__ = ["Reference", "Scorer", "exact", "score"]

Reference = str | Sequence[str]
Scorer = Literal["corrected", "reference", "exact"]

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def score(task: str, prediction: str, reference: Reference, scorer: Scorer = "corrected") -> float:
    """The score in 0..1 of one answer.

    Args:
        task: a name of :data:`~kvpress_eval.tasks.TASKS`.
        prediction: the text the model wrote.
        reference: the gold text; for ``vt`` the list of names, for ``many_shot`` the option letter.
        scorer: ``"corrected"``, ``"reference"`` (the released scorer) or ``"exact"`` (equal up to white space).

    Raises:
        UsageError: for an unknown task or scorer, or an empty reference (which any text would contain).
    """
    if not reference or (not isinstance(reference, str) and not all(reference)):
        raise UsageError("a reference must not be empty: every answer would count as right")
    if scorer == "exact":
        return exact(prediction, reference)
    choose("scorer", scorer, ("corrected", "reference", "exact"))
    table = _REFERENCE if scorer == "reference" else _CORRECTED
    rule = table[choose("task", task, table)]
    return rule(prediction, reference) if prediction.strip() else 0.0


def exact(prediction: str, reference: Reference) -> float:
    """1 if the words are the same in the same order."""
    gold = reference if isinstance(reference, str) else " ".join(reference)
    return float(prediction.split() == gold.split())


def _single(reference: Reference) -> str:
    return reference if isinstance(reference, str) else reference[0]


def _first_uuid(prediction: str, reference: Reference) -> float:
    """The first UUID counts: listing the whole context is no answer."""
    found = _UUID.search(prediction)
    return float(found is not None and found[0] == _single(reference))


def _first_string(prediction: str, reference: Reference) -> float:
    """The first run of letters as long as the gold counts."""
    gold = _single(reference)
    found = re.search(rf"(?<![A-Za-z])[A-Za-z]{{{len(gold)}}}(?![A-Za-z])", prediction)
    return float(found is not None and found[0] == gold)


def _first_number(prediction: str, reference: Reference) -> float:
    """The first run of digits, as a string: leading zeros count."""
    found = re.search(r"[0-9]+", prediction)
    return float(found is not None and found[0] == _single(reference))


def _same_names(prediction: str, reference: Reference) -> float:
    """Exactly the gold names, in any order: naming more variables is as wrong as naming fewer."""
    gold = {reference} if isinstance(reference, str) else set(reference)
    return float(set(re.findall(r"(?<![A-Za-z])[A-Z]{5}(?![A-Za-z])", prediction)) == gold)


def _option(prediction: str, reference: Reference) -> float:
    """The first ``(X)``, else a capital letter on its own that the answer begins with."""
    found = re.search(r"\(([A-Z])\)", prediction) or re.match(r"\W*([A-Z])(?![A-Za-z])", prediction)
    return float(found is not None and found[1] == _single(reference).strip("()"))


def _contains(prediction: str, reference: Reference) -> float:
    """Released rule: case-sensitive substring, no normalisation."""
    return float(_single(reference) in prediction)


def _recall_of_names(prediction: str, reference: Reference) -> float:
    """Released rule: share of gold names found as case-insensitive substrings, to two decimals.

    A gold that is one string is read as a list of its letters, as the release does.
    """
    text = prediction.lower()
    return round(sum(name.lower() in text for name in reference) / len(reference), 2)


def _any_letter(prediction: str, reference: Reference) -> float:
    """Released rule: 1 if any character of the gold occurs anywhere in the upper-cased answer."""
    text = prediction.strip().upper()
    return float(any(character.upper() in text for character in _single(reference)))


_CORRECTED: dict[str, Callable[[str, Reference], float]] = {
    "kv": _first_uuid,
    "prefix_suffix": _first_string,
    "vt": _same_names,
    "needle": _first_number,
    "many_shot": _option,
}
_REFERENCE: dict[str, Callable[[str, Reference], float]] = {
    "kv": _contains,
    "prefix_suffix": _contains,
    "vt": _recall_of_names,
    "needle": _first_number,  # the released passkey rule is already right
    "many_shot": _any_letter,
}
