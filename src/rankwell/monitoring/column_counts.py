"""One column of a pane over some span and some segments: what statistics of drift are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from rankwell.errors import MonitoringError
from rankwell.monitoring.pane_layout import CategoricalBins, NumericBins

__all__ = ["ColumnCounts"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class ColumnCounts:
    """Counts by bin, and for a numeric column the sums of its values; two of the same bins add up.

    Args:
        bins: The column's.
        counts_B: int64, `bins.num_bins` of them; the last is of missing values.
        total: Σ (v − origin) over values that are not missing; 0 for a categorical column.
        squares: Σ (v − origin)².

    >>> bins = NumericBins(name="years", edges=(2.0,), origin=2.0)
    >>> counts = ColumnCounts(bins, np.array([1, 3, 1]), total=2.0, squares=4.0)
    >>> counts.num_rows, counts.missing_rate, counts.mean, counts.variance
    (5, 0.2, 2.5, 0.75)
    """

    bins: NumericBins | CategoricalBins
    counts_B: NDArray[np.int64]
    total: float = 0.0
    squares: float = 0.0

    def __post_init__(self) -> None:
        if self.counts_B.shape != (self.bins.num_bins,):
            raise MonitoringError(
                f"these are no counts of {self.bins.name!r}",
                found=f"shape {self.counts_B.shape}", allowed=f"{self.bins.num_bins} bins",
            )  # fmt: skip

    def __add__(self, other: ColumnCounts) -> ColumnCounts:
        """The counts of the rows of both.

        Raises:
            MonitoringError: Their bins differ.
        """
        check_same_bins(self, other)
        return ColumnCounts(
            self.bins, self.counts_B + other.counts_B, self.total + other.total, self.squares + other.squares
        )

    @property
    def num_rows(self) -> int:
        """Missing ones too."""
        return int(self.counts_B.sum())

    @property
    def num_values(self) -> int:
        """How many are not missing."""
        return int(self.counts_B[:-1].sum())

    @property
    def missing_rate(self) -> float:
        """NaN of no rows."""
        return float(self.counts_B[-1] / self.num_rows) if self.num_rows else np.nan

    @property
    def mean(self) -> float:
        """NaN of no values, and of ids."""
        if isinstance(self.bins, CategoricalBins) or not self.num_values:
            return np.nan
        return self.bins.origin + self.total / self.num_values

    @property
    def variance(self) -> float:
        """Over n, not n − 1; NaN of no values, and of ids.

        Its error is about 1e-16 times the squared distance of mean and origin: nothing where the mean is within a
        thousand standard deviations of where the reference had it.
        """
        if isinstance(self.bins, CategoricalBins) or not self.num_values:
            return np.nan
        step = self.total / self.num_values
        return max(self.squares / self.num_values - step * step, 0.0)


def check_same_bins(one: ColumnCounts, other: ColumnCounts) -> None:
    """Refuse counts of other bins."""
    if one.bins != other.bins:
        raise MonitoringError(
            "counts of other bins don't compare",
            found=[one.bins.name, other.bins.name],
            allowed="one column, with the edges or values of one reference",
            do="count both with one layout",
        )
