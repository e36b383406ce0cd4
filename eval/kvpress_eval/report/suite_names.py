"""The suites of a report: their names for people and the files of their pages."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..rows.row_types import SCBENCH

_NAME = 60  # characters of a suite's name that a file's name takes
_TITLES = {
    SCBENCH: "SCBench-style",
    "ruler": "RULER-like",
    "needles": "Needles in a haystack",
    "longgen": "Long answers",
    "lm": "Continuations of text",
}


def title(suite: str) -> str:
    """What a suite is called: `RULER-like`; its own name where this version does not know it."""
    return _TITLES.get(suite, suite)


def pages(suites: Sequence[str]) -> dict[str, str]:
    """The file of each suite's page; `index.html` is that of the first, and of a report without rows."""
    found: dict[str, str] = {}
    for suite in suites or [SCBENCH]:
        # the name of a suite comes from a file of results: no path, and no page over another
        name = re.sub(r"[^a-z0-9]+", "-", suite.lower()[:_NAME]).strip("-") or "suite"
        wanted = f"{name}.html" if found else "index.html"
        while wanted in found.values():
            name += "-2"
            wanted = f"{name}.html"
        found[suite] = wanted
    return found
