"""Whether decoded JSON has the types that a dataclass says, so that what reads it later need not doubt them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin

__all__ = ["fits", "misfit"]

_LARGE = 1 << 63  # what a count of anything stays under; greater ones cannot even be divided as floats


def misfit(hints: Mapping[str, Any], data: Mapping[str, Any], may_lack: bool = False) -> str:
    """The first key whose value is not of its type, in words; "" where all are. Keys without a type are passed over.

    Args:
        may_lack: null stands for a number that was not measured.
    """
    for name, hint in hints.items():
        if name in data and not fits(data[name], hint) and not (may_lack and data[name] is None):
            return f"{name} is not {_named(hint)}"
    return ""


def fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a type: one of JSON's, a list or dict of a type, a union, or Any."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list) and all(fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, inner[1]) for item in value.values())
    if hint is float:  # JSON writes whole ones without a point
        return _is_number(value) and abs(value) < _LARGE
    if hint is int:
        return _is_number(value) and isinstance(value, int) and abs(value) < _LARGE
    return value is None if hint is type(None) else isinstance(value, hint)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _named(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_named, get_args(hint)))
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    return words.get(hint, "what it should be")
