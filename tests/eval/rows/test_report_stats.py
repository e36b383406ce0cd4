"""Statistics against known values, exact enumeration and simulated coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from kvpress_eval.rows import stats


def test_paired_differences_match_sessions_by_id() -> None:
    ours = {"b": [1.0, 0.0], "a": [0.0, 0.0, 1.0], "only ours": [1.0]}
    full = {"a": [1.0, 0.0, 1.0], "b": [1.0, 1.0], "only full": [0.0]}
    assert stats.paired_differences(ours, full) == pytest.approx([-1 / 3, -1 / 2])
    assert stats.paired_differences(ours, full, slice(2, None)) == pytest.approx([0.0]), "b has no such turn"
    assert stats.paired_differences(ours, {}).shape == (0,)
    assert stats.shared_turns(ours, full)["b"] == [(1.0, 1.0), (0.0, 1.0)]


def test_session_means_weight_sessions_not_turns() -> None:
    assert stats.session_means([[1.0], [0.0, 0.0, 1.0, 1.0]]) == pytest.approx([1.0, 0.5])


def test_holm_known_values() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = stats.holm([0.5, math.nan, 0.9])
    assert adjusted[0] == pytest.approx(1.0) and math.isnan(adjusted[1]) and adjusted[2] == 1.0
    assert stats.holm([]) == []


def test_sign_flip_exact_values() -> None:
    assert stats.sign_flip_p([[1.0] * 6]) == pytest.approx(2 / 64)
    assert stats.sign_flip_p([[0.2, -0.2, 0.0, 0.0]]) == 1.0
    assert stats.sign_flip_p([[0.0] * 30]) == 1.0
    assert math.isnan(stats.sign_flip_p([]))


def test_sign_flip_counts_ties_despite_float_noise() -> None:
    d = [0.1, 0.2, 0.3, -0.1, 0.7]  # 0.1 + 0.2 - 0.3 is not 0.0 in floats
    fractions = [1, 2, 3, -1, 7]
    sums = [
        abs(sum(s * f for s, f in zip(signs, fractions, strict=True))) for signs in itertools.product((-1, 1), repeat=5)
    ]
    assert stats.sign_flip_p([d]) == pytest.approx(np.mean([s >= 12 for s in sums]))


def test_sign_flip_sampling_agrees_with_enumeration(monkeypatch: pytest.MonkeyPatch) -> None:
    strata = [np.array([0.2, 0.4, -0.2, 0.6, 0.2, 0.0]), np.array([0.4, -0.4, 0.2, 0.2, 0.6])]
    exact = stats.sign_flip_p(strata)
    monkeypatch.setattr(stats, "EXACT_UP_TO", 0)
    assert stats.sign_flip_p(strata) == pytest.approx(exact, abs=0.01)


def test_sampled_p_is_never_zero() -> None:
    assert stats.sign_flip_p([[1.0] * 60], resamples=999) == pytest.approx(1 / 1000)


def test_detectable_difference_matches_the_sample_size_tables() -> None:
    # A paired sd of 0.15 needs 442 items for 2 points, of 0.05 needs 50.
    for sd, n in ((0.15, 442), (0.05, 50)):
        d = np.resize([sd, -sd], n)
        d *= sd / d.std(ddof=1)
        assert stats.minimum_detectable_difference([d]) == pytest.approx(0.02, rel=0.01)
    assert math.isnan(stats.minimum_detectable_difference([[0.0] * 9]))
    assert math.isnan(stats.minimum_detectable_difference([[0.3]]))


def test_two_strata_detect_less_than_one_by_root_two() -> None:
    d = np.linspace(-1, 1, 30)
    one, two = (stats.minimum_detectable_difference([d] * k) for k in (1, 2))
    assert one / two == pytest.approx(math.sqrt(2))


def test_unseen_share_is_the_rule_of_three() -> None:
    assert stats.unseen_share(100) == pytest.approx(0.0295, abs=1e-4)
    assert stats.unseen_share(1) == pytest.approx(0.95)


def test_percentile_interval_is_the_normal_one_for_many_sessions() -> None:
    x = np.random.RandomState(0).rand(400)
    found = stats.bootstrap_interval([x])
    reach = 1.96 * x.std(ddof=1) / 20
    assert found.method == "percentile" and found.n == 400
    assert [found.low, found.high] == pytest.approx([x.mean() - reach, x.mean() + reach], abs=0.003)


def test_bca_leans_towards_the_long_tail() -> None:
    x = np.array([0.0] * 14 + [0.2, 0.2, 0.4, 1.0])
    found = stats.bootstrap_interval([x])
    assert found.method == "bca"
    assert found.high - found.mean > 1.4 * (found.mean - found.low)


def test_bca_is_that_of_scipy_where_ties_are_rounded() -> None:
    """Same draws, one task. Without the rounding scipy takes ties for more or less by the last bit of a sum."""
    scipy_stats = pytest.importorskip("scipy.stats")
    for seed in range(5):
        values = np.random.RandomState(seed).choice([-1.0, -0.2, 0.0, 0.0, 0.2], size=20)
        found = scipy_stats.bootstrap(
            (values,),
            lambda sample, axis=-1: np.round(sample.mean(axis=axis), 12),
            n_resamples=stats.RESAMPLES,
            vectorized=True,
            method="BCa",
            random_state=np.random.RandomState(0),
        ).confidence_interval
        ours = stats.bootstrap_interval([values])
        assert ours.method == "bca"
        assert (ours.low, ours.high) == pytest.approx((found.low, found.high), abs=1e-9)


def test_strata_are_resampled_independently() -> None:
    x = np.random.RandomState(1).rand(60)
    one, four = stats.bootstrap_interval([x]), stats.bootstrap_interval([x] * 4)
    assert (four.high - four.low) / (one.high - one.low) == pytest.approx(0.5, abs=0.03)


def test_small_and_constant_samples_say_so() -> None:
    assert stats.bootstrap_interval([[0.5]]).method == "none"
    assert math.isnan(stats.bootstrap_interval([[0.5]]).low)
    assert stats.bootstrap_interval([[0.2] * 9]) == stats.Interval(
        pytest.approx(0.2), pytest.approx(0.2), pytest.approx(0.2), 9, "constant"
    )
    assert stats.bootstrap_interval([]).n == 0


def test_same_seed_same_numbers() -> None:
    x = [np.random.RandomState(2).rand(25)]
    first = stats.bootstrap_interval(x, seed=3)
    stats._resample_weights.cache_clear()
    assert stats.bootstrap_interval(x, seed=3) == first
    assert stats.bootstrap_interval(x, seed=4) != first


@pytest.mark.parametrize(("sessions", "least"), [(12, 0.86), (30, 0.90), (60, 0.91)])
def test_coverage_and_level_with_clustered_turns(sessions: int, least: float) -> None:
    """Turns of a session share a difficulty; the interval covers about 95 %, the test keeps 5 %."""
    random, covered, false_alarms, repeats = np.random.RandomState(sessions), 0, 0, 250
    for _ in range(repeats):
        ease = random.beta(2, 1, size=sessions)[:, None]  # mean 2/3
        full, same, worse = (random.rand(sessions, 5) < ease * k for k in (1.0, 1.0, 0.7))
        d = worse.mean(1) - full.mean(1)
        found = stats.bootstrap_interval([d], resamples=1000)
        covered += found.low <= -0.3 * 2 / 3 <= found.high
        null = same.mean(1) - full.mean(1)
        false_alarms += stats.sign_flip_p([null], resamples=1000) <= 0.05
    assert least <= covered / repeats <= 0.99
    assert false_alarms / repeats <= 0.09


def interval(low: float, high: float, method: str = "bca", n: int = 80) -> stats.Interval:
    return stats.Interval((low + high) / 2, low, high, n, method)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-0.019, 0.01, "not worse"),
        (-0.019, -0.001, "not worse"),  # worse for sure, but by less than the margin
        (-0.02, 0.01, "not shown"),  # the bound must be above the margin, not at it
        (-0.08, 0.0, "not shown"),
        (-0.08, -0.0001, "worse"),
        (0.03, 0.05, "not worse"),
        (math.nan, math.nan, ""),
    ],
)
def test_verdicts_at_two_points(low: float, high: float, words: str) -> None:
    assert stats.verdict(interval(low, high), unseen=0.01) == words


def verdict(strata: list[list[float]], turns: float = 5, margin: float = 0.02) -> str:
    unseen = stats.unseen_loss([(len(values), turns) for values in strata])
    return stats.verdict(stats.bootstrap_interval(strata), unseen=unseen, margin=margin)


def test_no_session_that_loses_needs_enough_sessions() -> None:
    # 1 - 0.025^(1/n) of n sessions may go unseen and lose one of 5 answers: under 2 points from 36 sessions on.
    for n, words in ((35, "not shown"), (36, "not worse")):
        assert ((1 - 0.025 ** (1 / n)) / 5 < 0.02) == (words == "not worse")
        assert verdict([[0.0] * n]) == verdict([[0.2] + [0.0] * (n - 1)]) == verdict([[0.2] * n]) == words
    assert verdict([[0.0] * 36], turns=1) == verdict([[0.0] * 36], margin=0.01) == "not shown"
    assert verdict([[-0.2] * 80]) == "worse"


@pytest.mark.parametrize("d", [[0.0, 0.0, 0.0, 0.0, 0.2], [0.0, 0.2], [0.2, 0.2, 0.2]])
def test_a_session_that_wins_is_no_evidence_about_losses(d: list[float]) -> None:
    assert verdict([d]) == "not shown"


def test_a_session_that_loses_does_not_lower_the_bar() -> None:
    """With any loss the bound is at most that of no loss: nine sessions show nothing, whatever their interval."""
    d = stats.Interval(-0.001, -0.002, 0.0, 9, "bca")
    assert stats.verdict(d, unseen=stats.unseen_loss([(9, 5)])) == "not shown"


def test_the_sessions_of_one_task_say_nothing_about_another() -> None:
    assert stats.unseen_loss([(3, 5), (500, 1)]) == pytest.approx(
        ((1 - 0.025 ** (1 / 3)) / 5 + 1 - 0.025 ** (1 / 500)) / 2
    )
    assert verdict([[0.0] * 3, [0.0] * 500]) == "not shown"
    assert verdict([[0.0] * 40, [0.0] * 500]) == "not worse"
    assert math.isnan(stats.unseen_loss([])) and math.isnan(stats.unseen_loss([(0, math.nan), (9, 5)]))


def test_the_lower_end_is_the_one_sided_bound() -> None:
    d = np.random.RandomState(5).normal(-0.01, 0.1, size=400)
    both = stats.bootstrap_interval([d])
    one_sided = np.quantile(stats._resample_weights(400, stats.RESAMPLES, 0) @ d, 0.025)
    assert both.low == pytest.approx(one_sided)


def test_flips_count_both_ways_and_only_right_or_wrong() -> None:
    full = {"a": [1.0, 1.0, 0.0], "b": [0.0, 1.0], "full only": [1.0]}
    ours = {"a": [0.0, 1.0, 1.0], "b": [0.0, 0.0], "ours only": [1.0]}
    assert stats.flips([(ours, full)]) == stats.Flips(lost=2, won=1, of=5)
    halves = ({"a": [0.5]}, {"a": [1.0]})
    assert stats.flips([(ours, full), halves]) == stats.Flips(2, 1, 5)
    assert stats.flips([halves]) is None and stats.flips([]) is None


def test_retention_is_of_a_full_cache_that_can_do_the_task() -> None:
    assert stats.retention(0.3, 0.6) == pytest.approx(0.5) and stats.retention(0.1, 0.2) == pytest.approx(0.5)
    assert math.isnan(stats.retention(0.1, 0.199))
