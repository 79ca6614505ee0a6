"""Statistics of drift against plain loops, other libraries, and what is known of them without drift."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rankwell.errors import UndefinedMetricWarning
from rankwell.monitoring.column_counts import ColumnCounts
from rankwell.monitoring.divergences import chi_squared, js_divergence, kl_divergence, psi
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.moment_shifts import mean_shift, prediction_drift, variance_shift
from rankwell.monitoring.ordered_distances import ks_distance, wasserstein_distance
from rankwell.monitoring.pane import Pane
from rankwell.monitoring.pane_layout import NumericBins, PaneLayout

BINS = NumericBins(name="x", edges=(0.0, 1.0, 2.0, 3.0))


def counts(*counts_B: int) -> ColumnCounts:
    return ColumnCounts(BINS, np.array(counts_B))


REFERENCE, CURRENT = counts(400, 250, 200, 100, 0, 50), counts(30, 40, 0, 20, 5, 5)


def plain_shares(column: ColumnCounts) -> list[float]:
    added = [count + 0.5 for count in column.counts_B.tolist()]
    return [count / sum(added) for count in added]


def test_divergences_are_those_of_a_plain_loop() -> None:
    pairs = list(zip(plain_shares(REFERENCE), plain_shares(CURRENT), strict=True))
    kl = sum(q * math.log(q / p) for p, q in pairs)
    back = sum(p * math.log(p / q) for p, q in pairs)
    js = sum(p * math.log(2 * p / (p + q)) + q * math.log(2 * q / (p + q)) for p, q in pairs) / 2
    assert kl_divergence(REFERENCE, CURRENT) == pytest.approx(kl, rel=1e-12)
    assert psi(REFERENCE, CURRENT) == pytest.approx(kl + back, rel=1e-12)
    assert psi(CURRENT, REFERENCE) == pytest.approx(kl + back, rel=1e-12)
    assert js_divergence(REFERENCE, CURRENT) == pytest.approx(js, rel=1e-12)


def test_jensen_shannon_stays_below_ln_2() -> None:
    value = js_divergence(counts(10**9, 0, 0, 0, 0, 0), counts(0, 0, 0, 0, 0, 10**9))
    assert value < math.log(2)
    assert value == pytest.approx(math.log(2), abs=1e-6)


def test_chi_squared_is_that_of_the_table() -> None:
    table = np.stack([REFERENCE.counts_B + 0.5, CURRENT.counts_B + 0.5])
    assert chi_squared(REFERENCE, CURRENT) == pytest.approx(stats.chi2_contingency(table, correction=False).statistic)


def test_without_drift_psi_and_chi_squared_are_what_chance_makes_them() -> None:
    rng = np.random.default_rng(0)
    shares_B = np.array([0.3, 0.25, 0.2, 0.1, 0.1, 0.05])
    num, num_current = 20_000, 2000
    pairs = [
        (counts(*rng.multinomial(num, shares_B)), counts(*rng.multinomial(num_current, shares_B))) for _ in range(400)
    ]
    expected = 5 * (1 / num + 1 / num_current)
    assert np.mean([psi(*pair) for pair in pairs]) == pytest.approx(expected, rel=0.1)  # 0.03 is one standard error
    assert np.mean([chi_squared(*pair) for pair in pairs]) == pytest.approx(5, rel=0.1)


def test_distances_are_those_of_the_values_up_to_a_bin() -> None:
    rng = np.random.default_rng(1)
    then_C, now_C = rng.random(100_000), rng.random(50_000) ** 1.3
    bins = NumericBins.of_values("x", then_C, num_bins=64)

    def column(values_C: np.ndarray) -> ColumnCounts:
        rows = FlatRows(np.zeros(len(values_C), np.int64), {"x": values_C})
        return Pane.of(PaneLayout(columns=(bins,)), rows).column("x")

    reference, current = column(then_C), column(now_C)
    assert ks_distance(reference, current) == pytest.approx(stats.ks_2samp(then_C, now_C).statistic, abs=2e-3)
    # The reference is uniform on [0, 1]: its ranks are its values.
    expected = stats.wasserstein_distance(then_C, now_C)
    assert wasserstein_distance(reference, current) == pytest.approx(expected, abs=2e-3)
    assert mean_shift(reference, current) == pytest.approx((then_C.mean() - now_C.mean()) / then_C.std(), rel=1e-3)
    assert variance_shift(reference, current) == pytest.approx(abs(math.log(now_C.var() / then_C.var())), abs=1e-4)


def test_a_missing_value_stands_a_whole_1_behind_the_last_bin() -> None:
    then, now = counts(0, 0, 0, 0, 10**7, 0), counts(0, 0, 0, 0, 9 * 10**6, 10**6)
    assert wasserstein_distance(then, now) == pytest.approx(0.1, abs=1e-5)
    assert ks_distance(then, now) == pytest.approx(0.1, abs=1e-5)


def test_moments_are_smoothed_by_half_a_row() -> None:
    bins = NumericBins(name="x", edges=(0.0,))
    fives, sevens = (
        ColumnCounts(bins, np.array([0, 4, 0]), 20.0, 100.0),
        ColumnCounts(bins, np.array([0, 4, 0]), 28.0, 196.0),
    )
    assert mean_shift(fives, sevens) == pytest.approx(3.0)  # √(2·4 + 1): a constant that moved
    assert variance_shift(fives, sevens) == 0.0
    spread = ColumnCounts(bins, np.array([0, 4, 0]), 20.0, 116.0)  # 3, 3, 7, 7: a variance of 4
    # Of both: 2. (4·4 + ½·2) / 4.5 against (4·0 + ½·2) / 4.5.
    assert variance_shift(fives, spread) == pytest.approx(math.log(17))
    assert variance_shift(spread, fives) == pytest.approx(math.log(17))


def test_odds_three_times_as_high() -> None:
    bins = NumericBins(name="p", edges=(0.5,))
    then = ColumnCounts(bins, np.array([10**6, 0, 0]), 0.1 * 10**6, 0.01 * 10**6)
    tripled = 0.1 / 0.9 * 3 / (1 + 0.1 / 0.9 * 3)
    now = ColumnCounts(bins, np.array([10**5, 0, 0]), tripled * 10**5, tripled**2 * 10**5)
    assert prediction_drift(then, now) == pytest.approx(math.log(3), abs=1e-5)


def test_the_mean_of_logits_is_no_probability() -> None:
    logits = ColumnCounts(BINS, np.array([10, 0, 0, 0, 0, 0]), -20.0, 40.0)
    with pytest.warns(UndefinedMetricWarning, match="no probabilities"):
        assert math.isnan(prediction_drift(logits, logits))
