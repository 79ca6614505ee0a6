"""What a calibrator needs of a span of time, as sums that add up: the calibrator of a window is that of its panes' sum.

Letters in names: C candidates, flat over the sample · S segment columns · G segments · N cells, one for each bin and
segment that has rows · L = 2 labels, 0 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self, final

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.calibration.sample import CalibrationSample
from rankwell.calibration.segment_levels import rows_by_group, segment_levels, segment_paths
from rankwell.errors import CalibrationError

__all__ = ["LogitPane"]

_NUM_BINS: Final = 4096
"""Bins of equal width over the logits from -20 to 20; rows further out are counted in the first and the last one."""
_REACH: Final = 20.0
_PER_LOGIT: Final = _NUM_BINS / (2 * _REACH)

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@final
@dataclass(frozen=True, slots=True, eq=False)
class LogitPane:
    """Σ w and Σ w·z of either label, by bin of the logit and by segment; cells without rows take no memory.

    Panes add up by `+`, in any order, and two halves give the whole up to rounding. What a calibrator is fitted to is
    `rows`: at most two for each cell, one of either label, at the mean logit of that label's rows. A cell is less than
    .01 wide and its means are exact, so a fit on them differs from that on all rows by terms of second order in .01.

    Args:
        segments_NS: int64, ascending by its columns and then by bin.
        bins_N: int64, 0 to 4,095.
        weights_NL: Σ w.
        moments_NL: Σ w·z.

    >>> from rankwell.calibration.platt import fit_platt
    >>> logits_C, labels_C = torch.tensor([-1.0, -1.0, 1.0, 1.0]), torch.tensor([0, 1, 1, 0])
    >>> no_segments_CS = torch.zeros(4, 0, dtype=torch.int64)
    >>> monday = LogitPane.of(logits_C, labels_C, torch.tensor([3.0, 1.0, 0.0, 0.0]), no_segments_CS)
    >>> tuesday = LogitPane.of(logits_C, labels_C, torch.tensor([0.0, 0.0, 3.0, 1.0]), no_segments_CS)
    >>> fitted = fit_platt(*(monday + tuesday).rows())
    >>> f"{fitted.slope:.5f} {fitted.offset.abs():.5f}"
    '1.09861 0.00000'
    """

    segments_NS: _Ints
    bins_N: _Ints
    weights_NL: _Floats
    moments_NL: _Floats

    @classmethod
    def of(cls, logits_C: Tensor, labels_C: Tensor, weights_C: Tensor, segments_CS: Tensor) -> Self:
        """The sums of these rows, which may be none, or of one label only.

        Args:
            logits_C: Natural log-odds, finite.
            labels_C: 0 or 1.
            weights_C: Counts of rows, ≥ 0; rows of weight 0 are absent, whatever they hold.
            segments_CS: int64, S ≥ 0 segment columns.

        Raises:
            CalibrationError: The rows cannot be used; see `CalibrationSample.observed`.
        """
        return cls.of_sample(CalibrationSample.observed(logits_C, labels_C, weights_C, segments_CS))

    @classmethod
    def of_sample(cls, sample: CalibrationSample) -> Self:
        """The sums of rows that are checked."""
        levels = segment_levels(sample.segments_CS.numpy())
        num_groups = len(levels[-1].values_G)
        if len(sample.logits_C) == 0:
            nothing_NL = np.zeros((0, 2))
            return cls(sample.segments_CS.numpy(), np.zeros(0, np.int64), nothing_NL, nothing_NL)
        rows, bounds_G = rows_by_group(levels[-1].group_C, num_groups)
        columns = (sample.logits_C, sample.labels_C, sample.weights_C)
        logits_C, labels_C, weights_C = (column_C.numpy()[rows] for column_C in columns)
        group_N, bins_N, weights_NL, moments_NL = _cells(logits_C, labels_C, weights_C, bounds_G)
        return cls(segment_paths(levels)[group_N], bins_N, weights_NL, moments_NL)

    def __add__(self, other: LogitPane) -> LogitPane:
        """The pane of the rows of both.

        Raises:
            CalibrationError: They differ in their number of segment columns.
        """
        if self.segments_NS.shape[1] != other.segments_NS.shape[1]:
            raise CalibrationError(
                "panes of other segments do not add up",
                found=f"{self.segments_NS.shape[1]} and {other.segments_NS.shape[1]} segment columns",
                allowed="one number of columns, of one meaning",
            )
        keys_NK = np.concatenate(
            [np.column_stack([pane.segments_NS, pane.bins_N]) for pane in (self, other)]
        )  # K = S + 1
        levels = segment_levels(keys_NK)
        if len(keys_NK) == 0:
            return self
        paths_NK, cell_N = segment_paths(levels), levels[-1].group_C
        sums = np.zeros((2, len(paths_NK), 2))
        for total_NL, name in zip(sums, ("weights_NL", "moments_NL"), strict=True):
            np.add.at(total_NL, cell_N, np.concatenate([getattr(self, name), getattr(other, name)]))
        return LogitPane(paths_NK[:, :-1], paths_NK[:, -1], sums[0], sums[1])

    def __len__(self) -> int:
        """How many cells have rows."""
        return len(self.bins_N)

    @property
    def total_weight(self) -> float:
        """Σ w over all rows."""
        return float(self.weights_NL.sum())

    def rows(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(logits_C, labels_C, weights_C, segments_CS), which any ``fit_<name>`` takes: ``fit_beta(*pane.rows())``.

        Isotonic calibration is the exception: take `fit_binned_isotonic`. The means of the two labels in a bin differ
        by chance, and a function that follows every row would follow that difference.
        """
        cell_C, label_C = np.nonzero(self.weights_NL)
        weights_C = self.weights_NL[cell_C, label_C]
        logits_C = self.moments_NL[cell_C, label_C] / weights_C
        labels_C = label_C.astype(np.float64)
        return (
            torch.from_numpy(logits_C),
            torch.from_numpy(labels_C),
            torch.from_numpy(weights_C),
            torch.from_numpy(self.segments_NS[cell_C]),
        )


