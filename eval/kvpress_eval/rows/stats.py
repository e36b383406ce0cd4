"""Statistics of paired, clustered benchmark scores, with numpy alone.

- The unit of resampling is the *session*: its turns share one context and are not independent.
- Every comparison is *paired*: the same sessions, answered from the full cache and from the
  compressed one.
- A macro mean over tasks is a stratified mean: every function takes one array per task (stratum)
  and gives each task the same weight, however many sessions it has.
- Everything is seeded and gives the same bytes on every machine: the random streams come from
  numpy's frozen `RandomState`, because `Generator` streams may change between numpy releases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Scores = Mapping[str, Sequence[float | None]]  # session id -> the score of each turn, None where it has none
Turns = Sequence[tuple[float, float]]  # of one session: (method, full cache)
ALL = slice(None)

RESAMPLES = 10_000
BCA_BELOW = 40  # sessions in the smallest stratum under which the percentile interval is too narrow
EXACT_UP_TO = 14  # sessions up to which all 2^n sign patterns are enumerated
MARGIN = 0.02  # a loss that counts as no worse, score fraction
RETAINED_FROM = 0.2  # a full cache that scores less makes a quotient of noise
NOT_WORSE, WORSE, NOT_SHOWN = "not worse", "worse", "not shown"
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    `low` and `high` are NaN when a stratum has fewer than two sessions. `method` is "percentile",
    "bca", "constant" (no variation at all: the bootstrap has nothing to resample) or "none".
    """

    mean: float
    low: float
    high: float
    n: int
    method: str


def session_means(session_scores: Iterable[Sequence[float]]) -> Array:
    """Mean over the turns of each session, shape `(sessions,)`."""
    return np.array([sum(turns) / len(turns) for turns in session_scores], dtype=np.float64)


def shared_turns(method: Scores, full: Scores, part: slice = ALL) -> dict[str, Turns]:
    """The turns that both have, of those in `part`, by session id in sorted order; no session without one."""
    found: dict[str, Turns] = {}
    for session in sorted(method.keys() & full.keys()):
        pairs = zip(method[session][part], full[session][part], strict=False)
        if turns := [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]:
            found[session] = turns
    return found


def paired_differences(method: Scores, full: Scores, part: slice = ALL) -> Array:
    """`d_s = mean over turns t of (method[s][t] - full[s][t])` for the sessions `s` and turns of `shared_turns`.

    What only one side has is left out: compare the length of the result with what you expected.
    """
    turns = shared_turns(method, full, part).values()
    return session_means([ours - theirs for ours, theirs in pairs] for pairs in turns)


