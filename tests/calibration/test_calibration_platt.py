"""Platt and temperature against scikit-learn, plain arithmetic, and samples that do not determine them.

Letters in names: C candidates, flat over the sample.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from rankwell.calibration.platt import Platt, fit_platt
from rankwell.calibration.temperature import Temperature, fit_temperature
from rankwell.errors import CalibrationError


def _sample(num: int, seed: int, slope: float = 0.5, offset: float = -1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    numbers = np.random.default_rng(seed)
    logits_C = torch.from_numpy(numbers.normal(-1.0, 1.5, num))
    labels_C = torch.from_numpy(numbers.random(num)) < torch.sigmoid(slope * logits_C + offset)
    return logits_C, labels_C.double(), torch.from_numpy(numbers.gamma(2.0, 1.0, num)), torch.zeros(num, 0)


@pytest.mark.parametrize("num", [200, 5000, 100_000])
def test_equal_to_logistic_regression_without_penalty(num: int) -> None:
    logits_C, labels_C, weights_C, segments_CS = _sample(num, num)
    fitted = fit_platt(logits_C, labels_C, weights_C, segments_CS)
    reference = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12)
    reference.fit(logits_C.numpy()[:, None], labels_C.numpy(), sample_weight=weights_C.numpy())
    assert fitted.slope.item() == pytest.approx(reference.coef_[0, 0], abs=1e-6)
    assert fitted.offset.item() == pytest.approx(reference.intercept_[0], abs=1e-6)


def test_temperature_minimises_the_log_loss() -> None:
    logits_C, labels_C, weights_C, segments_CS = _sample(3000, 1)
    fitted = fit_temperature(logits_C, labels_C, weights_C, segments_CS)

    def cost(inverse: float) -> float:
        line_C = inverse * logits_C.numpy()
        return float(np.sum(weights_C.numpy() * (np.logaddexp(0.0, line_C) - labels_C.numpy() * line_C)))

    plain = minimize_scalar(cost, bracket=(0.1, 2.0), tol=1e-10)
    assert 1.0 / fitted.temperature.item() == pytest.approx(plain.x, abs=1e-6)


def test_two_logits_have_the_log_odds_of_their_rates() -> None:
    logits_C = torch.tensor([-2.0, -2.0, 1.0, 1.0])
    labels_C, weights_C = torch.tensor([0, 1, 0, 1]), torch.tensor([90.0, 10.0, 60.0, 40.0])
    fitted = fit_platt(logits_C, labels_C, weights_C, torch.zeros(4, 0))
    at_low, at_high = math.log(10 / 90), math.log(40 / 60)
    assert fitted.slope.item() == pytest.approx((at_high - at_low) / 3, abs=1e-6)
    assert fitted.offset.item() == pytest.approx(at_high - (at_high - at_low) / 3, abs=1e-6)


def test_predicted_sum_is_the_observed_sum_on_the_sample() -> None:
    logits_C, labels_C, weights_C, segments_CS = _sample(5000, 2)
    fitted = fit_platt(logits_C, labels_C, weights_C, segments_CS)
    predicted = torch.dot(weights_C, fitted(logits_C, segments_CS)).item()
    assert predicted == pytest.approx(torch.dot(weights_C, labels_C).item(), abs=1e-4)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_shift_and_scale_of_the_logits_are_undone(scale: float, shift: float) -> None:
    logits_C, labels_C, weights_C, segments_CS = _sample(5000, 3)
    plain_C = fit_platt(logits_C, labels_C, weights_C, segments_CS)(logits_C, segments_CS)
    moved_C = scale * (logits_C + shift)
    moved_probabilities_C = fit_platt(moved_C, labels_C, weights_C, segments_CS)(moved_C, segments_CS)
    # At a scale of 1e-6 the prior, whose mode is a slope of 1, weighs as much as one row: hence not exactly equal.
    torch.testing.assert_close(moved_probabilities_C, plain_C, rtol=0.0, atol=1e-3 if scale < 1 else 1e-8)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_separated_labels_give_a_finite_steep_line(scale: float) -> None:
    logits_C = scale * torch.linspace(-3, 3, 61, dtype=torch.float64)
    labels_C = (logits_C > 0.5 * scale).double()
    fitted = fit_platt(logits_C, labels_C, torch.ones(61), torch.zeros(61, 0))
    probabilities_C = fitted(logits_C, torch.zeros(61, 0))
    assert fitted.slope.isfinite()
    assert (probabilities_C[labels_C == 1] > 0.95).all()
    assert (probabilities_C[labels_C == 0] < 0.05).all()


def test_logits_that_rank_the_wrong_way_round_give_a_level_line_at_the_rate() -> None:
    logits_C, labels_C, weights_C, segments_CS = _sample(5000, 4)
    fitted = fit_platt(-logits_C, labels_C, weights_C, segments_CS)
    assert 0.0 < fitted.slope.item() < 1e-6
    rate = (torch.dot(weights_C, labels_C) / weights_C.sum()).item()
    assert torch.sigmoid(fitted.offset).item() == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize("weight", [1e-12, 1e12])
def test_any_scale_of_weights_ends(weight: float) -> None:
    logits_C, labels_C, weights_C, segments_CS = _sample(500, 5)
    fitted = fit_platt(logits_C, labels_C, weight * weights_C, segments_CS)
    assert fitted.slope.item() > 0.0
    if weight > 1:
        plain = fit_platt(logits_C, labels_C, weights_C, segments_CS)
        assert fitted.slope.item() == pytest.approx(plain.slope.item(), abs=1e-6)


def test_logits_beyond_all_measure_are_refused() -> None:
    logits_C, labels_C, weights_C, segments_CS = _sample(500, 6)
    with pytest.raises(CalibrationError, match="no most likely line .* standard deviation inf"):
        fit_platt(1e200 * logits_C, labels_C, weights_C, segments_CS)


@pytest.mark.parametrize("slope", [0.0, -1.0, math.inf, math.nan])
def test_a_slope_that_would_not_increase_is_refused(slope: float) -> None:
    with pytest.raises(CalibrationError, match="slope; found: .*; allowed: a finite number above 0"):
        Platt(slope, 0.0)
    with pytest.raises(CalibrationError, match="temperature"):
        Temperature(slope)


def test_an_offset_that_is_not_finite_is_refused() -> None:
    with pytest.raises(CalibrationError, match="offset; found: inf; allowed: a finite number"):
        Platt(1.0, math.inf)


def test_log_odds_are_exact_where_the_probability_rounds() -> None:
    calibrator, segments_CS = Platt(2.0, 1.0), torch.zeros(2, 0)
    logits_C = torch.tensor([-1000.0, 1000.0])
    assert calibrator.calibrated_logits(logits_C, segments_CS).tolist() == [-1999.0, 2001.0]
    assert calibrator(logits_C, segments_CS).tolist() == [2.0**-1022, 1.0 - 2.0**-53]
