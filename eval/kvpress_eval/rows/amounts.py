"""Amounts of bytes that a press is solved for, as texts: a share of the dense cache (12.5%), or a size (512MiB)."""

from __future__ import annotations

import re

from ..errors import UsageError

__all__ = ["amount", "falling", "spaced"]

_UNITS = ("", "%", "b", "kib", "mib", "gib")
_SIZES = {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def amount(text: str) -> str:
    """An amount of bytes written one way: ``12.50 %`` is ``12.5%``; "" stays.

    Raises:
        UsageError: for what is no amount, or none at all.
    """
    if not text:
        return text
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z%]*)\s*", text)
    if found is None or found[2].lower() not in _UNITS:
        raise UsageError(f'bytes {text!r} is no amount; write "12.5%" of the dense cache, or "512MiB"')
    if not float(found[1]):
        raise UsageError(f"bytes {text!r} leaves no room for a cache; write more than 0")
    return f"{float(found[1]):.12g}{found[2]}"


def spaced(target: str) -> str:
    """An amount of bytes for people: `12.5 %`, `512 MiB`."""
    return re.sub(r"(?<=\d)(?=[A-Za-z%])", " ", target)


def falling(target: str) -> tuple[bool, float, str]:
    """How amounts follow each other: shares of the dense cache first, each from more to fewer bytes."""
    found = re.fullmatch(r"([\d.]+)([A-Za-z%]*)", target)
    if found is None or found[1].count(".") > 1:
        return True, 0.0, target
    return found[2] != "%", -float(found[1]) * _SIZES.get(found[2].lower(), 1), target
