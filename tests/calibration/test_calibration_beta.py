"""Beta calibration against a general optimiser, plain arithmetic, and samples that do not determine it.

Letters in names: C candidates, flat over the sample.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from rankwell.calibration.beta import Beta, fit_beta
from rankwell.calibration.platt import Platt, fit_platt
from rankwell.errors import CalibrationError

NONE = torch.zeros(0, 0, dtype=torch.int64)


def _sample(num: int, seed: int, low: float, high: float, offset: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    numbers = np.random.default_rng(seed)
    logits_C = torch.from_numpy(numbers.normal(0.0, 2.0, num))
    labels_C = torch.from_numpy(numbers.random(num)) < torch.sigmoid(
        Beta(low, high, offset).calibrated_logits(logits_C, NONE)
    )
    return logits_C, labels_C.double(), torch.from_numpy(numbers.gamma(2.0, 1.0, num)), torch.zeros(num, 0)


def test_it_minimises_the_log_loss() -> None:
    logits_C, labels_C, weights_C, segments_CS = _sample(4000, 1, 0.5, 1.5, -0.3)
    fitted = fit_beta(logits_C, labels_C, weights_C, segments_CS)
    p_C = 1.0 / (1.0 + np.exp(-logits_C.numpy()))

    def cost(point: NDArray[np.float64]) -> float:
        low, high, offset = point
        log_odds_C = low * np.log(p_C) - high * np.log(1.0 - p_C) + offset
        losses_C = np.logaddexp(0.0, log_odds_C) - labels_C.numpy() * log_odds_C
        return float(weights_C.numpy() @ losses_C) / 4000

    plain = minimize(cost, [1.0, 1.0, 0.0], method="BFGS", options={"gtol": 1e-9})
    found = [fitted.low_slope.item(), fitted.high_slope.item(), fitted.offset.item()]
    assert found == pytest.approx(plain.x.tolist(), abs=1e-5)


def test_it_finds_a_curve_that_no_line_is() -> None:
    sample, fresh = _sample(200_000, 2, 0.5, 2.0, 0.4), _sample(200_000, 3, 0.5, 2.0, 0.4)
    curve = fit_beta(*sample)
    assert curve.low_slope.item() == pytest.approx(0.5, abs=0.02)
    assert curve.high_slope.item() == pytest.approx(2.0, abs=0.06)
    logits_C, _, _, segments_CS = fresh
    true_C = Beta(0.5, 2.0, 0.4)(logits_C, segments_CS)
    of_line_C = fit_platt(*sample)(logits_C, segments_CS)
    assert (curve(logits_C, segments_CS) - true_C).abs().max() < 0.005
    assert (of_line_C - true_C).abs().max() > 0.05


def test_equal_slopes_are_a_line() -> None:
    logits_C = torch.tensor([-1e6, -700.0, -3.0, 0.0, 0.1, 40.0, 1e6], dtype=torch.float64)
    torch.testing.assert_close(
        Beta(0.7, 0.7, -1.0).calibrated_logits(logits_C, NONE), Platt(0.7, -1.0).calibrated_logits(logits_C, NONE)
    )


def test_exact_where_the_probability_rounds() -> None:
    log_odds_C = Beta(0.5, 2.0, 1.0).calibrated_logits(torch.tensor([-torch.inf, -800.0, 0.0, 800.0, torch.inf]), NONE)
    assert log_odds_C.tolist() == [-math.inf, -399.0, 1.0 + 1.5 * math.log(2.0), 1601.0, math.inf]


def test_predicted_sum_is_the_observed_sum_on_the_sample() -> None:
    logits_C, labels_C, weights_C, segments_CS = _sample(5000, 4, 1.0, 0.4, -2.0)
    fitted = fit_beta(logits_C, labels_C, weights_C, segments_CS)
    predicted = torch.dot(weights_C, fitted(logits_C, segments_CS)).item()
    assert predicted == pytest.approx(torch.dot(weights_C, labels_C).item(), abs=1e-4)


def test_a_slope_that_would_be_negative_ends_just_above_zero() -> None:
    numbers = np.random.default_rng(5)  # far below 0 the rate falls with the logit, far above it rises
    logits_C = torch.from_numpy(numbers.normal(0.0, 2.0, 20_000))
    true_C = torch.where(logits_C < 0, -0.5 * logits_C, 1.5 * logits_C) - 1.0
    labels_C = (torch.from_numpy(numbers.random(20_000)) < torch.sigmoid(true_C)).double()
    fitted = fit_beta(logits_C, labels_C, torch.ones(20_000), torch.zeros(20_000, 0))
    assert 0.0 < fitted.low_slope.item() < 1e-6
    assert fitted.high_slope.item() > 0.5


def test_logits_on_one_side_leave_the_other_slope_finite() -> None:
    logits_C, labels_C, weights_C, segments_CS = _sample(5000, 6, 0.8, 0.8, 0.0)
    fitted = fit_beta(logits_C - 30.0, labels_C, weights_C, segments_CS)  # ln(1 - p) is 0 in all but a few digits
    assert fitted.low_slope.item() == pytest.approx(0.8, abs=0.1)
    assert math.isfinite(fitted.high_slope.item())


def test_logits_beyond_all_measure_are_refused() -> None:
    logits_C, labels_C, weights_C, segments_CS = _sample(500, 7, 1.0, 1.0, 0.0)
    with pytest.raises(CalibrationError, match="no most likely line .* standard deviation inf"):
        fit_beta(1e200 * logits_C, labels_C, weights_C, segments_CS)


@pytest.mark.parametrize("slope", [0.0, -1.0, math.inf, math.nan])
def test_a_slope_that_would_not_increase_is_refused(slope: float) -> None:
    with pytest.raises(CalibrationError, match="low_slope; found: .*; allowed: a finite number above 0"):
        Beta(slope, 1.0, 0.0)
    with pytest.raises(CalibrationError, match="high_slope"):
        Beta(1.0, slope, 0.0)
