"""ECE, its null and its debiasing, the calibration ratio and the reliability curve."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, t

from rankwell.errors import MetricError, UndefinedMetricWarning
from rankwell.evaluation.calibration_error import debiased_ece, ece, ece_null, reliability_curve
from rankwell.evaluation.calibration_ratio import calibration_ratio, calibration_ratio_interval
from rankwell.evaluation.intervals import wilson_interval


def slow_bins(p_C: np.ndarray, w_C: np.ndarray, num_bins: int) -> dict[int, list[int]]:
    """The rows of each bin: the middle of each distinct probability's mass, cut into equal parts."""
    rows_of: dict[int, list[int]] = {}
    for p in sorted(set(p_C.tolist())):
        below, own = float(w_C[p_C < p].sum()), float(w_C[p_C == p].sum())
        middle = math.floor((below + own / 2) / w_C.sum() * num_bins + 1e-9)
        rows_of.setdefault(min(middle, num_bins - 1), []).extend(np.flatnonzero(p_C == p).tolist())
    return rows_of


def slow_ece(p_C: np.ndarray, y_C: np.ndarray, w_C: np.ndarray, num_bins: int) -> float:
    gap = 0.0
    for rows in slow_bins(p_C, w_C, num_bins).values():
        gap += abs(sum(w_C[i] * (p_C[i] - y_C[i]) for i in rows))
    return gap / float(w_C.sum())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_levels", [3, 40, 10**6])
@pytest.mark.parametrize("num_bins", [1, 4, 15])
def test_ece_equals_the_slow_reference(seed: int, num_levels: int, num_bins: int) -> None:
    generator = np.random.default_rng(seed)
    p_C = generator.integers(0, num_levels, 120) / num_levels
    y_C = (generator.random(120) < 0.3).astype(int)
    w_C = generator.choice([0.25, 1.0, 3.0], 120)
    assert ece(p_C, y_C, w_C, num_bins=num_bins) == pytest.approx(slow_ece(p_C, y_C, w_C, num_bins), abs=1e-12)


def test_without_ties_bins_hold_equal_counts() -> None:
    p_C = np.random.default_rng(0).permutation(60) / 60
    curve = reliability_curve(p_C, np.zeros(60), np.ones(60), num_bins=15)
    assert curve.count == (4,) * 15
    assert curve.lowest == pytest.approx([4 * b / 60 for b in range(15)])
    assert curve.highest == pytest.approx([(4 * b + 3) / 60 for b in range(15)])


def test_a_tie_is_never_cut() -> None:
    p_C = [0.1] + [0.5] * 8 + [0.9]
    curve = reliability_curve(p_C, [0, *[1, 0] * 4, 1], [1] * 10, num_bins=10)
    assert curve.count == (1, 8, 1)
    assert curve.mean_observed == (0, 0.5, 1)
    assert ece(p_C, [0, *[1, 0] * 4, 1], [1] * 10, num_bins=10) == pytest.approx((0.1 + 0 + 0.1) / 10)


def test_rounding_in_the_running_weight_moves_no_row_over_an_edge() -> None:
    for num_rows in range(1, 60):
        p_C, zeros_C = np.arange(num_rows) / num_rows, np.zeros(num_rows)
        for num_bins in (2, 3, 10, 14):
            whole = reliability_curve(p_C, zeros_C, np.ones(num_rows), num_bins=num_bins)
            tenth = reliability_curve(p_C, zeros_C, np.full(num_rows, 0.1), num_bins=num_bins)
            assert tenth.count == whole.count


def test_ece_of_extremes() -> None:
    assert ece([0.0, 1.0], [0, 1], [1, 1]) == 0
    assert ece([0.0, 1.0], [1, 0], [1, 1]) == 1
    assert debiased_ece([0.0, 1.0], [1, 0], [1, 1]) == 1  # certain predictions show nothing by chance
    assert ece([0.5], [1], [1e-300]) == 0.5


@pytest.mark.parametrize(
    ("p", "num_rows"), [(0.5, 1), (0.5, 2), (0.3, 7), (0.01, 10), (0.01, 1000), (0.999, 50), (1e-9, 3)]
)
def test_what_chance_adds_is_exact_where_all_rows_are_alike(p: float, num_rows: int) -> None:
    positives = np.arange(num_rows + 1)
    expected = float(np.sum(binom.pmf(positives, num_rows, p) * np.abs(positives / num_rows - p)))
    columns = (np.full(num_rows, p), np.zeros(num_rows), np.full(num_rows, 0.1))
    assert ece(*columns) - debiased_ece(*columns) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 20.0)])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 9.0), (0.05, 5.0), (0.5, 0.5)])
