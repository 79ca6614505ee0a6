"""Bins of a reference: equal shares where ties allow, and something to tell at every end."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from rankwell.data.statistics import ColumnStatistics
from rankwell.errors import MonitoringError, SchemaError
from rankwell.monitoring.pane_layout import CategoricalBins, NumericBins, PaneLayout


def shares(bins: NumericBins, values_C: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(bins.edges, values_C, side="right"), minlength=len(bins.edges) + 1) / len(
        values_C
    )


def test_bins_hold_equal_shares() -> None:
    values_C = np.random.default_rng(0).lognormal(0, 3, 16_000).astype(np.float32)
    bins = NumericBins.of_values("x", values_C, num_bins=16)
    assert len(bins.edges) == 15
    np.testing.assert_allclose(shares(bins, values_C), 1 / 16, atol=2e-4)
    assert bins.origin == pytest.approx(values_C.astype(np.float64).mean())


def test_bins_of_statistics_are_those_of_the_values() -> None:
    values_C = np.random.default_rng(1).normal(3, 2, 100_000)
    statistics = ColumnStatistics(
        num_values=100_000, missing_rate=0.0, mean=3.0, sd=2.0, log_mean=0.0, log_sd=1.0,
        quantiles=tuple(np.quantile(values_C, np.linspace(0, 1, 257)).tolist()),
    )  # fmt: skip
    of_values = NumericBins.of_values("x", values_C, num_bins=16)
    np.testing.assert_allclose(NumericBins.of_statistics("x", statistics, num_bins=16).edges, of_values.edges)


@pytest.mark.parametrize("values", [[], [np.nan, np.inf], [5.0] * 9, [0.0] * 90 + [1.0], [1e300, -1e300, 1e38]])
def test_ties_nothing_and_values_beyond_float32(values: list[float]) -> None:
    bins = NumericBins.of_values("x", values)
    assert len(bins.edges) >= 1
    assert all(low < high for low, high in pairwise(bins.edges))
    assert PaneLayout.from_json(PaneLayout(columns=(bins,)).to_json()).columns == (bins,)


def test_a_constant_shows_what_is_above_and_what_is_below() -> None:
    bins = NumericBins.of_values("x", [5.0] * 100)
    assert np.searchsorted(bins.edges, [4.999, 5.0, 5.001], side="right").tolist() == [0, 1, 2]


def test_the_most_frequent_values_ties_by_value() -> None:
    bins = CategoricalBins.of_values("city", [4, 4, 2, 2, 2, 9, 8, 8, -1, -1, -1, -1], num_top=3)
    assert (bins.top, bins.known, bins.num_bins) == ((2, 4, 8), (9,), 6)
    assert CategoricalBins.of_values("city", []).top == ()


def test_edges_are_rounded_to_float32() -> None:
    assert NumericBins(name="x", edges=(0.1,)).edges == (float(np.float32(0.1)),)


def test_what_is_no_layout_is_refused() -> None:
    numeric = NumericBins(name="x", edges=(0.0,))
    for edges in [(1.0, 1.0), (2.0, 1.0), (0.1, 0.1 + 1e-12), (1e300,)]:
        with pytest.raises(SchemaError):
            NumericBins(name="x", edges=edges)
    with pytest.raises(SchemaError):
        PaneLayout(columns=(numeric, numeric))
    with pytest.raises(SchemaError):
        CategoricalBins(name="city", top=(1,), known=(1,))
    with pytest.raises(SchemaError):
        PaneLayout.from_json("{}")
    with pytest.raises(MonitoringError, match="num_bins"):
        NumericBins.of_values("x", [1.0], num_bins=1)
    with pytest.raises(MonitoringError, match="num_top"):
        CategoricalBins.of_values("x", [1], num_top=0)
