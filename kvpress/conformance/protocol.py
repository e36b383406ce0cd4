"""What kind of decision an object is, and whether it has what a decision of that kind needs."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from typing import Any, Literal

from kvpress.conformance.trial import BrokenError
from kvpress.evidence.evidence import Needs

Kind = Literal["scorer", "heads", "layers", "refine", "key", "value"]
_CODEC = {
    "name": "how errors and files call it",
    "block": "slots are packed in multiples of it; 0 = exact",
    "check": "check(head_dim) raises for rows it cannot store",
    "encode": "encode(x) packs (R, n, D) slots",
    "load": "load(tensors, dtype, dim) rebuilds what was saved",
}
_HAS: dict[str, dict[str, str]] = {
    "scorer": {"needs": "what it has to see: needs = Needs() from kvpress.method where that is nothing"},
    "heads": {"compares": "whether it compares scores of different heads: compares = True or False"},
    "layers": {
        "needs": "what measure has to see: needs = Needs() from kvpress.method where that is nothing",
        "compares": "whether it compares scores of different layers: compares = True or False",
        "exact": "whether its shares are proportions with exact sums: exact = True or False",
        "measure": "measure(block, seen, scores) gives (B, ...)",
        "weights": "weights(measured, total, fixed, lengths) gives (L, B)",
    },
    "refine": {
        "needs": "what it has to see: needs = Needs() from kvpress.method where that is nothing",
        "bind": "bind(view, layer) gives what says how much a value can add, usually view.output(layer)",
    },
    "key": _CODEC,
    "value": _CODEC,
}
KINDS = set(_HAS)
_CALLED = {
    "scorer": ("(block, seen)", 2),
    "heads": ("(total, scores)", 2),
    "refine": ("(scores, added, pos, counts, protected)", 5),
}
_FROZEN = "Make it a dataclass: @dataclass(frozen=True), with arguments that are numbers, text or tuples."


def kind_of(thing: object) -> Kind | None:
    """Which decision an object looks like; None where it looks like none."""
    if hasattr(thing, "encode") or (hasattr(thing, "load") and hasattr(thing, "block")):
        return "key"
    if hasattr(thing, "measure") or hasattr(thing, "weights"):
        return "layers"
    if hasattr(thing, "compares"):
        return "heads"
    if callable(thing) and {"added", "counts"} & set(inspect.signature(thing).parameters):
        return "refine"
    if hasattr(thing, "needs") or hasattr(thing, "comparable"):
        return "scorer"
    if callable(thing):
        names = list(inspect.signature(thing).parameters)
        if names[:1] == ["total"]:
            return "heads"
        if len(names) == 2 or {"block", "seen"} & set(names):
            return "scorer"
    return None


def follow(kind: str, thing: Any) -> str:
    """What was found of an object that follows the protocol of its kind; raises BrokenError for one that does not."""
    title = _title(thing)
    if isinstance(thing, type):
        raise BrokenError(f"{title} is a class, expected an object: write {thing.__name__}().")
    for name, about in _HAS[kind].items():
        if not hasattr(thing, name):
            raise BrokenError(f"{title} has no `{name}`, which a {_word(kind)} declares: {about}.")
    if kind in ("scorer", "layers", "refine") and not isinstance(thing.needs, Needs):
        raise BrokenError(f"needs of {title} is a {type(thing.needs).__name__}; use Needs(...).")
    if kind in ("key", "value") and not (isinstance(thing.name, str) and isinstance(thing.block, int)):
        raise BrokenError(f"{title} has name={thing.name!r} and block={thing.block!r}: a text and a number of slots.")
    if kind in _CALLED:
        shown, count = _CALLED[kind]
        if not callable(thing):
            raise BrokenError(f"{title} is not callable: a {_word(kind)} is called with {shown}; define __call__.")
        try:
            inspect.signature(thing).bind(*range(count))
        except TypeError as error:
            raise BrokenError(f"{title} cannot be called with {shown}: {error}.") from None
    _value(thing, title)
    return f"{title} is a {_word(kind)}, frozen and hashable"


def _value(thing: Any, title: str) -> None:
    """A press is a value: equal texts are equal recipes, and a recipe can be a key of a dictionary."""
    parameters = getattr(type(thing), "__dataclass_params__", None)
    if parameters is not None and not parameters.frozen:
        raise BrokenError(f"{title} is a dataclass that can be changed, so a press with it cannot be hashed. {_FROZEN}")
    try:
        hash(thing)
    except TypeError as error:
        raise BrokenError(f"{title} cannot be hashed ({error}), and a press must be. {_FROZEN}") from None
    if not inspect.isroutine(thing) and copy.copy(thing) != thing:
        raise BrokenError(f"two {title} with the same arguments are not equal. {_FROZEN}")
    if dataclasses.is_dataclass(thing):
        odd = [f.name for f in dataclasses.fields(thing) if isinstance(getattr(thing, f.name), list | dict | set)]
        if odd:
            raise BrokenError(f"{title} holds {', '.join(odd)}, which can be changed. {_FROZEN}")


def _title(thing: Any) -> str:
    return thing.__name__ if hasattr(thing, "__name__") else type(thing).__name__


def _word(kind: str) -> str:
    return {
        "heads": "head budget",
        "layers": "layer budget",
        "refine": "refiner",
        "key": "codec",
        "value": "codec",
    }.get(kind, kind)
