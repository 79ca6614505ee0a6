"""The null of any statistic of drift by drawing whole requests again: rows of one request depend on each other.

Letters in names: Q requests, or minutes, which are made of whole requests · B bins · R draws.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from rankwell.errors import MonitoringError
from rankwell.monitoring.column_counts import ColumnCounts
from rankwell.monitoring.drift import DriftStatistic
from rankwell.monitoring.pane_layout import CategoricalBins, NumericBins

__all__ = ["bootstrap_null"]

_NUM_DRAWS: Final = 1000


def bootstrap_null(
    statistic: DriftStatistic,
    bins: NumericBins | CategoricalBins,
    counts_QB: NDArray[np.int64],
    sums_Q2: NDArray[np.float64] | None = None,
    *,
    num_current: int,
    num_reference: int,
    seed: int,
    num_draws: int = _NUM_DRAWS,
) -> NDArray[np.float64]:
    """Values of a statistic between two windows of whole requests that were drawn from one and the same sample.

    Both windows are drawn with replacement, each of as many requests as are asked for. `NullTail.of_values` of them
    goes on where the draws end; where requests are many, `divergence_null` gives the same for nothing.

    Args:
        statistic: A distance of (reference, current).
        bins: The column's.
        counts_QB: int64, the counts of each request; or of each minute of panes, with as many minutes a window.
        sums_Q2: Of a numeric column the sums of each, Σ (v − origin) and its squares; by default 0.
        num_current: Requests in the current window.
        num_reference: Requests in the reference.
        seed: Of the draws.
        num_draws: How many values.

    Raises:
        MonitoringError: There is nothing to draw from, or nothing is to be drawn.

    >>> from rankwell.monitoring.divergences import psi
    >>> bins = CategoricalBins(name="city", top=(1,))
    >>> counts_QB = np.array([[8, 0, 0, 0], [0, 8, 0, 0]])  # 8 rows a request, of one city
    >>> values_R = bootstrap_null(psi, bins, counts_QB, num_current=100, num_reference=2000, seed=0)
    >>> bool(0.5 / 100 < values_R.mean() < 2 / 100)  # 8 times what 800 independent rows would give
    True

    Source: Efron 1979; Field and Welsh 2007, "Bootstrapping clustered data".
    """
    if not len(counts_QB) or min(num_current, num_reference, num_draws) < 1:
        raise MonitoringError(
            "no windows can be drawn", found=[len(counts_QB), num_current, num_reference, num_draws], allowed="≥ 1 each"
        )
    rng = np.random.default_rng(seed)
    sums_Q2 = np.zeros((len(counts_QB), 2)) if sums_Q2 is None else sums_Q2
    even_Q = np.full(len(counts_QB), 1 / len(counts_QB))

    def window(num: int) -> ColumnCounts:
        times_Q = rng.multinomial(num, even_Q)
        if isinstance(bins, CategoricalBins):
            return ColumnCounts(bins, times_Q @ counts_QB)
        total, squares = (times_Q @ sums_Q2).tolist()
        return ColumnCounts(bins, times_Q @ counts_QB, total, squares)

    return np.array([statistic(window(num_reference), window(num_current)) for _ in range(num_draws)])