@numba.njit(cache=True, nogil=True)
def _cells(logits_C, labels_C, weights_C, bounds_G):  # type: ignore[no-untyped-def]
    """Group, bin and sums of each cell, from rows that stand group by group."""
    num_groups = len(bounds_G) - 1
    most = min(len(logits_C), num_groups * _NUM_BINS)
    group_N, bins_N = np.empty(most, np.int64), np.empty(most, np.int64)
    weights_NL, moments_NL = np.empty((most, 2)), np.empty((most, 2))
    weights_BL, moments_BL = np.zeros((_NUM_BINS, 2)), np.zeros((_NUM_BINS, 2))
    num = 0
    for group in range(num_groups):
        lowest, highest = _NUM_BINS - 1, 0
        for row in range(bounds_G[group], bounds_G[group + 1]):
            place = min(max((logits_C[row] + _REACH) * _PER_LOGIT, 0.0), _NUM_BINS - 1.0)
            bin_, label = int(place), int(labels_C[row])
            lowest, highest = min(lowest, bin_), max(highest, bin_)
            weights_BL[bin_, label] += weights_C[row]
            moments_BL[bin_, label] += weights_C[row] * logits_C[row]
        for bin_ in range(lowest, highest + 1):
            if weights_BL[bin_, 0] + weights_BL[bin_, 1] > 0.0:
                group_N[num], bins_N[num] = group, bin_
                for label in range(2):
                    weights_NL[num, label], moments_NL[num, label] = weights_BL[bin_, label], moments_BL[bin_, label]
                    weights_BL[bin_, label] = moments_BL[bin_, label] = 0.0
                num += 1
    return group_N[:num].copy(), bins_N[:num].copy(), weights_NL[:num].copy(), moments_NL[:num].copy()
