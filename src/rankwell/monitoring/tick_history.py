"""The panes of some days as one array a column: by quarter-hour, segment and bin, oldest first.

Letters in names: T ticks, of a quarter-hour · S segments, all rows together being the last · B bins · N cells of a
pane · C cells and, behind them, minutes of all rows together · E entries of a matrix · X what is summed, counts of bins
or values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self, final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from rankwell.errors import MonitoringError
from rankwell.monitoring.pane import MINUTE_US, Pane
from rankwell.monitoring.pane_layout import ALL_ROWS, CategoricalBins, NumericBins

__all__ = ["TICKS_PER_DAY", "TICK_US", "ColumnHistory", "Looseness", "TickHistory"]

TICK_US: Final = 15 * MINUTE_US
TICKS_PER_DAY: Final = 96
_HOUR: Final = 4

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Looseness:
    """By how much the minutes of a tick differ from their mean: what tells how rows of one request hang together.

    Minutes hold whole requests, so they are independent, and what is common to a whole tick is left out. Of the day
    before the current hour: what minutes of a disturbance do is not chance.

    Args:
        scatter_TS: Σ over minutes of the squared residuals, residual = sum over a minute − rows·mean of the tick.
        freedom_TS: Σ over minutes of n_m·(1 − n_m / n), what the scatter is for independent rows of variance 1.
        outer_SXX: Σ over minutes of residual·residualᵀ, whose trace is the scatter of all ticks: in which directions.
    """

    scatter_TS: _Floats
    freedom_TS: _Floats
    outer_SXX: _Floats


@final
@dataclass(frozen=True, slots=True, eq=False)
class ColumnHistory:
    """One column over time.

    Args:
        bins: The column's.
        counts_TSB: int64.
        sums_TS2: Σ (v − origin) and Σ (v − origin)²; 0 of ids.
        shares: Of rows in bins, in the metric Σ_b r_b² / p_b, p the segment's shares over all ticks.
        values: Of Σ (v − origin); of ids nothing.
    """

    bins: NumericBins | CategoricalBins
    counts_TSB: _Ints
    sums_TS2: _Floats
    shares: Looseness
    values: Looseness


@final
@dataclass(frozen=True, slots=True, eq=False)
class TickHistory:
    """Quarter-hours one after the other, up to a time.

    Args:
        until_us: Where the last tick ends, UTC microseconds.
        segments: Ascending; at the end `ALL_ROWS`.
        columns: By name.
    """

    until_us: int
    segments: tuple[int, ...]
    columns: dict[str, ColumnHistory]

    @classmethod
    def of_pane(cls, pane: Pane, until_us: int, *, num_ticks: int) -> Self:
        """The last ticks of a pane.

        Args:
            pane: The sum of all panes held. Minutes of before the last day may be summed up to whole ticks.
            until_us: UTC microseconds, a whole minute.
            num_ticks: How many.

        Raises:
            MonitoringError: The time is no whole minute, or no tick is asked for.

        >>> from rankwell.monitoring.flat_rows import FlatRows
        >>> from rankwell.monitoring.pane_layout import PaneLayout
        >>> layout = PaneLayout(columns=(NumericBins(name="years", edges=(2.0,)),))
        >>> pane = Pane.of(layout, FlatRows(np.array([0, 1]), {"years": np.array([1.0, 3.0])}))
        >>> TickHistory.of_pane(pane, TICK_US, num_ticks=2).columns["years"].counts_TSB.tolist()
        [[[0, 0, 0]], [[1, 1, 0]]]
        """
        if num_ticks < 1:
            raise MonitoringError("there are no quarter-hours to look at", found=num_ticks, allowed="≥ 1")
        start_us = until_us - num_ticks * TICK_US
        pane = pane.between(start_us, until_us)
        segments = (*(segment for segment in pane.segments if segment != ALL_ROWS), ALL_ROWS)
        tick_N = (pane.minutes_N * MINUTE_US - start_us) // TICK_US
        cells = _Cells.of(tick_N, pane.minutes_N, pane.segments_N, num_ticks, segments)
        columns = {
            column.name: cells.column(
                column, pane.counts[column.name], pane.sums.get(column.name, np.zeros((len(pane), 2)))
            )
            for column in pane.layout.columns
        }
        return cls(until_us, segments, columns)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Which cells are summed to what, as sparse matrices of ones: a column is summed by a product.

    Args:
        totals: Ticks and segments, flat, × N.
        fine: Cells of the day before the current hour, by segment, and behind them minutes of all rows; C × N.
        place_C: Which tick of that day and segment each is of, flat.
        bounds: Where in them each segment begins, and the end.
        shape: Ticks, segments.
    """

    totals: csr_matrix
    fine: csr_matrix
    place_C: _Ints
    bounds: _Ints
    shape: tuple[int, int]

    @classmethod
    def of(cls, tick_N: _Ints, minutes_N: _Ints, segments_N: _Ints, num_ticks: int, segments: tuple[int, ...]) -> Self:
        num, num_cells = len(segments), len(tick_N)
        segment_N = np.searchsorted(np.array(segments[:-1], np.int64), segments_N)
        all_N = np.full(num_cells, num - 1)
        # A layout without segments has cells of all rows already.
        kinds = (segment_N, all_N) if num > 1 else (all_N,)
        totals = _sums(
            [tick_N * num + kind_N for kind_N in kinds], [np.arange(num_cells)] * len(kinds), num_ticks * num
        )

        first, last = max(num_ticks - TICKS_PER_DAY - _HOUR, 0), max(num_ticks - _HOUR, 0)
        (day,) = np.nonzero((tick_N >= first) & (tick_N < last))
        named = day[np.argsort(segment_N[day], kind="stable")] if num > 1 else day[:0]
        begins = np.diff(minutes_N[day], prepend=-1) != 0
        minute = len(named) + np.cumsum(begins) - 1
        segment_C = np.concatenate([segment_N[named], all_N[day[begins]]])
        fine = _sums([np.arange(len(named)), minute], [named, day], len(segment_C), num_cells)
        tick_C = tick_N[np.concatenate([named, day[begins]])] - first
        bounds = np.searchsorted(segment_C, np.arange(num + 1))
        return cls(totals, fine, tick_C * num + segment_C, bounds, (num_ticks, num))

    def column(self, bins: NumericBins | CategoricalBins, counts_NB: _Ints, sums_N2: _Floats) -> ColumnHistory:
        counts_TSB = (self.totals @ counts_NB).reshape(*self.shape, -1)
        total_SB = counts_TSB.sum(axis=0)
        share_SB = total_SB / np.maximum(total_SB.sum(axis=-1, keepdims=True), 1)
        weight_SB = np.divide(1.0, share_SB, out=np.zeros(share_SB.shape), where=share_SB > 0)
        counts_CB, ones_S1 = (self.fine @ counts_NB).astype(np.float64), np.ones((self.shape[1], 1))
        rows_C = counts_CB.sum(axis=1)
        return ColumnHistory(
            bins,
            counts_TSB,
            (self.totals @ sums_N2).reshape(*self.shape, -1),
            self._looseness(counts_CB, rows_C, weight_SB),
            self._looseness(self.fine @ sums_N2[:, :1], rows_C - counts_CB[:, -1], ones_S1),
        )

    def _looseness(self, values_CX: _Floats, rows_C: _Floats, weight_SX: _Floats) -> Looseness:
        """Of a sum of each cell, whose squares count by a weight."""
        num_ticks, num = max(min(self.shape[0] - _HOUR, TICKS_PER_DAY), 0), self.shape[1]
        by_place = _sums([self.place_C], [np.arange(len(self.place_C))], num_ticks * num)
        rows_T = by_place @ rows_C
        mean_TX = (by_place @ values_CX) / np.maximum(rows_T, 1)[:, None]
        residual_CX = values_CX - rows_C[:, None] * mean_TX[self.place_C]
        residual_CX *= np.sqrt(weight_SX)[self.place_C % num]
        of_segment = [residual_CX[first:last] for first, last in pairwise(self.bounds.tolist())]
        freedom_C = rows_C * (1 - rows_C / np.maximum(rows_T[self.place_C], 1))
        return Looseness(
            (by_place @ np.einsum("cx,cx->c", residual_CX, residual_CX)).reshape(num_ticks, num),
            (by_place @ freedom_C).reshape(num_ticks, num),
            np.stack([residual_X.T @ residual_X for residual_X in of_segment]),
        )


def _sums(to: Sequence[_Ints], of: Sequence[_Ints], num_to: int, num_of: int | None = None) -> csr_matrix:
    """The matrix that sums at places `to` what stands at `of`; by default each of them stands there once."""
    to_E, of_E = np.concatenate(to), np.concatenate(of)
    shape = num_to, len(of[0]) if num_of is None else num_of
    return csr_matrix((np.ones(len(to_E), np.int64), (to_E, of_E)), shape)