def bootstrap_interval(
    strata: Sequence[ArrayLike],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Session bootstrap of the macro mean `m = 1/T sum_t mean(strata[t])`.

    Sessions are drawn with replacement within each stratum. The interval is the percentile one, or
    BCa (bias-corrected and accelerated, Efron 1987) when the smallest stratum has fewer than 40
    sessions: quantile levels `Phi(z0 + (z0 + z) / (1 - a (z0 + z)))` with `z0 = Phi^-1(share of
    resampled means below m, ties counted half)` and `a = sum(l^3) / (6 sum(l^2)^1.5)`, `l` the
    influence of each session on `m`. Under 10 sessions even BCa covers less than it says.
    """
    arrays = [np.asarray(values, dtype=np.float64) for values in strata]
    if not arrays or any(values.size == 0 for values in arrays):
        return Interval(float("nan"), float("nan"), float("nan"), 0, "none")
    n = sum(values.size for values in arrays)
    mean = float(np.mean([values.mean() for values in arrays]))
    smallest = min(values.size for values in arrays)
    if smallest < 2:
        return Interval(mean, float("nan"), float("nan"), n, "none")
    if all(np.ptp(values) < 1e-12 for values in arrays):
        return Interval(mean, mean, mean, n, "constant")
    means = np.zeros(resamples)
    for index, values in enumerate(arrays):
        drawn = _resample_weights(values.size, resamples, seed) @ values
        # Rows of the weights are independent, so a shift makes the strata independent.
        means += (np.roll(drawn, index * 997) if index else drawn) / len(arrays)
    tail = (1 - level) / 2
    levels, method = [tail, 1 - tail], "percentile"
    if smallest < BCA_BELOW:
        levels, method = _bca_levels(arrays, means, mean, tail), "bca"
    low, high = np.quantile(means, levels)
    return Interval(mean, float(low), float(high), n, method)


def sign_flip_p(strata: Sequence[ArrayLike], *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p of "the paired differences are symmetric about zero", by flipping signs.

    Statistic `|1/T sum_t mean(strata[t])|`. All `2^n` patterns of the n non-zero differences are
    enumerated when `n <= 14`; otherwise `p = (1 + #{as large or larger}) / (1 + resamples)`.
    """
    arrays = [np.asarray(values, dtype=np.float64) for values in strata]
    if not arrays or any(values.size == 0 for values in arrays):
        return float("nan")
    shares = np.concatenate([values / values.size for values in arrays])
    threshold = abs(float(shares.sum())) * (1 - 1e-9) - 1e-15  # ties count, whatever the rounding
    moving = shares[np.abs(shares) > 1e-12]
    if moving.size == 0:
        return 1.0
    if moving.size <= EXACT_UP_TO:
        bits = np.arange(2**moving.size)[:, None] >> np.arange(moving.size) & 1
        return float(np.mean(np.abs((2.0 * bits - 1.0) @ moving) >= threshold))
    signs = _signs(shares.size, resamples, seed)
    blocks = (signs[i : i + 1000].astype(np.float64) @ shares for i in range(0, resamples, 1000))
    extreme = sum(int(np.count_nonzero(np.abs(block) >= threshold)) for block in blocks)
    return (1 + extreme) / (1 + resamples)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p: `max over j <= i of min(1, (m - j) p_(j))`, j from 0; NaN is left out."""
    finite = [i for i, p in enumerate(p_values) if p == p]
    adjusted = [float("nan")] * len(p_values)
    running = 0.0
    for rank, i in enumerate(sorted(finite, key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(finite) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def minimum_detectable_difference(strata: Sequence[ArrayLike], *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true difference a two-sided test finds: `(z_(1-alpha/2) + z_power) se`.

    `se = 1/T sqrt(sum_t sd_t^2 / n_t)` from the paired differences observed (normal approximation).
    NaN with fewer than two sessions, and when no session differs: then see `unseen_share`.
    """
    arrays = [np.asarray(values, dtype=np.float64) for values in strata]
    if not arrays or any(values.size < 2 for values in arrays):
        return float("nan")
    variance = sum(float(values.var(ddof=1)) / values.size for values in arrays)
    if variance < 1e-24:
        return float("nan")
    reach = _NORMAL.inv_cdf(1 - alpha / 2) + _NORMAL.inv_cdf(power)
    return float(reach * np.sqrt(variance) / len(arrays))


def unseen_share(n: int, *, level: float = 0.95) -> float:
    """Share of sessions that may differ though none of n did: `1 - (1 - level)^(1/n)`, about 3/n.

    This is what a difference of exactly zero supports; a bootstrap interval of zero width claims
    far too much.
    """
    return 1.0 - (1.0 - level) ** (1.0 / n) if n > 0 else float("nan")


def unseen_loss(tasks: Sequence[tuple[int, float]]) -> float:
    """How much of a macro mean may be lost though no session was seen to lose, 97.5 % sure of each task.

    `tasks` has (sessions n, answers of a session a) of each: mean over tasks of `unseen_share(n, level=0.975) / a`, as
    many sessions as could go unseen lose one of their answers. NaN without tasks, or with a task without sessions.
    """
    losses = [unseen_share(n, level=0.975) / answers for n, answers in tasks]
    return sum(losses) / len(losses) if losses else float("nan")


def verdict(diff: Interval, *, unseen: float, margin: float = MARGIN) -> str:
    """Whether a method was shown to be no worse than the full cache by more than `margin`.

    "not worse": the one-sided 97.5 % lower bound of the paired difference, which is the lower end of its two-sided
    95 % interval, is above -margin, and so is `-unseen`, the `unseen_loss` of as many sessions: where few sessions
    differ, or none loses, the interval alone proves too much. Otherwise "worse" when the whole interval is below zero,
    and "not shown" when it is not. Empty when there is no interval.
    """
    if not diff.low <= diff.high:
        return ""
    bound = min(diff.low, -unseen)
    return NOT_WORSE if bound > -margin else WORSE if diff.high < 0 else NOT_SHOWN


def retention(method: float, full: float) -> float:
    """`method / full`, NaN where the full cache scores less than 20 points."""
    return method / full if full >= RETAINED_FROM else float("nan")


@dataclass(frozen=True)
class Flips:
    """Answers that changed: right with the full cache and wrong now (`lost`), the reverse (`won`), of how many."""

    lost: int
    won: int
    of: int


def flips(pairs: Iterable[tuple[Scores, Scores]]) -> Flips | None:
    """Changed answers over (method, full cache) pairs of session scores; a net difference hides them.

    A pair with a score between 0 and 1 is left out: its answers are not right or wrong. None when all are.
    """
    lost = won = of = 0
    for method, full in pairs:
        turns = [pair for pairs in shared_turns(method, full).values() for pair in pairs]
        if any(score not in (0, 1) for pair in turns for score in pair):
            continue
        of += len(turns)
        lost += sum(theirs > ours for ours, theirs in turns)
        won += sum(ours > theirs for ours, theirs in turns)
    return Flips(lost, won, of) if of else None


def _bca_levels(arrays: Sequence[Array], means: Array, mean: float, tail: float) -> list[float]:
    # Scores are few different values, so many resampled means tie with the mean, but for the last bit of the sum.
    below = np.mean(means < mean - 1e-12) + np.mean(np.abs(means - mean) <= 1e-12) / 2
    edge = 0.5 / means.size
    z0 = _NORMAL.inv_cdf(min(max(float(below), edge), 1 - edge))
    influence = np.concatenate([(values - values.mean()) / values.size for values in arrays])
    acceleration = float((influence**3).sum() / (6 * (influence**2).sum() ** 1.5))
    levels = []
    for z in (_NORMAL.inv_cdf(tail), _NORMAL.inv_cdf(1 - tail)):
        levels.append(_NORMAL.cdf(z0 + (z0 + z) / max(1 - acceleration * (z0 + z), 1e-6)))
    return levels


@lru_cache(maxsize=4)
def _resample_weights(n: int, resamples: int, seed: int) -> Array:
    """How often each of n sessions is drawn, divided by n; one resample per row."""
    drawn = np.random.RandomState(seed).randint(0, n, size=(resamples, n))
    offsets = np.arange(resamples)[:, None] * n
    counts = np.bincount((drawn + offsets).ravel(), minlength=resamples * n)
    return counts.reshape(resamples, n) / n


@lru_cache(maxsize=4)
def _signs(n: int, resamples: int, seed: int) -> NDArray[np.int8]:
    bits = np.random.RandomState(seed).randint(0, 2, size=(resamples, n), dtype=np.int8)
    return (2 * bits - 1).astype(np.int8)
