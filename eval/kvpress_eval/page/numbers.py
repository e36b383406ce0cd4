"""How numbers are written everywhere; rounded twice, so that float noise reaches no digit."""

from __future__ import annotations

import math

MINUS = "\u2212"
NONE = "\u2013"
DISTURBED = "\u2021"  # marks a time that other programs disturbed


def snap(value: float | None, digits: int = 6) -> float | None:
    """Round so that float noise gives the same digits; None for NaN, infinity and None."""
    if value is None or not math.isfinite(value):
        return None
    return round(round(value, digits + 6), digits) + 0.0  # + 0.0 turns -0.0 into 0.0


def fixed(value: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """`12.3`, with a real minus sign; an en dash for no value."""
    rounded = snap(value, digits)
    if rounded is None:
        return NONE
    return f"{rounded:{'+' if sign and rounded else ''}.{digits}f}".replace("-", MINUS)


def marked(time: str, disturbed: bool) -> str:
    """A time as `fixed` wrote it, marked where it was disturbed."""
    return f"{time} {DISTURBED}" if disturbed and time != NONE else time


def points(value: float | None, *, sign: bool = False) -> str:
    """A fraction 0..1 in points (0 to 100), one decimal."""
    return fixed(None if value is None else 100 * value, 1, sign=sign)


def span(low: float, high: float, *, sign: bool = False) -> str:
    """An interval in points: `[1.2, 3.4]`; empty when there is none."""
    if snap(low) is None or snap(high) is None:
        return ""
    return f"[{points(low, sign=sign)}, {points(high, sign=sign)}]"


def probability(value: float | None) -> str:
    """A p-value: two decimals and more where they matter."""
    rounded = snap(value)
    if rounded is None:
        return NONE
    return "<0.001" if rounded < 0.001 else f"{rounded:.{2 if rounded >= 0.1 else 3}f}"


def percent(value: float | None) -> str:
    """A ratio in percent with three significant digits or so: `100 %`, `24.3 %`, `4.62 %`."""
    rounded = snap(value)
    if rounded is None:
        return NONE
    return f"{100 * rounded:.{0 if rounded >= 0.9995 else 1 if rounded >= 0.0995 else 2}f} %"
