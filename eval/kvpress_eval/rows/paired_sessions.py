"""Sessions as the unit that is resampled: one that was asked at several depths counts once.

The depths of a session share its facts and its filler, so that their scores are no more independent than its turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from . import stats
from .row import Row


class Paired(NamedTuple):
    """The sessions of one task that both sides of a comparison have, in score fractions.

    `ours`, `theirs` and `differences` have shape `(sessions,)`; `answers` is how many answers a session has, all depths
    together, on average: NaN without sessions.
    """

    ours: stats.Array
    theirs: stats.Array
    differences: stats.Array
    answers: float


@dataclass(frozen=True)
class Shift:
    """A measure on the sessions and turns that two sides share: means of both, and first minus second; tasks weigh the
    same.
    """

    means: tuple[float, float]
    difference: stats.Interval
    p: float


def averaged(values: Iterable[tuple[Row, str, float]]) -> stats.Array:
    """Mean of each session's values over the depths it was asked at, shape `(sessions,)`, in order of appearance.

    A value is given with its row and the session's id there. An id is `name#hash of its text`: depths share the name.
    """
    found: dict[tuple[int, str], list[float]] = {}
    for row, session, value in values:
        found.setdefault((row.seed, session.rpartition("#")[0] or session), []).append(value)
    return np.array([sum(same) / len(same) for same in found.values()], dtype=np.float64)


def scores(rows: Iterable[Row]) -> stats.Array:
    """Score of each session of one task, shape `(sessions,)`."""
    return averaged((row, session, sum(turns) / len(turns)) for row in rows for session, turns in row.scores.items())


def values(row: Row, measure: str = "") -> stats.Scores:
    """What a row says of each turn: its score, or a measure by name; empty where it has no such measure."""
    return dict(zip(row.session_ids, row.measures.get(measure, ()), strict=False)) if measure else row.scores


def measured(rows: Iterable[Row], measure: str) -> stats.Array:
    """A measure of each session of one task, shape `(sessions,)`; sessions and turns without a value are left out."""
    found = [
        (row, session, [value for value in turns if value is not None])
        for row in rows
        for session, turns in values(row, measure).items()
    ]
    return averaged((row, session, sum(turns) / len(turns)) for row, session, turns in found if turns)


def paired(pairs: Iterable[tuple[Row, Row]], part: slice = stats.ALL, measure: str = "") -> Paired:
    """The sessions and turns that the rows of each pair share, as `stats.shared_turns` has them: of their scores, or
    of a measure by name.
    """
    found = [
        (row, session, turns)
        for row, other in pairs
        for session, turns in stats.shared_turns(values(row, measure), values(other, measure), part).items()
    ]

    def mean(value: Callable[[float, float], float]) -> stats.Array:
        return averaged(
            (row, session, sum(value(*turn) for turn in turns) / len(turns)) for row, session, turns in found
        )

    ours = mean(lambda a, _: a)
    answers = sum(len(turns) for *_, turns in found) / ours.size if found else float("nan")
    return Paired(ours, mean(lambda _, b: b), mean(lambda a, b: a - b), answers)


def shift(tasks: Sequence[Iterable[tuple[Row, Row]]], measure: str, part: slice = stats.ALL) -> Shift | None:
    """The change of a measure ("" is the score) from the second to the first row of each pair, tasks weighted equally;
    None where one of them shares no value of it.
    """
    both = [paired(pairs, part, measure) for pairs in tasks]
    if not both or not all(one.differences.size for one in both):
        return None
    ours = sum(float(one.ours.mean()) for one in both) / len(both)
    theirs = sum(float(one.theirs.mean()) for one in both) / len(both)
    strata = [one.differences for one in both]
    return Shift((ours, theirs), stats.bootstrap_interval(strata), stats.sign_flip_p(strata))
