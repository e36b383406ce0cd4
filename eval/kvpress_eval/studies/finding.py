"""One finding: a claim, the contrast that tests it, and what its controls did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError
from ..rows import stats
from ..rows.claims import precedence
from ..rows.row import Row
from ..rows.stats import Array, Interval

__all__ = ["MARGIN", "Check", "Finding", "Rows", "contrast", "losses", "retention"]

MARGIN = 0.1
"""Scores that differ by less, of 1, are the same to a claim of no difference."""


@dataclass(frozen=True)
class Check:
    """One contrast in score points. ``expected`` is the sign the claim needs: -1, +1, or 0 for "none to be seen".

    A contrast of no effect holds where its whole interval is inside plus and minus ``MARGIN``; of the others the
    whole interval must be beyond zero.
    """

    what: str
    found: Interval
    p: float
    expected: int

    @property
    def holds(self) -> bool:
        """Whether the interval says what the claim needs."""
        if self.expected:
            edge = self.found.low if self.expected > 0 else -self.found.high
            return edge > 0
        return self.found.low >= -MARGIN and self.found.high <= MARGIN


@dataclass(frozen=True)
class Finding:
    """A claim with its checks; ``table`` are the scores behind it: a head and lines."""

    id: str
    claim: str
    checks: tuple[Check, ...]
    table: tuple[Sequence[str], ...]
    note: str = ""

    @property
    def verdict(self) -> str:
        """shown, partly, or not shown."""
        good = sum(check.holds for check in self.checks)
        return "shown" if good == len(self.checks) else "partly shown" if good else "not shown"


class Rows:
    """The rows of a study by press, task and mode.

    Raises:
        UsageError: at a lookup that finds no finished row.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = {(row.press, row.task, row.mode): row for row in sorted(rows, key=precedence)}
        for name in ("scorer", "weights", "device", "dtype", "length", "seed", "depth"):
            found = sorted({str(getattr(row, name)) for row in rows})
            if len(found) > 1:
                raise UsageError(
                    f"the rows of a study must be of one {name}, got {', '.join(found)}; run it for one, into a folder "
                    "of its own (--results)"
                )

    def __call__(self, press: str, task: str, mode: str) -> Row:
        try:
            return self._rows[press, task, mode]
        except KeyError:
            raise UsageError(
                f"no finished row of {press} on {task}, {mode}; run the study without --report-only"
            ) from None


def losses(method: Row, full: Row, part: slice) -> Array:
    """What the press costs each session in some of its turns, in score fractions, negative where it costs."""
    return stats.paired_differences(method.scores, full.scores, part)


def retention(method: Row, full: Row, part: slice = stats.ALL) -> Array:
    """Per session, a value whose mean is score / full score: the ratio linearised at its mean (delta method), so that
    resampling sessions gives its interval.
    """
    turns = stats.shared_turns(method.scores, full.scores, part).values()
    m, f = (stats.session_means([turn[side] for turn in pairs] for pairs in turns) for side in (0, 1))
    if f.mean() < stats.RETAINED_FROM:
        raise UsageError(f"the full cache scores {100 * f.mean():.1f} on {full.task}: too little to speak of retention")
    found: Array = m / f.mean() - (m.mean() / f.mean() ** 2) * (f - f.mean())
    return found


def contrast(what: str, strata: Sequence[Array], expected: int) -> Check:
    """A check of the macro mean of per-session differences, one array per task."""
    found = stats.bootstrap_interval(list(strata))
    return Check(what, found, stats.sign_flip_p(list(strata)), expected)
