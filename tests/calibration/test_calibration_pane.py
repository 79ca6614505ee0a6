"""Panes add up, and what is fitted on their sums is what is fitted on all rows.

Letters in names: C candidates, flat over the sample.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from torch import Tensor

from rankwell.calibration.beta import fit_beta
from rankwell.calibration.binned_isotonic import fit_binned_isotonic
from rankwell.calibration.calibrator import Calibrator
from rankwell.calibration.isotonic import fit_isotonic
from rankwell.calibration.pane import LogitPane
from rankwell.calibration.platt import fit_platt
from rankwell.calibration.temperature import fit_temperature
from rankwell.errors import CalibrationError

Columns = tuple[Tensor, Tensor, Tensor, Tensor]


def _sample(num: int, seed: int) -> Columns:
    """Rare actions, in two segment columns; some weights are 0."""
    numbers = np.random.default_rng(seed)
    logits_C = torch.from_numpy(numbers.normal(-3.0, 1.5, num))
    true_C = 0.8 * logits_C - 0.2 * torch.nn.functional.softplus(logits_C) + 0.3
    labels_C = (torch.from_numpy(numbers.random(num)) < torch.sigmoid(true_C)).double()
    weights_C = torch.from_numpy(numbers.integers(0, 4, num).astype(np.float64))
    return logits_C, labels_C, weights_C, torch.from_numpy(numbers.integers(-1, 3, (num, 2)))


def _part(sample: Columns, rows: slice) -> Columns:
    return sample[0][rows], sample[1][rows], sample[2][rows], sample[3][rows]


def _assert_equal(one: LogitPane, other: LogitPane) -> None:
    assert np.array_equal(one.segments_NS, other.segments_NS)
    assert np.array_equal(one.bins_N, other.bins_N)
    np.testing.assert_allclose(one.weights_NL, other.weights_NL, rtol=1e-12)
    np.testing.assert_allclose(one.moments_NL, other.moments_NL, rtol=1e-12)


def test_each_cell_is_the_sum_of_its_rows() -> None:
    logits_C = torch.tensor([0.001, 0.002, -0.001, 0.001, 19.999, 500.0, -1e6])
    labels_C, weights_C = torch.tensor([1, 0, 1, 1, 0, 1, 0]), torch.tensor([2.0, 3.0, 1.0, 1.0, 1.0, 1.0, 4.0])
    segments_CS = torch.tensor([[5], [5], [5], [-2], [5], [5], [5]])
    pane = LogitPane.of(logits_C, labels_C, weights_C, segments_CS)
    assert pane.segments_NS.ravel().tolist() == [-2, 5, 5, 5, 5]
    assert pane.bins_N.tolist() == [2048, 0, 2047, 2048, 4095]
    assert pane.weights_NL.tolist() == [[0, 1], [4, 0], [0, 1], [3, 2], [1, 1]]
    np.testing.assert_allclose(
        pane.moments_NL, [[0, 0.001], [-4e6, 0], [0, -0.001], [0.006, 0.002], [19.999, 500]], rtol=1e-6
    )
    assert pane.total_weight == 13.0
    assert len(pane) == 5


def test_halves_give_the_whole_in_any_order() -> None:
    sample = _sample(20_000, 1)
    whole = LogitPane.of(*sample)
    parts = [LogitPane.of(*_part(sample, slice(first, first + 1000))) for first in range(0, 20_000, 1000)]
    _assert_equal(reduce(add, parts), whole)
    _assert_equal(reduce(add, parts[::-1]), whole)
    assert reduce(add, parts).total_weight == sample[2].sum().item()


def test_a_pane_without_rows_changes_nothing() -> None:
    pane = LogitPane.of(*_sample(100, 2))
    nothing = LogitPane.of(torch.zeros(0), torch.zeros(0), torch.zeros(0), torch.zeros(0, 2, dtype=torch.int64))
    assert len(nothing) == len(nothing + nothing) == 0
    _assert_equal(pane + nothing, pane)
    _assert_equal(nothing + pane, pane)


def test_a_pane_may_have_one_label_but_no_fit() -> None:
    pane = LogitPane.of(torch.zeros(5), torch.zeros(5), torch.ones(5), torch.zeros(5, 0))
    with pytest.raises(CalibrationError, match="one class only"):
        fit_platt(*pane.rows())


def test_panes_of_other_segments_are_refused() -> None:
    sample = _sample(100, 3)
    with pytest.raises(CalibrationError, match="do not add up; found: 2 and 1 segment columns"):
        LogitPane.of(*sample) + LogitPane.of(*sample[:3], sample[3][:, :1])


@pytest.mark.parametrize(("column", "value"), [(0, torch.nan), (0, torch.inf), (1, 0.5), (1, torch.nan), (2, -1.0)])
def test_rows_that_no_fit_would_take_are_refused(column: int, value: float) -> None:
    sample = _sample(100, 4)
    sample[2][:] = 1.0
    sample[column][7] = value
    with pytest.raises(CalibrationError, match="1 of 100 rows"):
        LogitPane.of(*sample)


@pytest.mark.parametrize("fit", [fit_platt, fit_beta, fit_temperature])
def test_refitted_within_a_thousandth_of_the_rows(fit: Callable[[Tensor, Tensor, Tensor, Tensor], Calibrator]) -> None:
    sample = _sample(100_000, 5)
    days = [LogitPane.of(*_part(sample, slice(first, first + 10_000))) for first in range(0, 100_000, 10_000)]
    of_panes, of_rows = fit(*reduce(add, days).rows()), fit(*sample)
    for name, fitted in of_rows.state_dict().items():
        assert of_panes.state_dict()[name].item() == pytest.approx(fitted.item(), abs=1e-3)
    log_odds_C = [c.calibrated_logits(torch.linspace(-9, 3, 100), torch.zeros(100, 0)) for c in (of_panes, of_rows)]
    torch.testing.assert_close(*log_odds_C, rtol=0.0, atol=1e-3)


def test_binned_isotonic_of_panes_is_that_of_their_rows() -> None:
    sample = _sample(50_000, 6)
    panes = LogitPane.of(*_part(sample, slice(0, 20_000))) + LogitPane.of(*_part(sample, slice(20_000, None)))
    of_panes, of_rows = fit_binned_isotonic(*panes.rows()), fit_binned_isotonic(*sample)
    torch.testing.assert_close(of_panes.knot_logits_B, of_rows.knot_logits_B, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(of_panes.knot_log_odds_B, of_rows.knot_log_odds_B, rtol=0.0, atol=1e-9)


def test_binned_isotonic_is_near_the_exact_one() -> None:
    sample, fresh = _sample(200_000, 7), _sample(200_000, 8)
    logits_C, labels_C, weights_C, segments_CS = fresh
    scores = []
    for fit in (fit_binned_isotonic, fit_isotonic):
        probabilities_C = fit(*sample)(logits_C, segments_CS)
        scores.append((torch.dot(weights_C, (probabilities_C - labels_C) ** 2) / weights_C.sum()).item())
    assert abs(scores[0] - scores[1]) < 1e-5


def test_binned_isotonic_of_one_logit_a_bin_is_the_exact_one() -> None:
    logits_C, labels_C, weights_C, segments_CS = _sample(20_000, 9)
    logits_C = logits_C.mul(10).round() / 10
    binned, exact = (fit(logits_C, labels_C, weights_C, segments_CS) for fit in (fit_binned_isotonic, fit_isotonic))
    torch.testing.assert_close(binned.knot_logits_B, exact.knot_logits_B)
    torch.testing.assert_close(binned.knot_log_odds_B, exact.knot_log_odds_B)
