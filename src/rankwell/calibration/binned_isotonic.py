"""Isotonic calibration from additive counts.

Letters in names: C candidates, flat over the sample, or counted rows · S segment columns · B bins that have rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from rankwell.calibration.adjacent_violators import pool_adjacent_violators
from rankwell.calibration.isotonic import Isotonic, isotonic_of
from rankwell.calibration.pane import LogitPane
from rankwell.calibration.sample import CalibrationSample

__all__ = ["fit_binned_isotonic"]


def fit_binned_isotonic(logits_C: Tensor, labels_C: Tensor, weights_C: Tensor, segments_CS: Tensor) -> Isotonic:
    """`fit_isotonic`, but logits that fall into one of 4,096 bins over -20 to 20 share a block: no row is sorted.

    Each bin stands at the mean logit of its rows. The rows of a `LogitPane` fall into the bins they came from, so
    ``fit_binned_isotonic(*pane.rows())`` is the calibrator of the pane's own rows.

    Args:
        logits_C: Natural log-odds, finite.
        labels_C: 0 or 1.
        weights_C: Counts of rows, ≥ 0.
        segments_CS: int64, S ≥ 0 segment columns; not looked at.

    Raises:
        CalibrationError: The sample cannot be used; see `CalibrationSample.checked`.

    >>> import torch
    >>> logits_C, labels_C = torch.tensor([-2.0, -1.998, 0.0, 0.002, 2.0]), torch.tensor([0, 0, 1, 0, 1])
    >>> fitted = fit_binned_isotonic(logits_C, labels_C, torch.ones(5), torch.zeros(5, 0))
    >>> [round(logit, 4) for logit in fitted.knot_logits_B.tolist()], torch.sigmoid(fitted.knot_log_odds_B)
    ([-1.999, 0.001, 2.0], tensor([0.1667, 0.5000, 0.7500], dtype=torch.float64))
    """
    sample = CalibrationSample.checked(logits_C, labels_C, weights_C, segments_CS)
    pane = LogitPane.of_sample(replace(sample, segments_CS=sample.segments_CS[:, :0]))
    mean_logits_B = pane.moments_NL.sum(1) / pane.weights_NL.sum(1)
    bin_C, label_C = np.nonzero(pane.weights_NL)
    counted_C = pane.weights_NL[bin_C, label_C]
    return isotonic_of(pool_adjacent_violators(mean_logits_B[bin_C], label_C.astype(np.float64), counted_C))
