"""The types of what rows hold: how long a name, how large a number may be; and the names that several fields share."""

from __future__ import annotations

from typing import Annotated, TypedDict

from msgspec import Meta

__all__ = [
    *("AGREEMENT", "CORRECTED", "GENERATED", "NAME", "REFERENCE", "SCBENCH", "usual_scorer"),
    *("Count", "Name", "Number", "Premise", "Required", "Share"),
]

NAME = 1000
"""Characters that what names something may have: tables have it in every line, and patterns are looked for in it."""
SCBENCH, GENERATED, CORRECTED, REFERENCE = "scbench", "generated", "corrected", "reference"
AGREEMENT = "agreement"  # the scorer of forced texts: most likely tokens that are those of the full cache

_LARGE = 2**63 - 1  # what any number stays under; greater ones cannot even be divided as floats
Number = Annotated[float, Meta(gt=-float(_LARGE), lt=float(_LARGE))]
Count = Annotated[int, Meta(ge=-_LARGE, le=_LARGE)]
Share = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(max_length=NAME)]
Required = Annotated[str, Meta(max_length=NAME, pattern=r"\S")]


def usual_scorer(rendering: str) -> str:
    """The scorer of rows that do not name theirs: the dialect's answers are compared exactly."""
    return "exact" if rendering == "dialect" else CORRECTED


class _Told(TypedDict):
    says: str
    measures: str
    figure: Number
    bound: Number
    holds: bool


class Premise(_Told, total=False):
    """What a press takes for granted of a model, and whether the model has it."""

    method: str
