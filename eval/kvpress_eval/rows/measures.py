"""What rows measure of every question beside its score, and how tables show it.

A measure that tables are to show is an entry of `SHOWN`; those of forced texts, which have tables of their own, are
entries of `FORCED`; all others are kept in the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from . import stats
from .numbers import fixed, nats, snap
from .paired_sessions import measured, paired
from .row import Row


@dataclass(frozen=True)
class Measure:
    """How a measure is shown: `title` over its column, and `about`, what it is with its unit. `digits` stand after the
    point; None is for one that is written by its leading digits (`numbers.nats`).
    """

    title: str
    about: str
    digits: int | None = 3

    def text(self, value: float | None, *, sign: bool = False) -> str:
        """A value in its digits."""
        return nats(value, sign=sign) if self.digits is None else fixed(value, self.digits, sign=sign)

    def span(self, found: stats.Interval, *, sign: bool = False) -> str:
        """The interval in brackets; empty where there is none."""
        if snap(found.low) is None or snap(found.high) is None:
            return ""
        return f"[{self.text(found.low, sign=sign)}, {self.text(found.high, sign=sign)}]"

    def difference(self, found: stats.Interval) -> str:
        """A difference with its interval."""
        return f"{self.text(found.mean, sign=True)} {self.span(found, sign=True)}".strip()


SHOWN: Mapping[str, Measure] = {
    "gold_logprob": Measure("gold log p", "log-probability of the gold answer, nats per token"),
}
FORCED: Mapping[str, Measure] = {
    "kl": Measure("KL", "divergence from the full cache, nats a token, lower is better", None),
    "nll": Measure("NLL", "negative log-likelihood of the text, nats a token, lower is better", None),
}
MEASURES: Mapping[str, Measure] = {**SHOWN, **FORCED}


@dataclass(frozen=True)
class Measured:
    """A measure over sessions: its mean, and the paired difference to the full cache where both rows have it."""

    mean: stats.Interval
    diff: stats.Interval | None


def shown(rows: Iterable[Row]) -> list[str]:
    """The names of `SHOWN` that one of the rows has, in that order."""
    there = {name for row in rows for name in row.measures}
    return [name for name in SHOWN if name in there]


def summary(strata: Sequence[Sequence[Row]], references: Mapping[str, Row], is_paired: bool) -> dict[str, Measured]:
    """Every measure that all tasks (strata of rows) have: a mean over some of them would be of something else."""
    found = {}
    for name in shown(row for rows in strata for row in rows):
        means = [measured(rows, name) for rows in strata]
        if not all(values.size for values in means):
            continue
        diff = None
        if is_paired:
            pairs = [paired([(row, references[row.path]) for row in rows], measure=name) for rows in strata]
            if all(one.differences.size for one in pairs):
                diff = stats.bootstrap_interval([one.differences for one in pairs])
        found[name] = Measured(stats.bootstrap_interval(means), diff)
    return found
