"""Sessions as the unit that is resampled: one that was asked at several depths counts once.

The depths of a session share its facts and its filler, so that their scores are no more independent than its turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from .. import stats
from .row import Row

ALL = slice(None)


class Paired(NamedTuple):
    """The sessions of one task that both sides of a comparison have, in score fractions.

    `ours`, `theirs` and `differences` have shape `(sessions,)`; `answers` is how many answers a session has, all depths
    together, on average: NaN without sessions.
    """

    ours: stats.Array
    theirs: stats.Array
    differences: stats.Array
    answers: float


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


def paired(pairs: Sequence[tuple[Row, Row]], part: slice = ALL) -> Paired:
    """The sessions that the rows of each pair share, by id; `part`: only these of their turns.

    Left out are a session without such turns and a turn that only one side has.
    """
    keys: list[tuple[Row, str]] = []
    ours: list[float] = []
    theirs: list[float] = []
    differences: list[float] = []
    answers = 0
    for one, other in pairs:
        for session in sorted(one.scores.keys() & other.scores.keys()):
            turns = list(zip(one.scores[session][part], other.scores[session][part], strict=False))
            if turns:
                keys.append((one, session))
                ours.append(sum(a for a, _ in turns) / len(turns))
                theirs.append(sum(b for _, b in turns) / len(turns))
                differences.append(sum(a - b for a, b in turns) / len(turns))
                answers += len(turns)

    def mean(values: Sequence[float]) -> stats.Array:
        return averaged((*key, value) for key, value in zip(keys, values, strict=True))

    sessions = mean(ours)
    share = answers / sessions.size if sessions.size else float("nan")
    return Paired(sessions, mean(theirs), mean(differences), share)
