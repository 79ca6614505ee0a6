"""How far a column has moved: what every statistic of drift is, and what they share.

Letters in names: B bins of a column, the last of them for missing values.
"""

from __future__ import annotations

import warnings
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from rankwell.errors import UndefinedMetricWarning
from rankwell.monitoring.column_counts import ColumnCounts, check_same_bins

__all__ = ["DriftStatistic", "smoothed_counts", "smoothed_shares"]

HALF: Final = 0.5
"""Of a count, added to each bin: a bin that is empty by chance makes no logarithm infinite."""


class DriftStatistic(Protocol):
    """A number ≥ 0 that says how far a column's current rows are from those of a reference.

    It is 0 of a column and itself, grows as the column moves away, and is finite for any two: none in common, no rows,
    nothing but missing values. Where it has no meaning for a kind of column it is NaN, with `UndefinedMetricWarning`.
    A public function of ``(reference, current)`` in this room is found by `tests/conformance/` and held to that. With
    no drift a statistic is not 0 but as large as chance makes it.
    """

    def __call__(self, reference: ColumnCounts, current: ColumnCounts) -> float:
        """The distance, from counts of the same bins."""
        ...


def smoothed_counts(reference: ColumnCounts, current: ColumnCounts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The counts of both and half a count in each bin, the one for missing values among them.

    Raises:
        MonitoringError: Their bins differ.
    """
    check_same_bins(reference, current)
    return reference.counts_B.astype(np.float64) + HALF, current.counts_B.astype(np.float64) + HALF


def smoothed_shares(reference: ColumnCounts, current: ColumnCounts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The shares of bins in both, (count + ½) / (rows + bins / 2): above 0, and 1 in sum.

    Raises:
        MonitoringError: Their bins differ.
    """
    reference_B, current_B = smoothed_counts(reference, current)
    return reference_B / reference_B.sum(), current_B / current_B.sum()


def undefined(what: str, why: str) -> float:
    """NaN, said aloud."""
    warnings.warn(f"{what} is undefined, and NaN: {why}", UndefinedMetricWarning, stacklevel=3)
    return np.nan
