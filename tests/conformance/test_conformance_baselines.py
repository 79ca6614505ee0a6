"""Every baseline of drift, held to one contract: any public class of `rankwell.monitoring` that has `compared`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import numpy as np
import pytest

import rankwell.monitoring
from rankwell.errors import MonitoringError
from rankwell.monitoring.baseline import Baseline

WINDOWS = (1, 4)


def found_baselines() -> list[type[Baseline]]:
    found = []
    for module_info in pkgutil.iter_modules(rankwell.monitoring.__path__):
        module = importlib.import_module(f"rankwell.monitoring.{module_info.name}")
        for name in module.__all__:
            member = getattr(module, name)
            is_baseline = inspect.isclass(member) and hasattr(member, "compared") and member is not Baseline
            if is_baseline and member.__module__ == module.__name__:
                found.append(member)
    return found


BASELINES = found_baselines()
for_each_baseline = pytest.mark.parametrize("kind", BASELINES, ids=lambda kind: kind.__name__)
for_each_window = pytest.mark.parametrize("num_current", WINDOWS)


def test_the_search_finds_them() -> None:
    assert {"LastDay", "SameHours"} <= {kind.__name__ for kind in BASELINES}


@for_each_baseline
@for_each_window
def test_the_window_is_now_and_its_hour_is_no_reference(kind: type[Baseline], num_current: int) -> None:
    baseline = kind()
    rows_TS = np.ones((baseline.num_ticks, 2))
    rows_TS[-4:] = 1000.0
    compared = baseline.compared(rows_TS[..., None] * [1.0, 0.0], rows_TS, 0, num_current=num_current)
    assert compared.num_rows_S.tolist() == [1000.0 * num_current] * 2
    assert compared.current_SX.tolist() == [[1000.0 * num_current, 0.0]] * 2
    assert np.all(compared.num_reference_S < 1000)
    assert np.all(compared.num_reference_S > num_current)


@for_each_baseline
@for_each_window
def test_windows_of_equal_shares_leave_nothing_and_others_sum_to_nothing(
    kind: type[Baseline], num_current: int
) -> None:
    baseline, rng = kind(), np.random.default_rng(0)
    rows_TS = rng.integers(50, 150, (baseline.num_ticks, 3)).astype(np.float64)
    even = baseline.compared(rows_TS[..., None] * [0.25, 0.75], rows_TS, 0, num_current=num_current)
    assert np.abs(even.residuals_WSX).max() < 1e-9
    counts_TSX = rng.multinomial(rows_TS.astype(int), [0.2, 0.3, 0.5]).astype(np.float64)
    drawn = baseline.compared(counts_TSX, rows_TS, 0, num_current=num_current)
    assert np.abs(drawn.residuals_WSX.sum(axis=-1)).max() < 1e-9
    assert np.all((drawn.freedom_WS >= 0) & (drawn.freedom_WS <= 1))
    # Independent rows: Σ r² / p is rows·freedom·directions.
    share_X = drawn.reference_SX.sum(axis=0) / drawn.num_reference_S.sum()
    scatter = (drawn.residuals_WSX**2 / share_X).sum()
    assert scatter == pytest.approx(2 * (drawn.num_rows_WS * drawn.freedom_WS).sum(), rel=0.25)
    assert np.all((drawn.num_days_S >= 1) & (drawn.num_days_S <= len(drawn.num_rows_WS)))


@for_each_baseline
def test_nothing_has_no_freedom_and_no_nan(kind: type[Baseline]) -> None:
    baseline = kind()
    nothing_TS = np.zeros((baseline.num_ticks, 1))
    compared = baseline.compared(nothing_TS[..., None], nothing_TS, 0, num_current=1)
    assert not compared.freedom_WS.any()
    assert not compared.num_days_S.any()
    assert np.isfinite(compared.residuals_WSX).all()


@for_each_baseline
def test_other_ticks_and_windows_are_refused(kind: type[Baseline]) -> None:
    baseline = kind()
    with pytest.raises(MonitoringError):
        baseline.compared(np.zeros((3, 1, 1)), np.zeros((3, 1)), 0, num_current=1)
    rows_TS = np.zeros((baseline.num_ticks, 1))
    with pytest.raises(MonitoringError):
        baseline.compared(rows_TS[..., None], rows_TS, 0, num_current=7)
