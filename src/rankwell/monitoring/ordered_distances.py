"""Distances that know the order of a numeric column's bins; missing values stand behind the last one.

Letters in names: B bins of a column.
"""

from __future__ import annotations

import numpy as np

from rankwell.monitoring.column_counts import ColumnCounts
from rankwell.monitoring.drift import smoothed_shares, undefined
from rankwell.monitoring.pane_layout import CategoricalBins

__all__ = ["ks_distance", "wasserstein_distance"]


def ks_distance(reference: ColumnCounts, current: ColumnCounts) -> float:
    """The Kolmogorov-Smirnov distance, at the edges of bins: the largest gap between both distribution functions.

    ``max |F(edge) − G(edge)|`` of smoothed shares. Between edges the gap may be larger, by at most the share of a bin.

    Args:
        reference, current: Counts of the same numeric bins; of any sizes.

    Returns:
        In [0, 1); NaN of ids, which have no order.

    Raises:
        MonitoringError: Their bins differ.

    >>> from rankwell.monitoring.pane_layout import NumericBins
    >>> bins = NumericBins(name="years", edges=(1.0, 2.0))
    >>> then, now = ColumnCounts(bins, np.array([50, 50, 0, 0])), ColumnCounts(bins, np.array([20, 30, 50, 0]))
    >>> round(ks_distance(then, now), 4)
    0.4902

    Source: Smirnov 1939.
    """
    reference_B, current_B = smoothed_shares(reference, current)
    if isinstance(reference.bins, CategoricalBins):
        return undefined("the Kolmogorov-Smirnov distance", f"the ids of {reference.bins.name!r} have no order")
    return float(np.abs(np.cumsum(current_B - reference_B)).max())


def wasserstein_distance(reference: ColumnCounts, current: ColumnCounts) -> float:
    """How far, on average, a row must be moved through the ranks of the reference to make the one out of the other.

    ``Σ |F − G|·d`` over neighbours, d the distance of the middles of two bins in shares of the reference: 0.5 is from
    the least value to the median. So it has no unit, and how far out an outlier lies is nothing. A missing value stands
    a whole 1 behind the last bin.

    Args:
        reference, current: Counts of the same numeric bins; of any sizes.

    Returns:
        In [0, 2); NaN of ids, which have no order.

    Raises:
        MonitoringError: Their bins differ.

    >>> from rankwell.monitoring.pane_layout import NumericBins
    >>> bins = NumericBins(name="years", edges=(1.0, 2.0))
    >>> then = ColumnCounts(bins, np.array([4000, 2000, 4000, 0]))
    >>> round(wasserstein_distance(then, ColumnCounts(bins, np.array([0, 6000, 4000, 0]))), 3)  # 0.4 of rows by 0.3
    0.12

    Source: Vallender 1974, "Calculation of the Wasserstein distance between probability distributions on the line".
    """
    reference_B, current_B = smoothed_shares(reference, current)
    if isinstance(reference.bins, CategoricalBins):
        return undefined("the Wasserstein distance", f"the ids of {reference.bins.name!r} have no order")
    # A reference whose values are all missing has ranks for its bins all the same, through the half counts.
    known_B = reference_B[:-1] / reference_B[:-1].sum()
    steps_B = np.append((known_B[:-1] + known_B[1:]) / 2, 1.0)
    return float((np.abs(np.cumsum(current_B - reference_B))[:-1] * steps_B).sum())
