"""Histogram binning: one rate for each bin of the logits.

Letters in names: C candidates, flat over the sample, by ascending logit · T ties: the distinct logits · N bins ·
B blocks: bins that share a rate · K knots.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.calibration.adjacent_violators import Blocks, pool_adjacent_violators, with_both_labels
from rankwell.calibration.isotonic import Isotonic
from rankwell.calibration.sample import CalibrationSample
from rankwell.calibration.sorted_labels import sorted_labels

__all__ = ["fit_histogram"]

_TILT: Final = 1e-6
"""By how much log-odds rise or fall to either end of a step: enough to keep an order, too little to be measured."""
_ROUNDING: Final = 1e-9
"""A middle that falls on an edge goes up, whatever the last bit of its running sum."""

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


def fit_histogram(logits_C: Tensor, labels_C: Tensor, weights_C: Tensor, segments_CS: Tensor) -> Isotonic:
    """The rate of label 1 in each of n^⅓ bins of equal mass, n = Σ w: as many bins as balance their bias and noise.

    Histogram binning as it was published decreases where chance has it so, and makes ties of all logits in a bin. A
    calibrator may do neither, so

    1. equal logits are never put into two bins, and neighbouring bins whose rates do not ascend are pooled;
    2. end bins with one label only get half a row of each besides, as in `fit_isotonic`;
    3. a step is not quite level: its log-odds rise by 2·10⁻⁶ from its first logit to its last. Between the last logit
       of a step and the first of the next they rise linearly.

    That is an `Isotonic` with two knots a step. `fit_isotonic` chooses its steps by the labels, and is better with as
    many rows; this one is what to compare with.

    Args:
        logits_C: Natural log-odds, finite.
        labels_C: 0 or 1.
        weights_C: Counts of rows, ≥ 0.
        segments_CS: int64, S ≥ 0 segment columns; not looked at.

    Raises:
        CalibrationError: The sample cannot be used; see `CalibrationSample.checked`.

    >>> logits_C, labels_C = torch.arange(8.0), torch.tensor([0, 0, 0, 1, 0, 1, 1, 0])
    >>> fitted = fit_histogram(logits_C, labels_C, torch.ones(8), torch.zeros(8, 0))
    >>> fitted.knot_logits_B.tolist()  # 8^⅓ bins
    [0.0, 3.0, 4.0, 7.0]
    >>> torch.sigmoid(fitted.knot_log_odds_B)
    tensor([0.2500, 0.2500, 0.5000, 0.5000], dtype=torch.float64)

    Source: Zadrozny and Elkan 2001, "Obtaining calibrated probability estimates from decision trees and naive Bayesian
    classifiers", §3; for the number of bins, Györfi et al. 2002, "A distribution-free theory of nonparametric
    regression", theorem 4.3.
    """
    sample = CalibrationSample.checked(logits_C, labels_C, weights_C, segments_CS)
    bins = _bins(sample.logits_C.numpy(), sample.labels_C.numpy(), sample.weights_C.numpy())
    blocks = with_both_labels(_ascending(bins))
    knots_K, log_odds_K = _steps(blocks)
    return Isotonic(torch.from_numpy(knots_K), torch.from_numpy(log_odds_K))


def _bins(logits_C: _Floats, labels_C: _Floats, weights_C: _Floats) -> Blocks:
    """Bins of equal mass, whose rates need not ascend."""
    logits_C, signed_C = sorted_labels(logits_C, labels_C, weights_C)
    weights_C = np.abs(signed_C)
    first_T = np.flatnonzero(np.append(True, logits_C[1:] != logits_C[:-1]))
    weight_T = np.add.reduceat(weights_C, first_T)
    total = weight_T.sum()
    num_bins = max(1, round(total ** (1 / 3)))
    middle_T = (np.cumsum(weight_T) - weight_T / 2) / total
    bin_T = np.minimum(middle_T * num_bins + _ROUNDING, num_bins - 1).astype(np.int64)
    first_N: _Ints = first_T[np.append(True, bin_T[1:] != bin_T[:-1])]
    last_N = np.append(first_N[1:], len(logits_C)) - 1
    weight_N = np.add.reduceat(weights_C, first_N)
    mean_N = np.add.reduceat(weights_C * logits_C, first_N) / weight_N
    positives_N, negatives_N = (np.add.reduceat(np.maximum(s_C, 0.0), first_N) for s_C in (signed_C, -signed_C))
    low_N, high_N = logits_C[first_N], logits_C[last_N]
    return Blocks(low_N, high_N, np.clip(mean_N, low_N, high_N), positives_N, negatives_N)


def _ascending(bins: Blocks) -> Blocks:
    """Bins pooled until their rates ascend."""
    means, labels = np.tile(bins.mean_logits_B, 2), np.repeat([1.0, 0.0], len(bins.mean_logits_B))
    weights = np.concatenate([bins.positives_B, bins.negatives_B])
    held = weights > 0
    pooled = pool_adjacent_violators(means[held], labels[held], weights[held])
    first_B = bins.first_logits_B[np.searchsorted(bins.mean_logits_B, pooled.first_logits_B)]
    last_B = bins.last_logits_B[np.searchsorted(bins.mean_logits_B, pooled.last_logits_B)]
    return replace(pooled, first_logits_B=first_B, last_logits_B=last_B)


def _steps(blocks: Blocks) -> tuple[_Floats, _Floats]:
    """Two knots for each block, one where all its logits are one."""
    log_odds_B = blocks.log_odds_B
    gaps_B = np.diff(log_odds_B)
    tilt_B = np.minimum(_TILT, np.minimum(np.append(gaps_B, 1.0), np.append(1.0, gaps_B)) / 4)
    tilt_B = np.where(blocks.first_logits_B < blocks.last_logits_B, tilt_B, 0.0)
    knots_K = np.column_stack([blocks.first_logits_B, blocks.last_logits_B]).ravel()
    log_odds_K = np.column_stack([log_odds_B - tilt_B, log_odds_B + tilt_B]).ravel()
    is_new_K = np.append(True, np.diff(knots_K) > 0)
    return knots_K[is_new_K], log_odds_K[is_new_K]
