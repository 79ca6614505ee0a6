"""Counts per minute, segment and column that add up: windows and baselines of any length are sums of them.

Letters in names: C rows · N cells, one for each minute and segment that has rows · B bins of a column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self, TypeVar, final

import numba
import numpy as np
from numpy.typing import NDArray

from rankwell.errors import MonitoringError
from rankwell.monitoring.column_counts import ColumnCounts
from rankwell.monitoring.column_pass import category_counts, numeric_counts
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.pane_layout import CategoricalBins, NumericBins, PaneLayout

__all__ = ["MINUTE_US", "Pane", "coarse_minutes"]

MINUTE_US: Final = 60_000_000

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]
_Number = TypeVar("_Number", bound=np.generic)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Pane:
    """What was counted of some rows, by the minute of each row's own time, and by its segment.

    Panes add up by `+`, in any order: counts exactly, sums up to rounding. So do those of several machines. Rows may
    come in any order, since each is counted in its own minute; that none comes twice is up to `Arrivals`. Cells without
    rows take no memory, and a minute without any is no cell.

    Args:
        layout: What is counted.
        minutes_N: int64, minutes since 1970 UTC; ascending, then by segment.
        segments_N: int64, a value of the layout's segments, or `OTHER`, `NEVER_SEEN`, `MISSING`, `ALL_ROWS`.
        counts: For each column its counts, int64, N × B.
        sums: For each numeric column Σ (v − origin) and Σ (v − origin)², N × 2.

    >>> layout = PaneLayout(columns=(NumericBins(name="years", edges=(2.0,)),))
    >>> first = Pane.of(layout, FlatRows(np.array([0, 1]), {"years": np.array([1.0, 3.0])}))
    >>> later = Pane.of(layout, FlatRows(np.array([61_000_000]), {"years": np.array([np.nan])}))
    >>> both = first + later
    >>> both.minutes_N.tolist(), both.column("years").counts_B.tolist()
    ([0, 1], [1, 1, 1])
    """

    layout: PaneLayout
    minutes_N: _Ints
    segments_N: _Ints
    counts: Mapping[str, _Ints]
    sums: Mapping[str, _Floats]

    @classmethod
    def nothing(cls, layout: PaneLayout) -> Self:
        """The pane of no rows."""
        none = np.zeros(0, np.int64)
        counts = {column.name: np.zeros((0, column.num_bins), np.int64) for column in layout.columns}
        return cls(layout, none, none, counts, {name: np.zeros((0, 2)) for name in _numeric_names(layout)})

    @classmethod
    def of(cls, layout: PaneLayout, rows: FlatRows) -> Self:
        """The pane of some rows, which may be none.

        Args:
            layout: What to count.
            rows: With all its columns, and that of its segments.

        Raises:
            MonitoringError: A column is not among the rows, or a column of ids holds fractions.
        """
        if not len(rows):
            return cls.nothing(layout)
        minutes_C, segments_C = rows.times_us_C // MINUTE_US, rows.segments(layout.segments)
        order_C, bounds = _cells(minutes_C, segments_C)
        firsts_N = bounds[:-1] if order_C is None else order_C[bounds[:-1]]
        counts: dict[str, _Ints] = {}
        sums: dict[str, _Floats] = {}
        for column in layout.columns:
            if isinstance(column, CategoricalBins):
                ids_C = rows.ids(column.name)
                known_V = np.array(sorted({*column.top, *column.known}), np.int64)
                top_T = np.array(column.top, np.int64)
                counts[column.name] = category_counts(_at(ids_C, order_C), bounds, top_T, known_V)
                continue
            values_C = _at(rows.numbers(column.name), order_C)
            edges_E = np.array(column.edges, values_C.dtype)
            counts[column.name], sums[column.name] = numeric_counts(values_C, bounds, edges_E, column.origin)
        return cls(layout, minutes_C[firsts_N], segments_C[firsts_N], counts, sums)

    def __add__(self, other: Pane) -> Pane:
        """The pane of the rows of both.

        Raises:
            MonitoringError: Their layouts differ.
        """
        if self.layout != other.layout:
            raise MonitoringError(
                "panes of other layouts don't add up", found="two layouts", allowed="one layout",
                do="count with the layout of one reference on all machines",
            )  # fmt: skip
        minutes_N = np.concatenate([self.minutes_N, other.minutes_N])
        segments_N = np.concatenate([self.segments_N, other.segments_N])
        cells, place_N = np.unique(np.column_stack([minutes_N, segments_N]), axis=0, return_inverse=True)
        place_N = place_N.reshape(-1)

        def summed(one: NDArray[_Number], more: NDArray[_Number]) -> NDArray[_Number]:
            total = np.zeros((len(cells), one.shape[1]), one.dtype)
            np.add.at(total, place_N, np.concatenate([one, more]))
            return total

        return Pane(
            self.layout,
            cells[:, 0],
            cells[:, 1],
            {name: summed(of_one, other.counts[name]) for name, of_one in self.counts.items()},
            {name: summed(of_one, other.sums[name]) for name, of_one in self.sums.items()},
        )

    def __len__(self) -> int:
        """How many cells have rows."""
        return len(self.minutes_N)

    @property
    def segments(self) -> tuple[int, ...]:
        """Those that have rows, ascending."""
        return tuple(np.unique(self.segments_N).tolist())

    def between(self, from_us: int, until_us: int) -> Pane:
        """The minutes that begin in [from_us, until_us).

        Args:
            from_us, until_us: UTC microseconds, whole minutes.

        Raises:
            MonitoringError: They are none.
        """
        for name, time_us in (("from_us", from_us), ("until_us", until_us)):
            if time_us % MINUTE_US:
                raise MonitoringError(
                    f"a pane cannot be cut at this {name}", found=time_us, allowed="whole minutes, in microseconds"
                )
        return self._at(
            np.flatnonzero((self.minutes_N * MINUTE_US >= from_us) & (self.minutes_N * MINUTE_US < until_us))
        )

    def coarsened(self, before_us: int, every_us: int) -> Pane:
        """The same, its minutes before a time summed up to longer spans: what is old need not be as fine.

        Args:
            before_us: UTC microseconds, a whole multiple of `every_us`.
            every_us: How long a span is, whole minutes; one that began at t holds what was in [t, t + every_us).

        Raises:
            MonitoringError: They are no such times.
        """
        minutes_N = coarse_minutes(self.minutes_N, before_us, every_us)
        if np.array_equal(minutes_N, self.minutes_N):
            return self
        return Pane(self.layout, minutes_N, self.segments_N, self.counts, self.sums) + Pane.nothing(self.layout)

    def column(self, name: str, *, segment: int | None = None) -> ColumnCounts:
        """A column's counts over all minutes.

        Args:
            name: A column of the layout.
            segment: One segment; by default all. One without rows has counts of 0.

        Raises:
            MonitoringError: There is no such column.
        """
        bins = self.layout.column(name)
        is_asked_N = np.full(len(self), True) if segment is None else self.segments_N == segment
        counts_B = self.counts[name][is_asked_N].sum(axis=0)
        if isinstance(bins, CategoricalBins):
            return ColumnCounts(bins, counts_B)
        total, squares = self.sums[name][is_asked_N].sum(axis=0).tolist()
        return ColumnCounts(bins, counts_B, total, squares)

    def _at(self, cells: _Ints) -> Pane:
        return Pane(
            self.layout,
            self.minutes_N[cells],
            self.segments_N[cells],
            {name: counts[cells] for name, counts in self.counts.items()},
            {name: sums[cells] for name, sums in self.sums.items()},
        )


def coarse_minutes(minutes_N: _Ints, before_us: int, every_us: int) -> _Ints:
    """Minutes, those before a time as the first of the longer span that they lie in.

    Args:
        minutes_N: int64, minutes since 1970 UTC.
        before_us, every_us: See `Pane.coarsened`.

    Raises:
        MonitoringError: They are no such times.

    >>> coarse_minutes(np.array([14, 15, 29, 31]), before_us=30 * MINUTE_US, every_us=15 * MINUTE_US).tolist()
    [0, 15, 15, 31]
    """
    if every_us <= 0 or every_us % MINUTE_US or before_us % every_us:
        raise MonitoringError(
            "minutes cannot be summed up like this", found=(before_us, every_us),
            allowed="spans of whole minutes, and a time that is a multiple of them",
        )  # fmt: skip
    every = every_us // MINUTE_US
    coarse_N: _Ints = np.where(minutes_N * MINUTE_US < before_us, minutes_N // every * every, minutes_N)
    return coarse_N


def _numeric_names(layout: PaneLayout) -> list[str]:
    return [column.name for column in layout.columns if isinstance(column, NumericBins)]


def _cells(minutes_C: _Ints, segments_C: _Ints) -> tuple[_Ints | None, _Ints]:
    """Rows in the order of their cells, None where they stand so, and where each cell begins."""
    are_in_order, bounds = _bounds(minutes_C, segments_C)
    if are_in_order:
        return None, bounds
    order_C = np.lexsort((segments_C, minutes_C))
    return order_C, _bounds(minutes_C[order_C], segments_C[order_C])[1]


@numba.njit(cache=True, nogil=True)
def _bounds(minutes_C, segments_C):  # type: ignore[no-untyped-def]
    """Whether cells ascend, and where each begins, as far as they do."""
    bounds = [0]
    for row in range(1, len(minutes_C)):
        step, turn = minutes_C[row] - minutes_C[row - 1], segments_C[row] - segments_C[row - 1]
        if step < 0 or (step == 0 and turn < 0):
            return False, np.array(bounds)
        if step > 0 or turn > 0:
            bounds.append(row)
    bounds.append(len(minutes_C))
    return True, np.array(bounds)


def _at(column_C: NDArray[_Number], order_C: _Ints | None) -> NDArray[_Number]:
    return column_C if order_C is None else column_C[order_C]
