"""Amounts of bytes as text. Needs no torch, so that a mistyped one is known before anything slow is imported."""

from __future__ import annotations

import re

from kvpress.errors import BudgetError

__all__ = ["bytes_of"]

_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def bytes_of(target: str | float | int, dense: int, name: str = "bytes") -> int:
    """An amount of bytes: an int, "512MiB", or a share ("12.5%" or 0.125) of `dense`. Raises BudgetError."""
    if isinstance(target, bool):
        raise BudgetError(f"{name}={target!r} is not an amount of bytes.")
    if isinstance(target, int):
        wanted = float(target)
    elif isinstance(target, float):
        wanted = target * dense
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z%]*)\s*", target)
        unit = match.group(2).lower() if match else ""
        if match is None or (unit != "%" and unit not in _UNITS):
            raise BudgetError(f'{name}={target!r} cannot be read; write "12.5%" of the dense cache, or "512MiB".')
        wanted = float(match.group(1)) * (dense / 100 if unit == "%" else _UNITS[unit])
    if wanted < 1:
        raise BudgetError(f"{name}={target!r} leaves no room for a cache.")
    return int(wanted)
