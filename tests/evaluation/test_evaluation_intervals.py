"""Wilson, Student and bootstrap intervals: known values, and the coverage that they promise."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from rankwell.errors import MetricError, UndefinedMetricWarning
from rankwell.evaluation.calibration_ratio import calibration_ratio, calibration_ratio_interval
from rankwell.evaluation.discrimination import auc, brier, gauc
from rankwell.evaluation.intervals import (
    Interval,
    bootstrap_interval,
    mean_and_sd,
    paired_interval,
    wilson_bounds,
    wilson_interval,
)


@pytest.mark.parametrize(("positives", "trials"), [(0, 1), (0, 30), (1, 1), (3, 10), (30, 30), (7, 10_000)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_wilson_equals_scipy(positives: int, trials: int, level: float) -> None:
    expected = binomtest(positives, trials).proportion_ci(level, method="wilson")
    ours = wilson_interval(positives / trials, trials, level=level)
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= ours.low <= positives / trials <= ours.high <= 1


def test_wilson_without_a_trial_is_undefined() -> None:
    low_B, high_B = wilson_bounds([0.5, 0.5], [0, 4])
    assert np.isnan(low_B).tolist() == np.isnan(high_B).tolist() == [True, False]
    with pytest.warns(UndefinedMetricWarning):
        assert math.isnan(wilson_interval(0.0, 0).high)


def test_wilson_covers_what_it_promises() -> None:
    positives = np.random.default_rng(0).binomial(60, 0.1, 4000)
    low_B, high_B = wilson_bounds(positives / 60, np.full(4000, 60))
    assert 0.92 <= np.mean((low_B <= 0.1) & (high_B >= 0.1)) <= 0.98


def test_the_paired_interval_is_that_of_the_paired_t_test() -> None:
    generator = np.random.default_rng(1)
    ours_S, theirs_S = generator.normal(0.8, 0.1, 7), generator.normal(0.7, 0.1, 7)
    expected = ttest_rel(ours_S, theirs_S).confidence_interval(0.9)
    interval = paired_interval(ours_S - theirs_S, level=0.9)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_few_seeds_are_undefined() -> None:
    with pytest.warns(UndefinedMetricWarning):
        assert math.isnan(paired_interval([0.1]).low)
    with pytest.warns(UndefinedMetricWarning):
        lonely = mean_and_sd([0.5])
    assert lonely.mean == 0.5
    assert math.isnan(lonely.sd)
    with pytest.warns(UndefinedMetricWarning):
        assert math.isnan(mean_and_sd([]).mean)
    with pytest.raises(MetricError, match="differences_S"):
        paired_interval([0.1, math.nan])


def test_an_undefined_interval_contains_nothing() -> None:
    assert not Interval(math.nan, math.nan, 0.95).contains(1)


def drawn_clusters(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    r_C = np.repeat(np.arange(60), 5)
    p_C = generator.beta(2, 4, 300)
    mood_R = generator.choice([0.4, 1.6], 60)
    y_C = (generator.random(300) < np.minimum(p_C * mood_R[r_C], 1)).astype(float)
    return p_C, y_C, np.ones(300), r_C


def test_the_bootstrap_is_seeded_and_blind_to_the_order_of_rows_and_to_rows_of_weight_0() -> None:
    p_C, y_C, w_C, r_C = drawn_clusters(0)
    first = bootstrap_interval(brier, p_C, y_C, w_C, cluster_C=r_C, seed=1, num_draws=50)
    assert first == bootstrap_interval(brier, p_C, y_C, w_C, cluster_C=r_C, seed=1, num_draws=50)
    assert first != bootstrap_interval(brier, p_C, y_C, w_C, cluster_C=r_C, seed=2, num_draws=50)
    order = np.random.default_rng(3).permutation(300)
    shuffled = bootstrap_interval(brier, p_C[order], y_C[order], w_C[order], cluster_C=r_C[order], seed=1, num_draws=50)
    assert (shuffled.low, shuffled.high) == pytest.approx((first.low, first.high), rel=1e-12)
    columns = (np.append(p_C, 0.9), np.append(y_C, 0), np.append(w_C, 0))
    padded = bootstrap_interval(brier, *columns, cluster_C=np.append(r_C, 999), seed=1, num_draws=50)
    assert (padded.low, padded.high) == pytest.approx((first.low, first.high), rel=1e-12)


def test_the_bootstrap_takes_a_metric_bound_to_a_column() -> None:
    p_C, y_C, w_C, r_C = drawn_clusters(4)
    metric = partial(gauc, request_C=r_C)
    interval = bootstrap_interval(metric, p_C, y_C, w_C, cluster_C=r_C, seed=0, num_draws=60)
    assert interval.contains(gauc(p_C, y_C, w_C, request_C=r_C))
    assert 0.02 < interval.width < 0.4


def test_the_bootstrap_agrees_with_the_cluster_robust_interval() -> None:
    p_C, y_C, w_C, r_C = drawn_clusters(5)
    drawn = bootstrap_interval(calibration_ratio, p_C, y_C, w_C, cluster_C=r_C, seed=0, num_draws=800)
    closed = calibration_ratio_interval(p_C, y_C, w_C, request_C=r_C)
    assert (drawn.low, drawn.high) == pytest.approx((closed.low, closed.high), rel=0.06)


def test_the_bootstrap_covers_what_it_promises() -> None:
    generator = np.random.default_rng(6)
    covered = []
    for _ in range(400):
        mean_R = generator.choice([0.2, 0.6], 80)
        y_C = (generator.random(240) < np.repeat(mean_R, 3)).astype(float)
        interval = bootstrap_interval(
            brier, np.zeros(240), y_C, np.ones(240), cluster_C=np.repeat(np.arange(80), 3), seed=7, num_draws=60
        )
        covered.append(interval.contains(0.4))
    assert 0.9 <= np.mean(covered) <= 0.98  # 60 draws: the ends themselves are rough


def test_the_bootstrap_of_too_little_is_undefined() -> None:
    with pytest.warns(UndefinedMetricWarning, match="two clusters"):
        assert math.isnan(
            bootstrap_interval(auc, [0.1, 0.2], [0, 1], [1, 1], cluster_C=[0, 0], seed=0, num_draws=9).low
        )
    with pytest.warns(UndefinedMetricWarning, match="draws"):  # half of the draws hold one class
        assert math.isnan(
            bootstrap_interval(auc, [0.1, 0.2], [0, 1], [1, 1], cluster_C=[0, 1], seed=0, num_draws=40).low
        )
