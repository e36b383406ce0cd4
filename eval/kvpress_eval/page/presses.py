"""What the text of a press tells: its family, its sweep, whether it drops anything."""

from __future__ import annotations

import re

_ARGUMENT = re.compile(r"[\w-]+\s*=\s*[^,()|]*")
_COMMAS = re.compile(r"(?<=\()\s*(?:,\s*)+|\s*(?:,\s*)+(?=\))")
_AMOUNT = re.compile(r"\b(keep|compression_ratio|budget)\s*=\s*[^,()|]*")
_WIDTH = re.compile(r"\b(\w*bits|rank)\s*=\s*[^,()|]*")
_KEEPS_ALL = re.compile(r"\b(?:keep\s*=\s*1(?:\.0*)?|compression_ratio\s*=\s*0(?:\.0*)?)\s*(?=[,)]|$)")


def family(press: str) -> str:
    """The methods without arguments: `snapkv(keep=0.25) | kivi(bits=2)` -> `snapkv | kivi`."""
    bare = _COMMAS.sub("", _ARGUMENT.sub("", press)).replace("()", "")
    return " ".join(bare.split()) or press


def sweep(press: str) -> str:
    """The press with its budget left open: the points of one sweep share a line in a chart."""
    opened, found = _AMOUNT.subn(r"\1=*", press)
    return opened if found else _WIDTH.sub(r"\1=*", press)


def keeps_everything(press: str) -> bool:
    """Whether each stage keeps all slots and none is a codec: then it must equal the full cache."""
    return press == "full" or all(_KEEPS_ALL.search(stage) for stage in press.split("|"))