def test_chance_in_closed_form_agrees_with_drawn_labels(weights: tuple[float, ...], alpha: float, beta: float) -> None:
    generator = np.random.default_rng(1)
    p_C, w_C = generator.beta(alpha, beta, 1500), generator.choice(weights, 1500)
    plain = []
    for _ in range(300):
        y_C = (generator.random(1500) < p_C).astype(float)
        plain.append((ece(p_C, y_C, w_C), debiased_ece(p_C, y_C, w_C)))
    drawn_C, debiased_C = np.array(plain).T
    null = ece_null(p_C, w_C, num_draws=2000, seed=0)
    assert null.mean == pytest.approx(drawn_C.mean(), rel=0.04)
    assert null.p95 == pytest.approx(np.quantile(drawn_C, 0.95), rel=0.08)
    assert abs(debiased_C.mean()) < 0.06 * drawn_C.mean()


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 7.0), tuple(np.linspace(1, 9, 999))])
def test_the_null_by_cells_agrees_with_the_null_by_rows(weights: tuple[float, ...]) -> None:
    generator = np.random.default_rng(2)
    p_C, w_C = generator.beta(0.4, 2, 20_000), generator.choice(weights, 20_000)  # five rows a cell
    drawn = [ece(p_C, (generator.random(20_000) < p_C).astype(float), w_C) for _ in range(120)]
    null = ece_null(p_C, w_C, num_draws=1000, seed=3)
    assert null.mean == pytest.approx(np.mean(drawn), rel=0.05)
    assert null.p95 == pytest.approx(np.quantile(drawn, 0.95), rel=0.1)


def test_four_times_the_rows_halve_the_null() -> None:
    p_C = np.random.default_rng(0).beta(1, 2, 4000)
    one, four = ece_null(p_C, np.ones(4000), seed=0), ece_null(np.tile(p_C, 4), np.ones(16_000), seed=1)
    assert four.mean == pytest.approx(one.mean / 2, rel=0.05)
    assert four.p95 == pytest.approx(one.p95 / 2, rel=0.08)
    assert one.mean < one.p95 < 2 * one.mean


def test_the_null_depends_on_the_seed_alone_and_not_on_the_order() -> None:
    generator = np.random.default_rng(4)
    p_C, w_C = generator.random(500), np.ones(500)
    order = generator.permutation(500)
    assert ece_null(p_C, w_C, seed=1) == ece_null(p_C, w_C, seed=1) == ece_null(p_C[order], w_C, seed=1)
    assert ece_null(p_C, w_C, seed=1) != ece_null(p_C, w_C, seed=2)


def test_debiasing_leaves_a_real_error_standing() -> None:
    generator = np.random.default_rng(5)
    q_C = generator.beta(2, 8, 20_000)
    y_C = (generator.random(20_000) < q_C).astype(float)
    too_high_C = np.minimum(q_C + 0.1, 1)
    assert debiased_ece(too_high_C, y_C, np.ones(20_000)) == pytest.approx(0.1, abs=0.01)


def test_calibration_ratio_is_predicted_over_observed() -> None:
    assert calibration_ratio([0.5, 0.7], [1, 0], [1, 1]) == pytest.approx(1.2)
    assert calibration_ratio([0.5, 0.7], [1, 0], [1, 2]) == pytest.approx(1.9)
    assert calibration_ratio([0.0, 0.0], [1, 0], [1, 1]) == 0


def test_nothing_observed_is_undefined_and_not_infinite() -> None:
    columns = ([0.5, 0.7], [0, 0], [1, 1])
    with pytest.warns(UndefinedMetricWarning, match="no positive"):
        assert math.isnan(calibration_ratio(*columns))
    with pytest.warns(UndefinedMetricWarning, match="interval"):
        assert math.isnan(calibration_ratio_interval(*columns).low)
    with pytest.warns(UndefinedMetricWarning, match="interval"):
        assert math.isnan(calibration_ratio_interval([0.5, 0.5], [0, 1], [1, 1], request_C=[3, 3]).high)
    with pytest.warns(UndefinedMetricWarning, match="interval"):
        assert math.isnan(calibration_ratio_interval([0.0, 0.0], [0, 1], [1, 1]).high)


def test_each_row_a_request_is_no_request_at_all_and_repeats_in_a_request_add_nothing() -> None:
    generator = np.random.default_rng(6)
    p_C = generator.random(200)
    y_C, w_C = (generator.random(200) < p_C).astype(float), generator.choice([1.0, 2.0], 200)
    alone = calibration_ratio_interval(p_C, y_C, w_C)
    assert calibration_ratio_interval(p_C, y_C, w_C, request_C=np.arange(200)) == alone
    thrice = [np.repeat(column, 3) for column in (p_C, y_C, w_C)]
    clustered = calibration_ratio_interval(*thrice, request_C=np.repeat(np.arange(200), 3))
    assert (clustered.low, clustered.high) == pytest.approx((alone.low, alone.high), rel=1e-12)
    naive = calibration_ratio_interval(*thrice)
    assert naive.width < 0.7 * alone.width


