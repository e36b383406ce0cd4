"""Kinds of presses, by what they decide: the colours and shapes that the page and the picture in README give them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from ..rows.press_text import family

__all__ = ["FULL", "KINDS", "Kind", "kind", "methods"]


@dataclass(frozen=True)
class Kind:
    """A kind: its name in legends, its colour on a light and on a dark page, its mark as an SVG path within -1 to 1."""

    name: str
    light: str
    dark: str
    shape: str


# Every kind has a shape of its own, so that nobody has to tell two of them apart by colour alone; the colours are those
# that a search found furthest apart for readers who lack one of the three cones too, and legible as text.
KINDS = {
    "drop": Kind("drop tokens", "#0455f9", "#92b2fe", "M-1,0A1,1,0,1,1,1,0A1,1,0,1,1,-1,0Z"),
    "spread": Kind("drop tokens, spread budgets", "#1d8255", "#0cea87", "M0,-1.15L1.15,0.85H-1.15Z"),
    "bits": Kind("fewer bits", "#6a2101", "#ee4a12", "M-.9,-.9H.9V.9H-.9Z"),
    "rank": Kind("fewer channels, low rank", "#651da5", "#b35ced", "M0,-1.25L1.25,0L0,1.25L-1.25,0Z"),
    "share": Kind("layers share", "#926c01", "#fed112", "M0,1.15L1.15,-0.85H-1.15Z"),
    "several": Kind(
        "compositions", "#cd2598", "#f042c1", "M-.42,-1.15H.42V-.42H1.15V.42H.42V1.15H-.42V.42H-1.15V-.42H-.42Z"
    ),
    "control": Kind(
        "control",
        "#262728",
        "#898c8e",
        "M-1,-.55L-.55,-1L0,-.45L.55,-1L1,-.55L.45,0L1,.55L.55,1L0,.45L-.55,1L-1,.55L-.45,0Z",
    ),
    "other": Kind("of another package", "#354f69", "#ced9e3", "M-1.1,0L-.55,-.95H.55L1.1,0L.55,.95H-.55Z"),
    "full": Kind("full cache", "#1b1d20", "#e4e6e9", "M-1,0A1,1,0,1,1,1,0A1,1,0,1,1,-1,0Z"),
}
FULL = "full"
# What a press decides, in the words of a recipe. A decision that is not here is shown as one of several.
_GROUPS = {
    "scorer": "drop",
    "refine": "drop",
    "merge": "drop",
    "schedule": "drop",
    "selector": "drop",
    "heads": "spread",
    "layers": "spread",
    "key": "bits",
    "value": "bits",
    "rank": "rank",
    "channels": "rank",
    "sharer": "share",
}


@lru_cache(maxsize=1)
def methods() -> Mapping[str, Mapping[str, Any]]:
    """What `make docs` wrote of each method: its `paper`, what it `decides`, whether it is a `control`."""
    found: Mapping[str, Mapping[str, Any]] = json.loads(
        (resources.files(__package__) / "page" / "methods.json").read_text(encoding="utf-8")
    )
    return found


def kind(press: str) -> str:
    """The kind of a press, a key of `KINDS`. Reports are read without torch, so nothing is parsed here.

    Presses that are not of this package, and those that other harnesses measured, are "other".
    """
    names = [stage.partition("@")[0].strip() for stage in family(press).split("|")]
    if names == ["full"]:
        return FULL
    if not all(name in methods() for name in names):
        return "other"
    if all(methods()[name]["control"] for name in names):
        return "control"
    groups = {_GROUPS.get(decision, "several") for name in names for decision in methods()[name]["decides"]}
    if "spread" in groups and groups <= {"drop", "spread"}:
        return "spread"
    groups.discard("spread")  # budgets are spread over what is dropped, whatever else is done
    return groups.pop() if len(groups) == 1 else "several"
