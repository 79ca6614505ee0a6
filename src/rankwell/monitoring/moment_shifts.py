"""How far the mean and the variance of a numeric column have moved; of values that are not missing."""

from __future__ import annotations

import math
from typing import Final

from rankwell.monitoring.column_counts import ColumnCounts, check_same_bins
from rankwell.monitoring.drift import HALF, undefined
from rankwell.monitoring.pane_layout import CategoricalBins

__all__ = ["mean_shift", "prediction_drift", "variance_shift"]

_ROUNDING: Final = 1e-9
"""By so much a mean of probabilities may leave [0, 1], since it is made of sums around an origin."""


def mean_shift(reference: ColumnCounts, current: ColumnCounts) -> float:
    """By how many standard deviations of the reference the mean has moved.

    ``|Δ| / √((n·σ² + ½Δ²) / (n + ½))``, where Δ is the step from the reference's mean to the current one, each drawn to
    the other by half a row, n the reference's values and σ² their variance. So a constant that moves gives a number,
    too: √(2n + 1).

    Args:
        reference, current: Counts of the same numeric bins; of any sizes.

    Returns:
        In [0, ∞); 0 where either has no values, which says nothing of a mean. NaN of ids.

    Raises:
        MonitoringError: Their bins differ.

    >>> import numpy as np
    >>> from rankwell.monitoring.pane_layout import NumericBins
    >>> bins = NumericBins(name="years", edges=(2.0,), origin=2.0)
    >>> then = ColumnCounts(bins, np.array([5000, 5000, 0]), total=0.0, squares=10_000.0)  # half of them 1, half 3
    >>> now = ColumnCounts(bins, np.array([2500, 7500, 0]), total=5000.0, squares=10_000.0)
    >>> round(mean_shift(then, now), 3)
    0.5
    """
    check_same_bins(reference, current)
    if isinstance(reference.bins, CategoricalBins):
        return undefined("the shift of the mean", f"{reference.bins.name!r} holds ids")
    num, num_current = reference.num_values, current.num_values
    if not num or not num_current or current.mean == reference.mean:
        return 0.0
    step = (current.mean - reference.mean) * num / (num + HALF) * num_current / (num_current + HALF)
    scale = math.sqrt((num * reference.variance + HALF * step * step) / (num + HALF))
    return abs(step) / scale if scale else 0.0


def variance_shift(reference: ColumnCounts, current: ColumnCounts) -> float:
    """By how much the variance has changed: the logarithm of the ratio, up or down.

    ``|ln(s² / σ²)|``, each variance drawn to that of both by half a row.

    Args:
        reference, current: Counts of the same numeric bins; of any sizes.

    Returns:
        In [0, ∞); 0 where either has no values. NaN of ids.

    Raises:
        MonitoringError: Their bins differ.

    >>> import numpy as np
    >>> from rankwell.monitoring.pane_layout import NumericBins
    >>> bins = NumericBins(name="years", edges=(2.0,), origin=2.0)
    >>> then = ColumnCounts(bins, np.array([5000, 5000, 0]), total=0.0, squares=10_000.0)
    >>> now = ColumnCounts(bins, np.array([5000, 5000, 0]), total=0.0, squares=40_000.0)
    >>> round(math.exp(variance_shift(then, now)), 2)
    4.0
    """
    check_same_bins(reference, current)
    if isinstance(reference.bins, CategoricalBins):
        return undefined("the shift of the variance", f"{reference.bins.name!r} holds ids")
    num, num_current = reference.num_values, current.num_values
    if not num or not num_current:
        return 0.0
    of_both = (num * reference.variance + num_current * current.variance) / (num + num_current)
    if not of_both:
        return 0.0
    variance = (num * reference.variance + HALF * of_both) / (num + HALF)
    current_variance = (num_current * current.variance + HALF * of_both) / (num_current + HALF)
    return abs(math.log(current_variance / variance))


def prediction_drift(reference: ColumnCounts, current: ColumnCounts) -> float:
    """By how much the mean probability has moved, in log-odds, up or down.

    ``|ln q/(1 − q) − ln p/(1 − p)|`` of the mean probabilities q and p, each drawn to that of both by half a row. Odds
    that are three times what they were give ln 3 where probabilities are small. For logits take `mean_shift`.

    Args:
        reference, current: Counts of the same bins of a column of probabilities; of any sizes.

    Returns:
        In [0, ∞); 0 where either has no values. NaN of ids, and where a mean is no probability.

    Raises:
        MonitoringError: Their bins differ.

    >>> import numpy as np
    >>> from rankwell.monitoring.pane_layout import NumericBins
    >>> bins = NumericBins(name="served_probability_click", edges=(0.01,))
    >>> then = ColumnCounts(bins, np.array([5000, 5000, 0]), total=100.0, squares=2.0)
    >>> now = ColumnCounts(bins, np.array([5000, 5000, 0]), total=294.0, squares=10.0)
    >>> round(math.exp(prediction_drift(then, now)), 2)
    3.0
    """
    check_same_bins(reference, current)
    if isinstance(reference.bins, CategoricalBins):
        return undefined("the drift of predictions", f"{reference.bins.name!r} holds ids")
    num, num_current = reference.num_values, current.num_values
    if not num or not num_current:
        return 0.0
    mean, current_mean = (min(max(column.mean, 0.0), 1.0) for column in (reference, current))
    if max(abs(mean - reference.mean), abs(current_mean - current.mean)) > _ROUNDING:
        return undefined("the drift of predictions", f"the means of {reference.bins.name!r} are no probabilities")
    of_both = (num * mean + num_current * current_mean) / (num + num_current)
    if of_both in (0.0, 1.0):
        return 0.0
    mean = (num * mean + HALF * of_both) / (num + HALF)
    current_mean = (num_current * current_mean + HALF * of_both) / (num_current + HALF)
    return abs(math.log(current_mean / (1 - current_mean)) - math.log(mean / (1 - mean)))