def test_the_interval_of_three_requests_by_hand() -> None:
    interval = calibration_ratio_interval([0.5, 0.5, 0.5, 0.9], [1, 0, 1, 1], [1, 1, 2, 1], request_C=[0, 0, 1, 2])
    ratio = (0.5 + 0.5 + 1 + 0.9) / (1 + 2 + 1)
    residuals = [0.5 - ratio + 0.5, 2 * (0.5 - ratio), 0.9 - ratio]
    error = math.sqrt(3 / 2 * sum(residual**2 for residual in residuals)) / 2.9
    reach = math.exp(t.ppf(0.975, df=2) * error)
    assert (interval.low, interval.high) == pytest.approx((ratio / reach, ratio * reach))


def test_the_interval_of_the_ratio_covers_what_it_promises() -> None:
    generator = np.random.default_rng(7)
    covered = []
    for _ in range(400):  # some 40 positives a time
        q_C = generator.beta(1, 19, 800)
        y_C = (generator.random(800) < q_C).astype(float)
        covered.append(calibration_ratio_interval(1.3 * q_C.clip(0, 0.7), y_C, np.ones(800)).contains(1.3))
    assert 0.92 <= np.mean(covered) <= 0.98


def test_the_interval_by_requests_covers_where_rows_of_a_request_move_together() -> None:
    generator = np.random.default_rng(8)
    request_C = np.repeat(np.arange(150), 10)
    clustered, naive = [], []
    for _ in range(400):
        mood_R = generator.choice([0.2, 1.8], 150)
        y_C = (generator.random(1500) < 0.2 * mood_R[request_C]).astype(float)
        columns = (np.full(1500, 0.2), y_C, np.ones(1500))
        clustered.append(calibration_ratio_interval(*columns, request_C=request_C).contains(1))
        naive.append(calibration_ratio_interval(*columns).contains(1))
    assert 0.92 <= np.mean(clustered) <= 0.98
    assert np.mean(naive) < 0.9


def test_the_curve_holds_weighted_means_and_wilson_intervals() -> None:
    curve = reliability_curve([0.1, 0.2, 0.7, 0.9], [0, 1, 1, 1], [1, 3, 1, 1], num_bins=2)
    assert curve.count == (2, 2)  # of a mass of 6 the middles lie at .5, 2.5, 4.5 and 5.5
    assert curve.weight == (4, 2)
    assert curve.mean_predicted == pytest.approx(((0.1 + 3 * 0.2) / 4, 0.8))
    assert curve.mean_observed == pytest.approx((3 / 4, 1))
    effective = 4**2 / (1 + 9)
    assert curve.high[0] == pytest.approx(wilson_interval(3 / 4, effective).high)
    curve = reliability_curve([0.1, 0.2, 0.7, 0.9], [0, 1, 1, 1], [1, 1, 1, 1], num_bins=2)
    assert curve.mean_predicted == pytest.approx((0.15, 0.8))
    assert curve.mean_observed == (0.5, 1)
    z2 = 1.959963984540054**2
    assert curve.high[1] == 1
    assert curve.low[1] == pytest.approx(2 / (2 + z2))
    assert curve.low[0] + curve.high[0] == pytest.approx(1)


def test_the_curve_of_nothing_has_no_entries() -> None:
    with pytest.warns(UndefinedMetricWarning, match="curve"):
        assert len(reliability_curve([0.5], [1], [0])) == 0
    with pytest.warns(UndefinedMetricWarning, match="null"):
        assert math.isnan(ece_null([0.5], [0], seed=0).p95)


@pytest.mark.parametrize("num_bins", [0, -1, 2.5, True])
def test_a_bad_number_of_bins_is_refused(num_bins: int) -> None:
    for number in (ece, debiased_ece, reliability_curve):
        with pytest.raises(MetricError, match="num_bins"):
            number([0.5], [1], [1], num_bins=num_bins)
    with pytest.raises(MetricError, match="num_bins"):
        ece_null([0.5], [1], num_bins=num_bins, seed=0)


@pytest.mark.parametrize("level", [0, 1, 95, math.nan])
def test_a_bad_level_is_refused(level: float) -> None:
    with pytest.raises(MetricError, match="level"):
        calibration_ratio_interval([0.5, 0.5], [1, 0], [1, 1], level=level)
    with pytest.raises(MetricError, match="level"):
        reliability_curve([0.5, 0.5], [1, 0], [1, 1], level=level)
