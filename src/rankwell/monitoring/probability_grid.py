"""How many rows have which probability, so that it can be said at any later time what an offset would have promised.

Letters in names: C rows · G segments · B = 22 bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self, final

import numpy as np
from numpy.typing import NDArray

from rankwell.errors import MonitoringError

__all__ = ["EDGES_E", "NUM_BINS", "ProbabilityGrid"]

_REACH: Final = 5.0
_WIDTH: Final = 0.5
EDGES_E: Final = 1 / (1 + np.exp(-np.arange(-_REACH, _REACH + _WIDTH / 2, _WIDTH)))
"""Probabilities between bins: bin b holds edge b − 1 ≤ p < edge b."""
NUM_BINS: Final = len(EDGES_E) + 1
"""Half a unit of log-odds wide from −5 to 5, and one on either side."""

_Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True, eq=False)
class ProbabilityGrid:
    """The number of rows and Σ p of each bin of log-odds, by segment; grids add up by `+`.

    `moved` takes all rows of a bin to be at its mean p. That is exact without an offset, and nearly so far out, where
    odds go as p or as 1 − p do, however far a row lies from its bin's others. In between bins are narrow: an offset
    that is solved for comes out right within .5 % of itself, whatever the probabilities are.

    Args:
        rows_GB: float64, how many rows.
        totals_GB: float64, Σ p.

    >>> grid = ProbabilityGrid.of([.5, .8], segment_C=[0, 0], num_segments=1)
    >>> expected_G, slope_G = grid.moved(np.log([.25]))
    >>> expected_G.round(3).tolist(), slope_G.round(3).tolist()  # odds of 1 and 4 come to .25 and 1
    ([0.7], [0.41])
    """

    rows_GB: _Floats
    totals_GB: _Floats

    @classmethod
    def nothing(cls, num_segments: int) -> Self:
        """The grid of no rows."""
        return cls(np.zeros((num_segments, NUM_BINS)), np.zeros((num_segments, NUM_BINS)))

    @classmethod
    def of(cls, probabilities_C: Any, *, segment_C: Any, num_segments: int) -> Self:
        """The grid of some rows, which may be none.

        Args:
            probabilities_C: In [0, 1].
            segment_C: From 0 to `num_segments` − 1.
            num_segments: How many there are, met or not.

        Raises:
            MonitoringError: A probability is none.
        """
        p_C = np.asarray(probabilities_C, np.float64)
        if not ((p_C >= 0) & (p_C <= 1)).all():
            raise MonitoringError(
                "a value is no probability", found=p_C[~((p_C >= 0) & (p_C <= 1))][:5].tolist(), allowed="[0, 1]"
            )
        cell_C = np.asarray(segment_C, np.int64) * NUM_BINS + np.searchsorted(EDGES_E, p_C, side="right")
        num_cells = num_segments * NUM_BINS
        return cls(
            np.bincount(cell_C, minlength=num_cells).reshape(-1, NUM_BINS).astype(np.float64),
            np.bincount(cell_C, p_C, minlength=num_cells).reshape(-1, NUM_BINS).astype(np.float64),
        )

    def __add__(self, other: ProbabilityGrid) -> ProbabilityGrid:
        """The grid of the rows of both.

        Raises:
            MonitoringError: They are of different segments.
        """
        if self.rows_GB.shape != other.rows_GB.shape:
            raise MonitoringError(
                "grids of different segments don't add up", found=[len(self.rows_GB), len(other.rows_GB)],
                allowed="one number of segments",
            )  # fmt: skip
        return ProbabilityGrid(self.rows_GB + other.rows_GB, self.totals_GB + other.totals_GB)

    def moved(self, offset_G: _Floats) -> tuple[_Floats, _Floats]:
        """What all rows promise together with an offset of log-odds, and how fast that rises.

        Args:
            offset_G: δ of each segment, finite.

        Returns:
            Σ σ(z + δ), and its derivative Σ p·(1 − p) there.
        """
        mean_GB = np.divide(self.totals_GB, self.rows_GB, out=np.zeros_like(self.rows_GB), where=self.rows_GB > 0)
        mean_GB = np.minimum(mean_GB, 1.0)  # but for rounding
        odds_G1 = np.exp(offset_G)[:, None]
        moved_GB = mean_GB * odds_G1 / (1 - mean_GB + mean_GB * odds_G1)
        return (self.rows_GB * moved_GB).sum(axis=1), (self.rows_GB * moved_GB * (1 - moved_GB)).sum(axis=1)
