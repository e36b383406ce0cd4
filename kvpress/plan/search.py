"""The largest fraction whose bytes fit, found with few measurements: each of them fills a cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from kvpress.errors import BudgetError

STEPS = 10_000  # a fraction is found to four decimals
_MARGIN = 8  # steps; one slot of a thousand tokens is ten
_GUESSES = 6
_SHORTEST = 64  # steps; a shorter tooth is too small to matter and too short to be found


@dataclass
class Search:
    """Measured bytes by step (a step is 1e-4).

    measure: bytes of a fraction; BudgetError where it leaves too few slots for those a press protects. Bytes grow with
    the fraction, except that they fall once every `period` steps, where a block of slots is packed; 0 = never. first:
    the step of the first fall, where a block is full beyond the slots that stay dense.
    """

    measure: Callable[[float], int]
    wanted: int
    period: float = 0
    first: float = 0
    sizes: dict[int, int] = field(default_factory=dict)

    def search(self) -> dict[float, int]:
        """Bytes of the fractions tried, among them one that fits and whose next does not.

        Without falls it is the largest that fits. With falls it is that or one a few slots below, where they are at
        least 64 steps apart and every head falls at the same ones.
        """
        top = self._size(STEPS, refuse=True)
        if top > self.wanted:
            falls = _SHORTEST <= self.period < STEPS / 2
            low, high = self._tooth() if falls else (0, STEPS)
            if low < self.first < high or high < self.first:  # there is no fall yet: one line from nothing to the first
                low, high = 0, min(STEPS, math.ceil(self.first))
            self._enclose(low, high)
        return {step / STEPS: size for step, size in self.sizes.items()}

    def _size(self, step: int, refuse: bool = False) -> int:
        """Bytes at a step; 0 where too few slots stay."""
        if step <= 0:
            return 0
        if step not in self.sizes:
            try:
                self.sizes[step] = self.measure(step / STEPS)
            except BudgetError:
                if refuse:
                    raise
                return 0
        return self.sizes[step]

    def _tooth(self) -> tuple[int, int]:
        """The fall after which the answer lies, and the next one: all lie a period apart and are equally deep."""
        last = STEPS - 1  # with everything kept there are no positions to store: another line
        top = self._size(last)
        span = round(self.period * max(1, STEPS // 2 // self.period))  # many periods, so that rounding matters little
        rise = (top - self._size(last - span)) / span * self.period  # bytes of a period
        if rise <= 0:
            return 0, STEPS
        low, high = last - round(self.period), last
        while high - low > 1:  # sizes before the fall are above the line from period to period, those after it below
            middle = (low + high) // 2
            line = top - rise * (last - middle) / self.period
            low, high = (middle, high) if self._size(middle) > line else (low, middle)
        down = math.floor((self._size(high) - self.wanted) / rise)
        while (foot := math.ceil(high - max(0, down) * self.period)) > 0 and self._size(foot) > self.wanted:
            down += 1
        return (foot, min(STEPS, foot + round(self.period))) if foot > 0 else (0, STEPS)

    def _enclose(self, low: int, high: int) -> None:
        """Measure until the last step that fits and the first that does not are neighbours.

        Between two falls bytes are nearly linear, so the line through the two values nearest to what is wanted leads
        to within a few steps of it; what is left is halved.
        """
        margin = _MARGIN
        for tries in range(STEPS):
            if high - low <= 1:
                return
            step = (low + high) // 2
            if tries < _GUESSES and high - low > 2 * margin:
                # kept away from both ends, so that a good guess and the one after it enclose what is looked for
                step = min(max(self._guess(low, high, step), low + margin), high - margin)
                margin *= 2 if tries > 1 else 1
            low, high = (step, high) if self._size(step) <= self.wanted else (low, step)

    def _guess(self, low: int, high: int, otherwise: int) -> int:
        """The step where the line through the two steps nearest in bytes meets what is wanted."""
        known = [(x, self.sizes[x]) for x in self.sizes if low <= x <= high] + [(0, 0)]
        known = sorted(known, key=lambda pair: abs(pair[1] - self.wanted))[:2]
        (x, y), (z, w) = known[0], known[-1]
        return otherwise if w == y else round(x + (self.wanted - y) * (z - x) / (w - y))
