"""Reading the text of a press: ``name(argument=value, ...) | name ...``, and what its arguments may be.

Needs no torch, so that a text can be looked at before anything slow is imported (see kvpress.recipe.glance).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kvpress.errors import PressSyntaxError
from kvpress.recipe.numbers import check_number

__all__ = ["Value", "arguments", "clean", "split"]

Value = bool | int | float | str | None

_PART = re.compile(r"^\s*([A-Za-z_][\w\-]*(?:@[\w\-]+)?)\s*(?:\((.*)\))?\s*$", re.DOTALL)


def split(text: str) -> list[tuple[str, str]]:
    """The parts of a press: (name, what stands in its brackets), in order.

    Raises:
        PressSyntaxError: for a part that is not written like this.
    """
    return [_part(piece) for piece in text.split("|")]


def _part(piece: str) -> tuple[str, str]:
    match = _PART.match(piece)
    if not match:
        raise PressSyntaxError(
            f"Cannot read {piece.strip()!r}; write name(argument=value), for example NAME(keep=0.25)."
        )
    return match.group(1), match.group(2) or ""


def arguments(name: str, inside: str, names: Sequence[str]) -> dict[str, Any]:
    """The arguments in the brackets of a part; those without a name get theirs by their place among ``names``.

    Raises:
        PressSyntaxError: where they are not literals, too many, or one is given twice.
    """
    try:
        call = ast.parse(f"f({inside})", mode="eval").body
        assert isinstance(call, ast.Call)
        values = {k.arg or "**": _literal(k.value) for k in call.keywords}
        if len(values) < len(call.keywords):
            raise ValueError("an argument is given twice")
        for at, node in enumerate(call.args):
            if names[at] in values:
                raise ValueError
            values[names[at]] = _literal(node)
    except (SyntaxError, ValueError, AssertionError, IndexError, RecursionError, MemoryError):
        written = f"{name}({inside})" if inside else name
        raise PressSyntaxError(
            f"Cannot read the arguments of {written!r}; write {name}(argument=value, ...) with numbers, "
            "quoted strings or true/false."
        ) from None
    return values


def _literal(node: ast.expr) -> Value:
    if isinstance(node, ast.Name):  # bare words from a shell: pooling=max, every_prompt=true
        words: dict[str, Value] = {"true": True, "false": False, "none": None}
        return words.get(node.id.lower(), node.id)
    value = ast.literal_eval(node)
    if not isinstance(value, bool | int | float | str | type(None)):
        raise ValueError
    return value


def clean(name: str, parameters: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Value]:
    """Arguments as a press keeps them: in the order of its parameters, `compression_ratio` as `keep`.

    Args:
        parameters: of the press, with their annotations as text.

    Raises:
        PressSyntaxError: for an argument it does not have, or a value of another type.
    """
    given = dict(given)
    if "compression_ratio" in given:
        if "keep" in given or "keep" not in parameters:
            raise PressSyntaxError(
                f"{name}: compression_ratio is another word for keep = 1 - compression_ratio"
                + (" and keep is given too; give one." if "keep" in given else ", which this press does not have.")
            )
        ratio = given.pop("compression_ratio")
        check_number(name, "compression_ratio", ratio)
        if not _fits(ratio, "float | int"):
            raise PressSyntaxError(f"{name}: compression_ratio={ratio!r} must be a fraction such as 0.75.")
        given["keep"] = round(1.0 - ratio, 9)
    for argument, value in given.items():
        if argument not in parameters:
            known = ", ".join(parameters) or "none"
            raise PressSyntaxError(f"{name} has no argument {argument!r}; it takes: {known}.")
        if not isinstance(value, bool | int | float | str | type(None)):
            raise PressSyntaxError(f"{name}: {argument}={value!r} must be a number, a string or true/false.")
        check_number(name, argument, value)
        wanted = parameters[argument]
        if argument != "keep" and not _fits(value, wanted):
            raise PressSyntaxError(f"{name}: {argument}={value!r} must be {wanted.replace(' | ', ' or ')}.")
    if "keep" in given:
        given["keep"] = _checked_keep(given["keep"])
    return {argument: given[argument] for argument in parameters if argument in given}


def _fits(value: Value, annotation: str) -> bool:
    """A value has one of the types that an annotation (text, such as "int | None") names; an int is a float too."""
    kinds = {kind.strip() for kind in annotation.split("|")}
    kind = "None" if value is None else type(value).__name__
    return kind in kinds or (kind == "int" and "float" in kinds)


def _checked_keep(keep: Value) -> float | int:
    if isinstance(keep, bool) or not isinstance(keep, int | float):
        raise PressSyntaxError(f"keep={keep!r} must be a fraction such as 0.25, or slots per KV head such as 512.")
    if keep == 1:
        return 1.0
    if isinstance(keep, int) and keep > 1:
        return keep
    if 0 < keep < 1:
        return keep
    raise PressSyntaxError(
        f"keep={keep} is out of range: a fraction lies in (0, 1], a number of slots is a whole number above 1. "
        "(compression_ratio is 1 - keep.)"
    )
