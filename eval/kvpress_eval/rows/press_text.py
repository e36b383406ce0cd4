"""What the text of a press tells: its family, its sweep, whether it drops anything."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .amounts import spaced

_ARGUMENT = re.compile(r"[\w-]+\s*=\s*[^,()|]*")
_COMMAS = re.compile(r"(?<=\()\s*(?:,\s*)+|\s*(?:,\s*)+(?=\))")
_AMOUNT = re.compile(r"\b(keep|compression_ratio|budget)\s*=\s*[^,()|]*")
_WIDTH = re.compile(r"\b(\w*bits|rank)\s*=\s*[^,()|]*")
_KEEPS_ALL = re.compile(r"\b(?:keep\s*=\s*1(?:\.0*)?|compression_ratio\s*=\s*0(?:\.0*)?)\s*(?=[,)]|$)")

_VALUE = re.compile(r"(\w+)=(\d+(?:\.\d+)?)(?=[,)])")


def family(press: str) -> str:
    """The methods without arguments: `snapkv(keep=0.25) | kivi(bits=2)` -> `snapkv | kivi`."""
    bare = _COMMAS.sub("", _ARGUMENT.sub("", press)).replace("()", "")
    return " ".join(bare.split()) or press


def sweep(press: str, target: str = "") -> str:
    """The press with its budget left open: the points of one sweep share a line in a chart."""
    if target:
        return named(press, "*")
    opened, found = _AMOUNT.subn(r"\1=*", press)
    return opened if found else _WIDTH.sub(r"\1=*", press)


def named(asked: str, target: str) -> str:
    """A press with the bytes it was solved for: `snapkv at 12.5 %`."""
    return f"{asked} at {spaced(target)}" if target else asked


def solved_range(presses: Iterable[tuple[str, str]]) -> str:
    """What was found for presses (as asked, as run): `keep 0.381 to 0.402`; empty where they are the same."""
    values: dict[str, list[float]] = {}
    for asked, press in presses:
        for part, run in zip(asked.split("|"), press.split("|"), strict=False):
            for name, value in set(_VALUE.findall(run)) - set(_VALUE.findall(part)):
                values.setdefault(name, []).append(float(value))
    ends = {name: (f"{min(found):g}", f"{max(found):g}") for name, found in sorted(values.items())}
    return ", ".join(f"{name} {low}" + (f" to {high}" if high != low else "") for name, (low, high) in ends.items())


def keeps_everything(press: str) -> bool:
    """Whether each stage keeps all slots and none is a codec: then it must equal the full cache."""
    return press == "full" or all(_KEEPS_ALL.search(stage) for stage in press.split("|"))
