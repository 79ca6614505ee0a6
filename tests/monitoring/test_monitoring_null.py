"""The null of PSI against windows drawn request by request, and what is learned from panes against what was put in."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rankwell.errors import MonitoringError
from rankwell.monitoring.baseline import HeldDays, LastDay, SameHours
from rankwell.monitoring.divergences import js_divergence, psi
from rankwell.monitoring.judgement import judged_shares, learned_shares
from rankwell.monitoring.null_bootstrap import bootstrap_null
from rankwell.monitoring.null_divergence import KL, PSI, Divergence, Spread, detectable_divergence, divergence_null
from rankwell.monitoring.null_spread import Dispersion, NullSpread, PastWindows
from rankwell.monitoring.null_tail import NullTail
from rankwell.monitoring.pane_layout import CategoricalBins
from rankwell.monitoring.tick_history import TICK_US, TICKS_PER_DAY, Looseness


def equal_spread(directions: int, variance: float) -> Spread:
    total, squares, cubes = (np.array(directions * variance**power) for power in (1, 2, 3))
    return Spread(np.array(float(directions)), total, squares, cubes, np.zeros(()))


@pytest.mark.parametrize("freedom", [1, 5, 20])
@pytest.mark.parametrize("chance", [1e-2, 1e-6])
def test_the_tail_of_a_sum_of_squares_is_exact(freedom: int, chance: float) -> None:
    tail = NullTail(np.array(float(freedom)), np.array((2.0 * freedom) ** 0.5), np.array((8.0 / freedom) ** 0.5))
    limit = stats.chi2(freedom).isf(chance)
    assert float(tail.p_value(limit)) == pytest.approx(chance, rel=1e-6)
    assert float(tail.limit(chance)) == pytest.approx(limit, rel=1e-6)


def test_a_scale_that_is_learned_makes_the_tail_longer_and_limits_are_inverse() -> None:
    known = NullTail(np.array(5.0), np.array(10.0**0.5), np.array(1.2649))
    learned = NullTail(known.mean, known.deviation, known.skewness, np.array(0.2))
    limit = learned.limit(1e-5)
    assert float(learned.p_value(limit)) == pytest.approx(1e-5, rel=1e-3)
    assert limit > 1.2 * known.limit(1e-5)
    drawn = 5 * np.exp(0.2 * np.random.default_rng(0).normal(size=400_000))
    drawn *= np.random.default_rng(1).chisquare(5, 400_000) / 5
    assert float((drawn > learned.limit(1e-3)).mean()) == pytest.approx(1e-3, rel=0.25)


def test_tails_that_are_joined_have_the_limits_that_each_has_alone() -> None:
    known = NullTail(np.array([5.0, 2.0]), np.array([10.0**0.5, 0.0]), np.array([1.2649, 0.0]))
    learned = NullTail(np.array([1.0]), np.array([2.0**0.5]), np.array([8.0**0.5]), np.array([1.2]))
    limits = NullTail.joined([known, learned]).limit(1e-5)
    np.testing.assert_allclose(limits, [*known.limit(1e-5), *learned.limit(1e-5)], rtol=1e-5)
    assert limits[1] == 2.0  # what has no deviation never passes its mean
    assert learned.p_value(learned.limit(1e-5)) == pytest.approx([1e-5], rel=1e-5)


def test_no_chance_and_no_values_are_refused() -> None:
    with pytest.raises(MonitoringError, match="no chance"):
        NullTail(np.array(1.0), np.array(1.0), np.array(1.0)).limit(0.0)
    with pytest.raises(MonitoringError, match="three values"):
        NullTail.of_values(np.zeros(2))
    with pytest.raises(MonitoringError, match="drawn"):
        bootstrap_null(psi, CategoricalBins(name="city", top=(1,)), np.zeros((0, 4), np.int64),
                       num_current=1, num_reference=1, seed=0)  # fmt: skip


@pytest.mark.parametrize("divergence", [PSI, KL], ids=["psi", "kl"])
@pytest.mark.parametrize("num_requests", [60, 200, 2000])
def test_a_divergence_of_requests_of_equal_rows_is_as_its_null_says(num_requests: int, divergence: Divergence) -> None:
    """8 rows a request, all in one bin: 300,000 windows drawn, their far quantiles have the chance they should."""
    shares_B = np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05])
    rng = np.random.default_rng(0)
    counts_RB = 8 * rng.multinomial(num_requests, shares_B, size=300_000)
    current_RB = (counts_RB + 0.5) / (8 * num_requests + 3.5)
    values_R = divergence.of_shares(shares_B, current_RB.astype(np.float64))
    tail = divergence_null(divergence, shares_B, np.array(8.0 * num_requests), equal_spread(6, 1 / num_requests))
    assert float(tail.mean) == pytest.approx(values_R.mean(), rel=0.03)
    assert float(tail.deviation) == pytest.approx(values_R.std(), rel=0.08)
    for chance in (1e-2, 1e-3, 1e-4):
        assert 1 / 4 < float(tail.p_value(np.quantile(values_R, 1 - chance))) / chance < 4


def test_the_bootstrap_of_requests_agrees_with_the_null_of_clusters() -> None:
    bins = CategoricalBins(name="city", top=(1, 2, 3))
    rng = np.random.default_rng(0)
    counts_QB = np.zeros((3000, bins.num_bins), np.int64)
    counts_QB[:, :3] = 8 * rng.multinomial(1, [0.5, 0.3, 0.2], size=3000)
    values_R = bootstrap_null(psi, bins, counts_QB, num_current=100, num_reference=2000, seed=1, num_draws=2000)
    # By hand: two directions of variance 8 rows·(1/800 + 1/16,000), and three bins that neither has rows in.
    shares_B = (16_000 * np.array([0.5, 0.3, 0.2, 0, 0, 0]) + 0.5) / 16_003
    tail = divergence_null(PSI, shares_B, np.array(800.0), equal_spread(2, 8 * (1 / 800 + 1 / 16_000)))
    assert values_R.mean() == pytest.approx(float(tail.mean), rel=0.07)
    assert values_R.std() == pytest.approx(float(tail.deviation), rel=0.1)
    assert 0.005 < float(tail.p_value(np.quantile(values_R, 0.99))) < 0.02
    drawn = NullTail.of_values(values_R)
    assert float(drawn.limit(1e-3)) == pytest.approx(float(tail.limit(1e-3)), rel=0.2)
    others_R = bootstrap_null(js_divergence, bins, counts_QB, num_current=100, num_reference=2000, seed=1, num_draws=99)
    assert 0 < others_R.max() < values_R.max()


@pytest.mark.parametrize("divergence", [PSI, KL], ids=["psi", "kl"])
def test_what_is_detectable_is_detected_four_times_of_five(divergence: Divergence) -> None:
    shares_B, num = np.full(10, 0.1), 2000
    spread = equal_spread(9, 1 / num)
    tail = divergence_null(divergence, shares_B, np.array(float(num)), spread)
    limit = tail.limit(1e-4)
    wanted = float(detectable_divergence(divergence, tail, limit, spread))
    step_B = np.tile([1.0, -1.0], 5)
    moved_B = shares_B * (1 + step_B * (wanted / divergence.weight) ** 0.5)  # weight · Σ δ²/p = wanted
    rng = np.random.default_rng(0)
    found_R = divergence.of_shares(shares_B, (rng.multinomial(num, moved_B, size=5000) + 0.5) / (num + 5))
    assert 0.74 < float((found_R > limit).mean()) < 0.86


def test_days_that_differ_are_found_and_chance_is_not_taken_for_them() -> None:
    rng = np.random.default_rng(0)
    num_windows, num, bins = 400, 1000.0, 12
    chance_WSB = rng.normal(size=(num_windows, 1, bins)) * num**0.5
    chance_WSB[..., 0] = 0.0  # eleven directions
    by_day_WSB = np.zeros_like(chance_WSB)
    by_day_WSB[..., 1] = num * 0.1 * rng.normal(size=(num_windows, 1))
    size_WS, freedom_WS = np.full((num_windows, 1), num), np.ones((num_windows, 1))
    dispersion = Dispersion(np.ones(1), np.zeros(1), np.diag([0.0] + [1.0] * 11)[None])

    def learned(residuals_WSB: np.ndarray) -> NullSpread:
        past = PastWindows(residuals_WSB, size_WS, freedom_WS, np.array([10.0]))
        return NullSpread.of(dispersion, np.array([11.0]), past)

    quiet, cycle = learned(chance_WSB), learned(chance_WSB + by_day_WSB)
    assert not quiet.uneven_SBB.any()
    assert quiet.even_S[0] < 0.1 / num
    variances_B = np.linalg.eigvalsh(cycle.uneven_SBB[0])
    assert variances_B[-1] == pytest.approx(0.01, rel=0.2)
    assert variances_B[:-1] == pytest.approx(0.0, abs=1e-12)
    one = np.array([1e12])
    assert cycle.of_window(one, one, one * 0 + 1e9).total_S[0] == pytest.approx(0.01, rel=0.3)


def test_requests_that_are_high_or_low_as_a_whole_pass_limits_no_more_often_than_they_may() -> None:
    """Quarter-hours by night, of 12 requests of 20 rows: all that a request has of its own lies along one direction."""
    rng = np.random.default_rng(0)
    score_B, num_minutes = np.linspace(-1.7, 1.7, 10), 4

    def minutes(num_ticks: int, requests_per_minute: int) -> np.ndarray:
        mood = rng.normal(size=(num_ticks, num_minutes, requests_per_minute, 1))
        shares = np.exp(mood * score_B)
        return rng.multinomial(20, shares / shares.sum(axis=-1, keepdims=True)).sum(axis=2).astype(np.float64)

    def null_of(counts_TMB: np.ndarray) -> NullSpread:
        counts_TSB = counts_TMB.sum(axis=1)[:, None]
        share_B = counts_TSB.sum(axis=(0, 1)) / counts_TSB.sum()
        rows_TM = counts_TMB.sum(axis=-1)
        residual_CB = ((counts_TMB - counts_TSB / num_minutes) / share_B**0.5).reshape(-1, 10)
        scatter_T1 = (residual_CB**2).sum(axis=1).reshape(-1, num_minutes).sum(axis=1)[:, None]
        freedom_T1 = (rows_TM * (1 - 1 / num_minutes)).sum(axis=1)[:, None]
        looseness = Looseness(scatter_T1, freedom_T1, (residual_CB.T @ residual_CB)[None])
        compared = LastDay().compared(counts_TSB, counts_TSB.sum(axis=-1), 0, num_current=1)
        return learned_shares(compared, looseness)

    by_day = minutes(100, 15)
    null = null_of(by_day)
    shape_B = np.linalg.eigvalsh(null.dispersion.shape_SBB[0])
    assert shape_B[-1] > 2.5 * shape_B[:-1].max()
    assert shape_B.sum() == pytest.approx(9.0)
    reference_B = by_day.sum(axis=(0, 1))
    windows_RB = minutes(6_000, 3).sum(axis=1)
    one = np.ones((6_000, 1))
    sizes = windows_RB.sum(axis=-1)[:, None], reference_B.sum() * one
    judged = judged_shares(null, windows_RB[:, None], sizes[0], reference_B * one[..., None], sizes[1], 96 * one)
    for chance in (0.1, 0.01, 0.002):
        assert 0.3 < float((judged.p_value_S <= chance).mean()) / chance < 2


def test_dispersion_of_nothing_is_not_known() -> None:
    nothing = Dispersion.of(Looseness(np.zeros((3, 1)), np.zeros((3, 1)), np.zeros((1, 5, 5))), np.array([4.0]))
    assert np.isnan(nothing.factor_S).all()


def test_a_day_off_is_compared_with_days_off() -> None:
    baseline = SameHours(num_days=14)
    saturday = 3 * TICKS_PER_DAY * TICK_US  # the end of Saturday, 3 January 1970
    of_kind_DT = baseline.of_kind(saturday)
    assert np.flatnonzero(of_kind_DT.all(axis=1)).tolist() == [0, 1, 7, 8]  # two weeks ago until a week ago on Sunday
    assert SameHours(num_days=3).of_kind(saturday).all()  # one Saturday cannot be: then all days
    with pytest.raises(MonitoringError, match="earlier days"):
        SameHours(num_days=1)


def test_same_hours_sums_the_hours_around_and_leaves_out_the_last_day() -> None:
    baseline = SameHours(num_days=2, days_off=())
    rows_TS = np.tile(np.arange(TICKS_PER_DAY, dtype=float), 3)[:, None]
    rows_TS[-TICKS_PER_DAY:] = 1000.0
    compared = baseline.compared(rows_TS[..., None], rows_TS, 0, num_current=4)
    assert compared.num_rows_S.tolist() == [4000.0]
    assert compared.num_reference_S.tolist() == [2 * (90 + 91 + 92 + 93 + 94 + 95 + 0 + 1)]
    assert compared.num_days_S.tolist() == [2.0]
    with pytest.raises(MonitoringError, match="compared"):
        LastDay().compared(rows_TS[..., None], rows_TS, 0, num_current=1)


@pytest.mark.parametrize(
    ("end_day", "held", "same_hours"),
    [
        (8, range(6, 9), False),  # a Friday with two working days before it
        (8, range(5, 9), True),
        (9, range(4, 10), False),  # the first Saturday has no day of its kind
        (17, (10, 13, 14, 15, 16, 17), False),  # a Sunday with the Sunday and the Saturday before it
        (17, (9, 10, 13, 14, 15, 16, 17), True),
    ],
)  # fmt: skip
def test_the_same_hours_are_taken_once_enough_days_of_the_kind_are_held(
    end_day: int, held: range, same_hours: bool
) -> None:
    baseline = HeldDays()
    until_us = (end_day + 1) * TICKS_PER_DAY * TICK_US  # 1 January 1970, day 0, was a Thursday
    rng = np.random.default_rng(0)
    days_T = np.repeat(np.arange(end_day - baseline.num_days, end_day + 1), TICKS_PER_DAY)
    counts_TSB = rng.integers(5, 15, (len(days_T), 2, 3)) * np.isin(days_T, held)[:, None, None].astype(np.float64)
    rows_TS = counts_TSB.sum(axis=-1)
    found = baseline.compared(counts_TSB, rows_TS, until_us, num_current=4)
    if same_hours:
        other = SameHours().compared(counts_TSB, rows_TS, until_us, num_current=4)
    else:
        other = LastDay().compared(counts_TSB[-100:], rows_TS[-100:], until_us, num_current=4)
    np.testing.assert_array_equal(found.reference_SX, other.reference_SX)
    np.testing.assert_array_equal(found.residuals_WSX, other.residuals_WSX)


def test_held_days_that_cannot_be_waited_for_are_refused() -> None:
    for wrong in ({"least_days": 1}, {"num_days": 4, "least_days": 5}):
        with pytest.raises(MonitoringError, match="waited"):
            HeldDays(**wrong)


def test_a_cycle_of_the_day_is_not_taken_for_days_that_differ() -> None:
    """Each window has the metric of its own hours: in that of one hour all others would seem to scatter more."""
    rng = np.random.default_rng(0)
    baseline = SameHours(num_days=14, days_off=())
    turn_T = 2 * np.pi * np.arange(baseline.num_ticks) / TICKS_PER_DAY
    shares_TB = np.exp(0.5 * np.sin(turn_T)[:, None] * rng.normal(size=10))
    shares_TB /= shares_TB.sum(axis=-1, keepdims=True)
    counts_TSB = rng.multinomial(1000, shares_TB)[:, None].astype(np.float64)
    compared = baseline.compared(counts_TSB, counts_TSB.sum(axis=-1), 0, num_current=1)
    independent = Looseness(np.full((96, 1), 9000.0), np.full((96, 1), 1000.0), 96_000 * np.eye(10)[None])
    null = learned_shares(compared, independent)
    assert null.dispersion.factor_S[0] == pytest.approx(1.0)
    one = np.array([1000.0])
    spread = null.of_window(one, one * 70, one * 0 + 14)
    assert spread.total_S[0] == pytest.approx(9 * (1 / 1000 + 1 / 70_000), rel=0.04)
