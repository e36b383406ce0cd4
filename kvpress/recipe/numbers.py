"""Numbers given to a press: those that cannot mean anything, whatever the argument is."""

from __future__ import annotations

import math

from kvpress.errors import PressSyntaxError

LONGEST = 1 << 24  # tokens, longer than any context: nothing that is counted along it can be more
_WHOLE = (1 << 31) - 1
_LARGEST = 1e9
_LONG = 80  # bits of a whole number that is not shown
_UNBOUND = ("keep", "seed")  # a budget that is never reached is one; a seed counts nothing


def check_number(press: str, name: str, value: object) -> None:
    """Raise PressSyntaxError for a number no argument of a press can be; what else is wrong, the press itself says."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise PressSyntaxError(f"{press}: {name}={value} must be a finite number.")
    limit = _LARGEST if isinstance(value, float) else _WHOLE if name in _UNBOUND else LONGEST
    if abs(value) > limit:
        long = isinstance(value, int) and value.bit_length() > _LONG
        shown = "so many digits" if long else value
        raise PressSyntaxError(f"{press}: {name}={shown} is out of range: {limit:.0f} is the most that means anything.")
