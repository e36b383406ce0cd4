"""How numbers are written everywhere. The page follows the same rule with the same digits (`fixed` in core.js)."""

from __future__ import annotations

import math

MINUS = "\u2212"
NONE = "\u2013"
DIGITS = 7
"""Decimals of what a page is given, and of what a text is written from: both round the same number."""
DISTURBED = "\u2021"  # marks a time that other programs disturbed


def snap(value: float | None, digits: int = DIGITS) -> float | None:
    """Round so that float noise gives the same digits; None for NaN, infinity and None."""
    if value is None or not math.isfinite(value):
        return None
    return round(round(value, digits + 6), digits) + 0.0  # + 0.0 turns -0.0 into 0.0


def fixed(value: float | None, digits: int = 1, *, sign: bool = False, factor: int = 1) -> str:
    """`factor` times a value as `12.3`, halves away from zero, with a real minus sign; an en dash for no value."""
    held = snap(value)
    if held is None:
        return NONE
    units = math.floor(round(abs(held) * factor * 10**digits, 6) + 0.5)
    mark = "" if units == 0 else MINUS if held < 0 else "+" if sign else ""
    return f"{mark}{units / 10**digits:.{digits}f}"


def marked(time: str, disturbed: bool) -> str:
    """A time as `fixed` wrote it, marked where it was disturbed."""
    return f"{time} {DISTURBED}" if disturbed and time != NONE else time


def points(value: float | None, *, sign: bool = False) -> str:
    """A fraction 0..1 in points (0 to 100), one decimal."""
    return fixed(value, 1, sign=sign, factor=100)


def millis(value: float | None) -> str:
    """Seconds in milliseconds, one decimal."""
    return fixed(value, 1, factor=1000)


def span(low: float, high: float, *, sign: bool = False) -> str:
    """An interval in points: `[1.2, 3.4]`; empty when there is none."""
    if snap(low) is None or snap(high) is None:
        return ""
    return f"[{points(low, sign=sign)}, {points(high, sign=sign)}]"


def nats(value: float | None, *, sign: bool = False, digits: int = 3) -> str:
    """A divergence or a log-probability by its leading digits: `1.14`, `0.0272`, `2.71e-5`."""
    rounded = snap(value, 12)
    if not rounded:
        return NONE if rounded is None else "0"
    shown = f"{rounded:{'+' if sign else ''}.{digits - 1}e}"
    size = int(shown.partition("e")[2])
    if size > -4:
        shown = f"{rounded:{'+' if sign else ''}.{max(0, digits - 1 - size)}f}"
    return shown.replace("e-0", "e-").replace("-", MINUS)


def nats_span(low: float, high: float, *, sign: bool = False, digits: int = 3) -> str:
    """An interval of such: `[0.00211, 0.00453]`; empty when there is none."""
    if snap(low) is None or snap(high) is None:
        return ""
    return f"[{nats(low, sign=sign, digits=digits)}, {nats(high, sign=sign, digits=digits)}]"


def probability(value: float | None) -> str:
    """A p-value: two decimals and more where they matter."""
    held = snap(value)
    if held is None:
        return NONE
    return "<0.001" if held < 0.001 else fixed(held, 2 if held >= 0.1 else 3)


def percent(value: float | None) -> str:
    """A ratio in percent with three significant digits or so: `100 %`, `24.3 %`, `4.62 %`."""
    held = snap(value)
    if held is None:
        return NONE
    return f"{fixed(held, 0 if held >= 0.9995 else 1 if held >= 0.0995 else 2, factor=100)} %"
