"""Every statistic of drift, held to one contract.

A statistic of drift is any public function of a module in `rankwell.monitoring` whose signature is
``(reference, current) -> float``. A new file is found without an edit here.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

import rankwell.monitoring
from rankwell.errors import MonitoringError, UndefinedMetricWarning
from rankwell.monitoring.column_counts import ColumnCounts
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.pane import Pane
from rankwell.monitoring.pane_layout import CategoricalBins, NumericBins, PaneLayout

Statistic = Callable[[ColumnCounts, ColumnCounts], float]


def found_statistics() -> list[Statistic]:
    statistics = []
    for module_info in pkgutil.iter_modules(rankwell.monitoring.__path__):
        module = importlib.import_module(f"rankwell.monitoring.{module_info.name}")
        for name in module.__all__:
            member = getattr(module, name)
            if not inspect.isfunction(member) or member.__module__ != module.__name__:
                continue
            signature = inspect.signature(member)
            if list(signature.parameters) == ["reference", "current"] and signature.return_annotation in (
                "float",
                float,
            ):
                statistics.append(member)
    return statistics


STATISTICS = found_statistics()
OF_VALUES = {"mean_shift", "variance_shift", "prediction_drift"}
"""These are of values alone: how many are missing is nothing to them, and one value far out moves a mean by right."""

for_each_statistic = pytest.mark.parametrize("statistic", STATISTICS, ids=lambda statistic: statistic.__name__)
for_each_of_bins = pytest.mark.parametrize(
    "statistic",
    [statistic for statistic in STATISTICS if statistic.__name__ not in OF_VALUES],
    ids=lambda statistic: statistic.__name__,
)


def probabilities(drift: float, *, num: int = 20_000, seed: int = 0) -> NDArray[np.float64]:
    """Further out on average, and more spread, the greater the drift."""
    logits_C = np.random.default_rng(seed).normal(-1, 1, num)
    return 1 / (1 + np.exp(-((1 + drift) * logits_C + drift)))


BINS = NumericBins.of_values("p", probabilities(0.0))


def numeric(values_C: NDArray[np.float64]) -> ColumnCounts:
    rows = FlatRows(np.zeros(len(values_C), np.int64), {"p": values_C})
    return Pane.of(PaneLayout(columns=(BINS,)), rows).column("p")


CITIES = CategoricalBins(name="city", top=(1, 2, 3), known=(4,))


def categorical(*counts: int) -> ColumnCounts:
    return ColumnCounts(CITIES, np.array(counts))


def of_ids(statistic: Statistic, reference: ColumnCounts, current: ColumnCounts) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        return statistic(reference, current)


def test_the_search_finds_statistics_of_every_sort() -> None:
    found = {statistic.__name__ for statistic in STATISTICS}
    assert {"psi", "kl_divergence", "js_divergence", "chi_squared", "ks_distance", "wasserstein_distance"} <= found
    assert found >= OF_VALUES


@for_each_statistic
@pytest.mark.parametrize("seed", range(3))
def test_a_column_has_not_moved_from_itself(statistic: Statistic, seed: int) -> None:
    column = numeric(probabilities(0.2, num=999, seed=seed))
    assert statistic(column, column) == 0.0
    city = categorical(5, 0, 3, 9, 0, 1)
    assert of_ids(statistic, city, city) in (0.0, pytest.approx(math.nan, nan_ok=True))


@for_each_statistic
def test_it_grows_with_the_drift(statistic: Statistic) -> None:
    reference = numeric(probabilities(0.0))
    found = [statistic(reference, numeric(probabilities(drift, seed=1))) for drift in (0.1, 0.2, 0.4, 0.8, 1.6)]
    assert all(type(value) is float for value in found)
    assert np.all(np.diff(found) > 0)
    assert found[0] > 0


@for_each_statistic
def test_it_grows_with_the_drift_of_ids_or_is_undefined_for_them(statistic: Statistic) -> None:
    reference = categorical(500, 300, 100, 80, 0, 20)
    found = [
        of_ids(statistic, reference, categorical(500 - n, 300, 100, 80, n, 20)) for n in (0, 10, 50, 200, 400, 500)
    ]
    if math.isnan(found[0]):
        assert np.isnan(found).all()
        with pytest.warns(UndefinedMetricWarning, match="'city'"):
            statistic(reference, reference)
        assert "NaN of ids" in (inspect.getdoc(statistic) or "")
    else:
        assert np.all(np.diff(found) > 0)


NOTHING = np.zeros(0)
ENDS = {
    "nothing": NOTHING,
    "one": np.array([0.5]),
    "all missing": np.full(300, np.nan),
    "all 0": np.zeros(300),
    "all 1": np.ones(300),
    "many": probabilities(0.0),
}


@for_each_statistic
@pytest.mark.parametrize("reference", ENDS)
@pytest.mark.parametrize("current", ENDS)
def test_it_is_finite_for_any_two(statistic: Statistic, reference: str, current: str) -> None:
    value = statistic(numeric(ENDS[reference]), numeric(ENDS[current]))
    assert math.isfinite(value)
    assert value >= 0.0


@for_each_statistic
def test_ids_have_ends_too(statistic: Statistic) -> None:
    ends = [categorical(0, 0, 0, 0, 0, 0), categorical(900, 0, 0, 0, 0, 0), categorical(0, 0, 0, 0, 0, 10**12)]
    for reference in ends:
        for current in ends:
            assert not math.isinf(of_ids(statistic, reference, current))


@for_each_of_bins
def test_missing_values_are_seen(statistic: Statistic) -> None:
    values_C = probabilities(0.0)
    found = []
    for num_missing in (0, 100, 1000, 10_000, 20_000):
        values_C[:num_missing] = np.nan
        found.append(statistic(numeric(probabilities(0.0)), numeric(values_C)))
    assert found[0] == 0.0
    assert np.all(np.diff(found) > 0)


@for_each_of_bins
def test_one_value_far_out_is_one_value(statistic: Statistic) -> None:
    reference, values_C = numeric(probabilities(0.0)), probabilities(0.3, seed=1)
    before = statistic(reference, numeric(values_C))
    values_C[7] = 1e6
    after = statistic(reference, numeric(values_C))
    assert abs(after - before) < 0.001 * max(1.0, before)  # chi² is not of shares


@for_each_statistic
def test_other_bins_are_refused(statistic: Statistic) -> None:
    other = NumericBins(name="p", edges=(0.5,))
    with pytest.raises(MonitoringError, match="bins"):
        statistic(numeric(NOTHING), ColumnCounts(other, np.zeros(3, np.int64)))


@for_each_statistic
def test_what_is_given_is_left_as_it_was(statistic: Statistic) -> None:
    columns = [numeric(probabilities(drift)) for drift in (0.0, 0.5)]
    before = [column.counts_B.copy() for column in columns]
    for column in columns:
        column.counts_B.setflags(write=False)
    statistic(*columns)
    for column, kept in zip(columns, before, strict=True):
        np.testing.assert_array_equal(column.counts_B, kept)


@for_each_statistic
def test_it_says_what_it_is_and_shows_itself(statistic: Statistic) -> None:
    text = inspect.getdoc(statistic) or ""
    for part in ("Args:", "Returns:", "Raises:", ">>>"):
        assert part in text, f"{statistic.__name__} has no {part}"
