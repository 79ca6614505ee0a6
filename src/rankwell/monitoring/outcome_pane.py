"""What was promised and what came of it, per minute and segment, of requests whose labels are all known.

Letters in names: C rows: candidates that were shown · N cells, one for each minute and segment that has rows · V = 2
views, served and scored · B bins of a `ProbabilityGrid` · G segments asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, Self, final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rankwell.errors import MonitoringError
from rankwell.evaluation.calibration_sums import CalibrationSums
from rankwell.monitoring.pane import MINUTE_US, coarse_minutes
from rankwell.monitoring.probability_grid import NUM_BINS, ProbabilityGrid

__all__ = ["OutcomePane", "View", "outcomes_from_table", "outcomes_table"]

View = Literal["served", "scored"]
"""What was shown, as it was; or what could have been: rows of slots that explore, weighted by 1 / propensity."""

_VIEWS: Final = ("served", "scored")
_SUMS: Final = tuple(field.name for field in fields(CalibrationSums))
_VERSION, _ACTION = b"rankwell.outcomes_version", b"rankwell.outcomes_action"
FORMAT_VERSION: Final = "2"

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True, eq=False)
class OutcomePane:
    """The `CalibrationSums` of one action in each cell, for each view, and what was charged there; panes add up by `+`.

    "served" is what was bid on: every row that was shown, of weight 1. "scored" is what the ranker would be asked of
    all candidates: rows with a propensity below 1, those of slots that explore, weighted by 1 / propensity. A ranker
    that is right in the second and off in the first has the winner's curse, not a bug.

    Args:
        action: Of the schema.
        minutes_N: int64, minutes since 1970 UTC; ascending, then by segment.
        segments_N: int64, as those of a `Pane`.
        sums_NV6: float64, the six sums of `CalibrationSums` in its order.
        spend_micros_N: int64, Σ price of what was shown.
        grid_NB2: float64, the rows and the Σ p of what was shown, by bins of log-odds: see `ProbabilityGrid`.

    >>> pane = OutcomePane.of("click", times_us_C=np.zeros(2, np.int64), request_C=[7, 7], segment_C=[3, 4],
    ...                       probabilities_C=[0.2, 0.4], labels_C=[0, 1], propensity_C=[1.0, 0.5],
    ...                       price_micros_C=[10, 30])
    >>> both = pane + pane
    >>> both.sums("served", [3, 4, 5]).observed_G.tolist(), both.sums("scored", [4]).predicted_G.tolist()
    ([0.0, 2.0, 0.0], [1.6])
    >>> both.spend_micros([3, 4, 5]).tolist()
    [20, 60, 0]
    """

    action: str
    minutes_N: _Ints
    segments_N: _Ints
    sums_NV6: _Floats
    spend_micros_N: _Ints
    grid_NB2: _Floats

    @classmethod
    def nothing(cls, action: str) -> Self:
        """The pane of no rows."""
        none = np.zeros(0, np.int64)
        return cls(action, none, none, np.zeros((0, 2, len(_SUMS))), none, np.zeros((0, NUM_BINS, 2)))

    @classmethod
    def of(
        cls,
        action: str,
        *,
        times_us_C: _Ints,
        request_C: Any,
        segment_C: Any,
        probabilities_C: Any,
        labels_C: Any,
        propensity_C: Any,
        price_micros_C: Any,
    ) -> Self:
        """The pane of rows that were shown and whose labels are known; those of a request stand in one call.

        Args:
            action: Of the schema.
            times_us_C: int64, of the request.
            request_C: Its id.
            segment_C: int64.
            probabilities_C: As they were served.
            labels_C: 0 or 1.
            propensity_C: In (0, 1]; below 1 where the slot explores.
            price_micros_C: NaN where there was none.

        Raises:
            MetricError: A probability, label or propensity is none.
        """
        times_us_C, segment_C = np.asarray(times_us_C, np.int64), np.asarray(segment_C, np.int64)
        if not len(times_us_C):
            return cls.nothing(action)
        cells, cell_C = _cells(times_us_C // MINUTE_US, segment_C)
        propensity_C = np.asarray(propensity_C, np.float64)
        with np.errstate(divide="ignore"):
            explored_C = np.where(propensity_C < 1.0, 1.0 / propensity_C, 0.0)  # 0 is refused as an infinite weight
        sums_NV6 = np.zeros((len(cells), 2, len(_SUMS)))
        for view, weights_C in enumerate((np.ones(len(cell_C)), explored_C)):
            sums = CalibrationSums.of(
                probabilities_C, labels_C, weights_C,
                request_C=request_C, segment_C=cell_C, num_segments=len(cells),
            )  # fmt: skip
            sums_NV6[:, view] = np.column_stack([getattr(sums, name) for name in _SUMS])
        prices_C = np.nan_to_num(np.asarray(price_micros_C, np.float64))
        spend_N = np.bincount(cell_C, prices_C, minlength=len(cells)).round().astype(np.int64)
        grid = ProbabilityGrid.of(probabilities_C, segment_C=cell_C, num_segments=len(cells))
        grid_NB2 = np.stack([grid.rows_GB, grid.totals_GB], axis=-1)
        return cls(action, cells[:, 0], cells[:, 1], sums_NV6, spend_N, grid_NB2)

    def __add__(self, other: OutcomePane) -> OutcomePane:
        """The pane of the requests of both.

        Raises:
            MonitoringError: They are of two actions.
        """
        if self.action != other.action:
            raise MonitoringError(
                "outcomes of two actions don't add up", found=[self.action, other.action], allowed="one action"
            )
        cells, cell_N = _cells(
            np.concatenate([self.minutes_N, other.minutes_N]), np.concatenate([self.segments_N, other.segments_N])
        )
        sums_NV6 = np.zeros((len(cells), 2, len(_SUMS)))
        spend_N = np.zeros(len(cells), np.int64)
        np.add.at(sums_NV6, cell_N, np.concatenate([self.sums_NV6, other.sums_NV6]))
        np.add.at(spend_N, cell_N, np.concatenate([self.spend_micros_N, other.spend_micros_N]))
        grid_NB2 = np.zeros((len(cells), NUM_BINS, 2))
        np.add.at(grid_NB2, cell_N, np.concatenate([self.grid_NB2, other.grid_NB2]))
        return OutcomePane(self.action, cells[:, 0], cells[:, 1], sums_NV6, spend_N, grid_NB2)

    def __len__(self) -> int:
        """How many cells have rows."""
        return len(self.minutes_N)

    @property
    def segments(self) -> tuple[int, ...]:
        """Those that have rows, ascending."""
        return tuple(np.unique(self.segments_N).tolist())

    @property
    def num_rows_N(self) -> _Ints:
        """How many rows were shown in each cell."""
        return np.asarray(self.grid_NB2[:, :, 0].sum(axis=1).round().astype(np.int64))

    @property
    def observed_N(self) -> _Ints:
        """How many of them were acted on."""
        return np.asarray(self.sums_NV6[:, 0, _SUMS.index("observed_G")].round().astype(np.int64))

    def between(self, from_us: int, until_us: int) -> OutcomePane:
        """The minutes that begin in [from_us, until_us).

        Args:
            from_us, until_us: UTC microseconds.
        """
        kept_N = (self.minutes_N * MINUTE_US >= from_us) & (self.minutes_N * MINUTE_US < until_us)
        return OutcomePane(
            self.action, self.minutes_N[kept_N], self.segments_N[kept_N], self.sums_NV6[kept_N],
            self.spend_micros_N[kept_N], self.grid_NB2[kept_N],
        )  # fmt: skip

    def coarsened(self, before_us: int, every_us: int) -> OutcomePane:
        """The same, its minutes before a time summed up to longer spans: see `Pane.coarsened`.

        Raises:
            MonitoringError: They are no such times.
        """
        minutes_N = coarse_minutes(self.minutes_N, before_us, every_us)
        if np.array_equal(minutes_N, self.minutes_N):
            return self
        coarse = OutcomePane(
            self.action, minutes_N, self.segments_N, self.sums_NV6, self.spend_micros_N, self.grid_NB2
        )  # fmt: skip
        return coarse + OutcomePane.nothing(self.action)

    def sums(self, view: View, segments: Sequence[int]) -> CalibrationSums:
        """The sums over all minutes, one of each for each segment asked for, which may have no rows.

        Args:
            view: "served" or "scored".
            segments: Each once.
        """
        place_N, is_asked_N = _places(self.segments_N, segments)
        sums_G6 = np.zeros((len(segments), len(_SUMS)))
        np.add.at(sums_G6, place_N[is_asked_N], self.sums_NV6[is_asked_N, _VIEWS.index(view)])
        return CalibrationSums(*np.ascontiguousarray(sums_G6.T))

    def spend_micros(self, segments: Sequence[int]) -> _Ints:
        """What was charged in each segment asked for, over all minutes."""
        place_N, is_asked_N = _places(self.segments_N, segments)
        spend_G = np.zeros(len(segments), np.int64)
        np.add.at(spend_G, place_N[is_asked_N], self.spend_micros_N[is_asked_N])
        return spend_G

    def grid(self, segments: Sequence[int]) -> ProbabilityGrid:
        """The probabilities of what was shown in each segment asked for, over all minutes."""
        place_N, is_asked_N = _places(self.segments_N, segments)
        grid_GB2 = np.zeros((len(segments), NUM_BINS, 2))
        np.add.at(grid_GB2, place_N[is_asked_N], self.grid_NB2[is_asked_N])
        return ProbabilityGrid(grid_GB2[..., 0], grid_GB2[..., 1])


def outcomes_table(pane: OutcomePane) -> Any:
    """A pane as an Arrow table: a row a cell.

    >>> outcomes_table(OutcomePane.nothing("click")).column_names
    ['minute', 'segment', 'sums', 'spend_micros', 'grid']
    """
    columns = [
        pa.array(pane.minutes_N), pa.array(pane.segments_N), _lists(pane.sums_NV6),
        pa.array(pane.spend_micros_N), _lists(pane.grid_NB2),
    ]  # fmt: skip
    table = pa.table(columns, names=["minute", "segment", "sums", "spend_micros", "grid"])
    return table.replace_schema_metadata({_VERSION: FORMAT_VERSION, _ACTION: pane.action})


def outcomes_from_table(table: Any, *, file: str = "the table") -> OutcomePane:
    """The pane of a table that `outcomes_table` made.

    Raises:
        MonitoringError: It is of another format, or damaged.
    """
    metadata = table.schema.metadata or {}
    version = metadata.get(_VERSION, b"none").decode(errors="replace")
    try:
        if version != FORMAT_VERSION:
            raise ValueError(f"version {version}")
        minutes_N, segments_N, spend_N = (
            table[name].combine_chunks().to_numpy() for name in ("minute", "segment", "spend_micros")
        )
        sums_N, grid_N = (table[name].combine_chunks().flatten().to_numpy() for name in ("sums", "grid"))
        return OutcomePane(
            metadata[_ACTION].decode(), minutes_N, segments_N, sums_N.reshape(len(minutes_N), 2, len(_SUMS)), spend_N,
            grid_N.reshape(len(minutes_N), NUM_BINS, 2),
        )  # fmt: skip
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise MonitoringError(
            f"{file!r} holds no outcomes of a known format", found=str(error), allowed=f"version {FORMAT_VERSION}",
            do="count them again",
        ) from error  # fmt: skip


def _lists(values_N: _Floats) -> Any:
    """What each cell has, as a list of one length."""
    width = int(np.prod(values_N.shape[1:]))
    return pa.FixedSizeListArray.from_arrays(pa.array(values_N.reshape(-1), pa.float64()), width)


def _cells(minutes_C: _Ints, segment_C: _Ints) -> tuple[_Ints, _Ints]:
    """The distinct pairs, ascending, and the place of each row among them."""
    order_C = np.lexsort((segment_C, minutes_C))
    pairs_C2 = np.column_stack([minutes_C, segment_C])[order_C]
    is_first_C = np.ones(len(pairs_C2), np.bool_)
    is_first_C[1:] = (pairs_C2[1:] != pairs_C2[:-1]).any(axis=1)
    cell_C = np.empty(len(pairs_C2), np.int64)
    cell_C[order_C] = np.cumsum(is_first_C) - 1
    return pairs_C2[is_first_C], cell_C


def _places(segments_N: _Ints, segments: Sequence[int]) -> tuple[_Ints, NDArray[np.bool_]]:
    asked_G = np.asarray(segments, np.int64)
    order_G = np.argsort(asked_G, kind="stable")
    if not len(asked_G):
        return np.zeros(len(segments_N), np.int64), np.zeros(len(segments_N), np.bool_)
    place_N = order_G[np.searchsorted(asked_G[order_G], segments_N).clip(max=len(asked_G) - 1)]
    return place_N, asked_G[place_N] == segments_N
