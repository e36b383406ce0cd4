"""What is wrong with a file that is to be a row: where, what, and what to do."""

from __future__ import annotations

import json
import re
from typing import Any

from ..errors import UsageError
from ..machine.printable import cut, plain

__all__ = ["RowError", "decoded", "in_words"]

_WORDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "array": "a list"}


class RowError(UsageError, ValueError):
    """What is no valid row. ``fault`` says where and what is wrong; the message what to do too."""

    def __init__(self, fault: str) -> None:
        self.fault = cut(plain(fault), 150)
        super().__init__(f"not a result row: {self.fault}; remove the file and run the cell again")


def decoded(text: str) -> Any:
    """What a text is as JSON.

    Raises:
        RowError: where it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # the decoder's words vary with Python
        raise RowError("not valid JSON") from None


def in_words(said: str) -> str:
    """What msgspec says of a value: where it is first, and JSON's types by their names."""
    what, _, where = said.partition(" - at `$.")
    if re.search(r"[<>]=? -?9\.?223", what):
        what = "expected a number from -2^63 to 2^63"
    elif re.search(r"`float` [<>]= [01]\.0$", what):
        what = "expected a number from 0 to 1"
    what = re.sub(r"`([^`]+)`", lambda found: " or ".join(_WORDS.get(w, w) for w in found[1].split(" | ")), what)
    what = re.sub(r"^Object missing required field (\w+)", r"\1 is missing", what)
    what = re.sub(r"matching regex '.*'", "that is not blank", what)
    return f"{where.rstrip('`')}: {what[0].lower()}{what[1:]}" if where else what
