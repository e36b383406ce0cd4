"""A covering sample of what the contracts walk: every press, every family and every mode, but not each with each.

`make test` runs the sample, `make test-all` the full product (methods x families x modes).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import prod

import pytest

WHOLE = 24
"""A test of at most so many cases runs whole."""


def beyond(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """The items that a covering sample leaves out.

    Of a test with several parameters it keeps every value of the longest one and every combination of the others, each
    value with another combination: as the diagonals of a chess board cover its rows and columns.
    """
    tests: dict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec") and len(item.callspec.params) > 1:
            tests[item.nodeid.partition("[")[0]].append(item)
    return [item for found in tests.values() if len(found) > WHOLE for item in _off_the_diagonals(found)]


def _off_the_diagonals(found: list[pytest.Function]) -> list[pytest.Function]:
    """Of all cases of one test."""
    values: dict[str, dict[str, int]] = defaultdict(dict)  # parameter -> its values, numbered as they come
    for item in found:
        for name, value in item.callspec.params.items():
            values[name].setdefault(repr(value), len(values[name]))
    longest = max(values, key=lambda name: len(values[name]))
    others = prod(len(numbers) for name, numbers in values.items() if name != longest)
    step, left = min(others, len(values[longest])), []
    for item in found:
        place = 0
        for name, numbers in values.items():
            if name != longest:
                place = place * len(numbers) + numbers[repr(item.callspec.params[name])]
        if (values[longest][repr(item.callspec.params[longest])] - place) % step:
            left.append(item)
    return left
