"""Histogram binning against arithmetic that can be checked by eye.

Letters in names: C candidates, flat over the sample.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rankwell.calibration.histogram import fit_histogram
from rankwell.calibration.isotonic import Isotonic


def _fitted(logits: list[float], labels: list[int], weights: list[float] | None = None) -> Isotonic:
    weights_C = torch.ones(len(logits)) if weights is None else torch.tensor(weights, dtype=torch.float64)
    return fit_histogram(
        torch.tensor(logits, dtype=torch.float64), torch.tensor(labels), weights_C, torch.zeros(len(logits), 0)
    )


def _steps(calibrator: Isotonic) -> tuple[list[float], list[float]]:
    return calibrator.knot_logits_B.tolist(), torch.sigmoid(calibrator.knot_log_odds_B).tolist()


def test_rates_of_three_bins() -> None:
    logits = [float(logit) for logit in range(27)]  # 27^⅓ bins of 9
    labels = [0] * 8 + [1] + [0] * 6 + [1] * 3 + [1] * 7 + [0] * 2
    knots, rates = _steps(_fitted(logits, labels))
    assert knots == [0, 8, 9, 17, 18, 26]
    assert rates == pytest.approx([1 / 9, 1 / 9, 3 / 9, 3 / 9, 7 / 9, 7 / 9], rel=1e-5)


def test_it_rises_within_a_step_but_not_so_that_it_could_be_measured() -> None:
    numbers = np.random.default_rng(0)
    logits_C = torch.from_numpy(numbers.normal(size=5000))
    labels_C = torch.from_numpy(numbers.random(5000)) < torch.sigmoid(logits_C)
    calibrator = fit_histogram(logits_C, labels_C, torch.ones(5000), torch.zeros(5000, 0))
    inside_C = torch.sort(logits_C).values
    probabilities_C = calibrator(inside_C, torch.zeros(5000, 0))
    assert (probabilities_C.diff() > 0).all()
    predicted = calibrator(logits_C, torch.zeros(5000, 0)).sum().item()
    assert predicted == pytest.approx(labels_C.sum().item(), abs=5000 * 1e-6)


def test_neighbours_out_of_order_are_pooled() -> None:
    labels = [0, 0, 0, 0, 0, 0, 0, 0, 1] + [1] * 6 + [0] * 3 + [0] * 4 + [1] * 5
    knots, rates = _steps(_fitted([float(logit) for logit in range(27)], labels))
    assert knots == [0, 8, 9, 26]
    assert rates == pytest.approx([1 / 9, 1 / 9, 11 / 18, 11 / 18], rel=1e-5)


def test_equal_logits_share_a_bin() -> None:
    knots, rates = _steps(_fitted([0.0] * 5 + [1.0] * 3, [0, 0, 0, 0, 1, 1, 1, 0]))  # 2 bins, cut at 5 and not at 4
    assert knots == [0.0, 1.0]
    assert rates == pytest.approx([1 / 5, 2 / 3], rel=1e-12)


def test_end_bins_with_one_label_get_half_a_row_of_each() -> None:
    knots, rates = _steps(_fitted([0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 0, 1, 1, 1, 1]))
    assert knots == [0, 3, 4, 7]
    assert rates == pytest.approx([0.5 / 5, 0.5 / 5, 4.5 / 5, 4.5 / 5], rel=1e-5)


def test_mass_is_counted_by_weight() -> None:
    knots, rates = _steps(_fitted([0.0, 1.0, 2.0, 3.0], [0, 1, 0, 1], [3.0, 1.0, 2.0, 2.0]))  # 2 bins of 4
    assert knots == [0.0, 1.0, 2.0, 3.0]
    assert rates == pytest.approx([1 / 4, 1 / 4, 2 / 4, 2 / 4], rel=1e-5)
