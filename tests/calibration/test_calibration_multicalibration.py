"""Corrections over columns that cross, against the truth and against what one column can do.

Letters in names: C candidates, flat over the sample · S segment columns · G values of one column.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from rankwell.calibration.calibrator import Calibrator
from rankwell.calibration.multicalibration import Multicalibrated, fit_multicalibrated
from rankwell.calibration.platt import fit_platt
from rankwell.calibration.segment_levels import halves_of
from rankwell.calibration.segment_tree import fit_segment_tree
from rankwell.errors import CalibrationError

Columns = tuple[Tensor, Tensor, Tensor, Tensor]
SIZES = (4, 12, 30)


def _drawn(num: int, seed: int, strength: float) -> tuple[Columns, Tensor]:
    """Three columns that cross, each with offsets, the second with slopes, too; and the true log-odds."""
    effects = np.random.default_rng(0)
    offsets = [strength * effects.normal(size=size) for size in SIZES]
    slopes_G = np.exp(0.5 * strength * effects.normal(size=SIZES[1]))
    numbers = np.random.default_rng(seed)
    segments_CS = np.column_stack([numbers.integers(0, size, num) for size in SIZES])
    logits_C = numbers.normal(-2.0, 1.2, num)
    true_C = (logits_C + 2.0) * slopes_G[segments_CS[:, 1]] - 2.0
    for column, offsets_G in enumerate(offsets):
        true_C += offsets_G[segments_CS[:, column]]
    labels_C = (numbers.random(num) < 1 / (1 + np.exp(-true_C))).astype(np.float64)
    sample = [torch.from_numpy(column_C) for column_C in (logits_C, labels_C, np.ones(num), segments_CS)]
    return (sample[0], sample[1], sample[2], sample[3]), torch.from_numpy(true_C)


def _errors_of_segments(calibrator: Calibrator, sample: Columns) -> NDArray[np.float64]:
    """Predicted less observed of every value of every column, in standard errors."""
    logits_C, labels_C, _, segments_CS = sample
    p_C = calibrator(logits_C, segments_CS).numpy()
    errors = []
    for column, size in enumerate(SIZES):
        gap_G = np.bincount(segments_CS[:, column], p_C - labels_C.numpy(), minlength=size)
        errors.append(gap_G / np.sqrt(np.bincount(segments_CS[:, column], p_C * (1 - p_C), minlength=size)))
    return np.concatenate(errors)


def _expected_log_loss(log_odds_C: Tensor, true_C: Tensor) -> float:
    p_C = torch.sigmoid(true_C)
    return float((p_C * softplus(-log_odds_C) + (1 - p_C) * softplus(log_odds_C)).mean())


def test_no_segment_is_off_by_more_than_its_noise() -> None:
    sample, _ = _drawn(60_000, 1, 0.4)
    limit = 3.4  # of 92: two for each of 46 values, at 5 % in all
    assert np.abs(_errors_of_segments(fit_platt(*sample), sample)).max() > 10
    assert np.abs(_errors_of_segments(fit_multicalibrated(*sample), sample)).max() < limit


def test_on_fresh_rows_it_is_near_the_truth_where_one_column_is_not() -> None:
    sample, _ = _drawn(60_000, 1, 0.4)
    fresh, true_C = _drawn(60_000, 2, 0.4)
    best = _expected_log_loss(true_C, true_C)

    def excess(calibrator: Calibrator, segments_CS: Tensor) -> float:
        return _expected_log_loss(calibrator.calibrated_logits(fresh[0], segments_CS), true_C) - best

    of_all = excess(fit_multicalibrated(*sample), fresh[3])
    of_one = min(
        excess(fit_segment_tree(*sample[:3], sample[3][:, [column]]), fresh[3][:, [column]]) for column in range(3)
    )
    assert of_all < 0.15 * of_one


def test_where_nothing_is_off_it_is_platt() -> None:
    sample, _ = _drawn(20_000, 3, 0.0)
    calibrator, line = fit_multicalibrated(*sample), fit_platt(*sample)
    assert (calibrator.slopes == 1).all()
    assert (calibrator.offsets == 0).all()
    assert (calibrator.slope.item(), calibrator.offset.item()) == (line.slope.item(), line.offset.item())


def test_the_order_of_the_columns_means_nothing() -> None:
    sample, _ = _drawn(20_000, 4, 0.4)
    turned_CS = sample[3][:, [2, 0, 1]]
    one, other = fit_multicalibrated(*sample), fit_multicalibrated(*sample[:3], turned_CS)
    torch.testing.assert_close(one(sample[0], sample[3]), other(sample[0], turned_CS), rtol=0.0, atol=1e-9)


def test_it_rises_within_every_combination() -> None:
    calibrator = fit_multicalibrated(*_drawn(20_000, 5, 0.8)[0])
    logits_C = torch.linspace(-20.0, 20.0, 50)
    for combination in ([0, 0, 0], [3, 11, 29], [1, 5, 99], [77, -1, 3]):
        log_odds_C = calibrator.calibrated_logits(logits_C, torch.tensor([combination]).expand(50, 3))
        assert (log_odds_C.diff() > 0).all()


def test_a_value_unseen_at_the_fit_and_a_column_left_out_are_not_corrected() -> None:
    calibrator = fit_multicalibrated(*_drawn(20_000, 6, 0.4)[0])
    zeros_C = torch.zeros(3)
    unseen_C = calibrator.calibrated_logits(zeros_C, torch.tensor([[99, 99, 99], [-1, 99, 5], [2, 99, 99]]))
    assert unseen_C[0].item() == pytest.approx(calibrator.offset.item(), abs=1e-12)
    assert unseen_C[1] != unseen_C[0]
    left_out_C = calibrator.calibrated_logits(zeros_C[:1], torch.tensor([[2]]))
    assert left_out_C.item() == pytest.approx(unseen_C[2].item(), abs=1e-12)


def test_a_value_with_one_label_is_let_be() -> None:
    (logits_C, labels_C, weights_C, segments_CS), _ = _drawn(20_000, 7, 0.4)
    labels_C = torch.where(segments_CS[:, 1] == 4, 0.0, labels_C)
    calibrator = fit_multicalibrated(logits_C, labels_C, weights_C, segments_CS)
    at = 4 + 4
    assert (calibrator.columns[at], calibrator.values[at].tolist()) == (1, [0, 4])
    assert (calibrator.slopes[at], calibrator.offsets[at]) == (1, 0)
    assert (calibrator.offsets[4:16] != 0).sum() == 11


@pytest.mark.parametrize(("columns", "values"), [([1, 0], [0, 0]), ([0, 0], [2, 1]), ([0, 0], [1, 1])])
def test_values_out_of_order_are_refused(columns: list[float], values: list[int]) -> None:
    ones_V, halves_V2 = torch.ones(2), torch.from_numpy(halves_of(np.array(values)))
    with pytest.raises(CalibrationError, match="cannot have these columns and values"):
        Multicalibrated(torch.tensor(columns), halves_V2, ones_V, ones_V, 1.0, 0.0, 0.0)
