"""The panes of some days as one array a column: by quarter-hour, segment and bin, oldest first.

Letters in names: T ticks, of a quarter-hour · S segments, all rows together being the last · B bins · N cells of a
pane · C cells and, behind them, minutes of all rows together · X what is summed, counts of bins or values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from rankwell.errors import MonitoringError
from rankwell.monitoring.pane import MINUTE_US, Pane
from rankwell.monitoring.pane_layout import ALL_ROWS, CategoricalBins, NumericBins

__all__ = ["TICKS_PER_DAY", "TICK_US", "ColumnHistory", "Looseness", "TickHistory"]

TICK_US: Final = 15 * MINUTE_US
TICKS_PER_DAY: Final = 96
_HOUR: Final = 4

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]
_Number = TypeVar("_Number", np.int64, np.float64)


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
        minutes = np.flatnonzero(np.diff(pane.minutes_N, prepend=-1))
        cells = _Cells.of(tick_N, pane.segments_N, minutes, num_ticks, segments)
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
    """Where cells, and minutes of all rows, stand in arrays of ticks and segments.

    Args:
        minutes: Where in the pane each minute begins.
        order_C: All by tick and segment; a place behind the pane's cells is a minute's.
        place_C: Which tick and segment each is of, flat, in that order.
        firsts: Where in that order each tick and segment begins.
        places: Which tick and segment that is, flat.
        num_ticks, num_segments: The shape.
    """

    minutes: _Ints
    order_C: _Ints
    place_C: _Ints
    firsts: _Ints
    places: _Ints
    num_ticks: int
    num_segments: int

    @classmethod
    def of(cls, tick_N: _Ints, segments_N: _Ints, minutes: _Ints, num_ticks: int, segments: tuple[int, ...]) -> Self:
        num_named = len(segments) - 1
        place_N = tick_N * len(segments) + np.searchsorted(np.array(segments[:-1], np.int64), segments_N)
        # A layout without segments has cells of all rows already.
        place_C = np.concatenate([place_N if num_named else place_N[:0], tick_N[minutes] * len(segments) + num_named])
        order_C = np.argsort(place_C, kind="stable")
        place_C = place_C[order_C]
        firsts = np.flatnonzero(np.diff(place_C, prepend=-1))
        return cls(minutes, order_C, place_C, firsts, place_C[firsts], num_ticks, len(segments))

    def column(self, bins: NumericBins | CategoricalBins, counts_NB: _Ints, sums_N2: _Floats) -> ColumnHistory:
        counts_CB, sums_C2 = self._with_minutes(counts_NB), self._with_minutes(sums_N2)
        counts_TSB, sums_TS2 = self._by_tick(counts_CB), self._by_tick(sums_C2)

        def looseness(values_CX: _Floats, rows_C: _Ints, weight_SX: _Floats) -> Looseness:
            """Of a sum of each cell, whose squares count by a weight."""
            ticks = range(max(self.num_ticks - TICKS_PER_DAY - _HOUR, 0), max(self.num_ticks - _HOUR, 0))
            first, last = np.searchsorted(self.place_C, np.array([ticks.start, ticks.stop]) * self.num_segments)
            place_C, rows_C = self.place_C[first:last] - ticks.start * self.num_segments, rows_C[first:last]
            num, segment_C = len(ticks) * self.num_segments, place_C % self.num_segments
            rows_T = np.bincount(place_C, rows_C, num)
            mean_TX = _summed(values_CX[first:last], place_C, num) / np.maximum(rows_T, 1)[:, None]
            residual_CX = values_CX[first:last] - rows_C[:, None] * mean_TX[place_C]
            residual_CX *= np.sqrt(weight_SX)[segment_C]
            scatter_T = np.bincount(place_C, (residual_CX**2).sum(axis=1), num)
            freedom_T = np.bincount(place_C, rows_C * (1 - rows_C / np.maximum(rows_T[place_C], 1)), num)
            of_segment_S = (residual_CX[segment_C == segment] for segment in range(self.num_segments))
            outer_SXX = np.stack([residual_X.T @ residual_X for residual_X in of_segment_S])
            shape = (len(ticks), self.num_segments)
            return Looseness(
                scatter_T.reshape(shape).astype(np.float64), freedom_T.reshape(shape).astype(np.float64), outer_SXX
            )

        total_SB = counts_TSB.sum(axis=0)
        share_SB = total_SB / np.maximum(total_SB.sum(axis=-1, keepdims=True), 1)
        weight_SB = np.divide(1.0, share_SB, out=np.zeros(share_SB.shape), where=share_SB > 0)
        return ColumnHistory(
            bins,
            counts_TSB,
            sums_TS2,
            looseness(counts_CB.astype(np.float64), counts_CB.sum(axis=1), weight_SB),
            looseness(sums_C2[:, :1], counts_CB[:, :-1].sum(axis=1), np.ones((self.num_segments, 1))),
        )

    def _with_minutes(self, values_N: NDArray[_Number]) -> NDArray[_Number]:
        """Of cells and of minutes, in their order."""
        if not len(values_N):
            return values_N
        of_minutes = np.add.reduceat(values_N, self.minutes, axis=0)
        return np.concatenate([values_N, of_minutes])[self.order_C] if self.num_segments > 1 else of_minutes

    def _by_tick(self, values_C: NDArray[_Number]) -> NDArray[_Number]:
        total = np.zeros((self.num_ticks * self.num_segments, values_C.shape[1]), values_C.dtype)
        if len(values_C):
            total[self.places] = np.add.reduceat(values_C, self.firsts, axis=0)
        return total.reshape(self.num_ticks, self.num_segments, -1)


def _summed(values_CX: _Floats, place_C: _Ints, num: int) -> _Floats:
    """By place, which ascend."""
    total = np.zeros((num, values_CX.shape[1]))
    firsts = np.flatnonzero(np.diff(place_C, prepend=-1))
    if len(firsts):
        total[place_C[firsts]] = np.add.reduceat(values_CX, firsts, axis=0)
    return total
