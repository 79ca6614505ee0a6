"""Columns of single rows, requests or candidates, as panes count them, from a log's lists.

Letters in names: R requests · C rows: candidates flat over the table, or requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rankwell.data.arrow_values import as_times_us, list_parts, whole_array
from rankwell.data.check import Where
from rankwell.data.layout import LogColumn, LogLayout
from rankwell.errors import MonitoringError
from rankwell.monitoring.pane_layout import ALL_ROWS, MISSING, NEVER_SEEN, OTHER, CategoricalBins
from rankwell.schema import Schema
from rankwell.types import MISSING_ID

__all__ = ["FlatRows", "RowsOf"]

RowsOf = Literal["requests", "scored", "shown"]
"""Requests, all their candidates, or those that have a position."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class FlatRows:
    """Columns of one length, and the time of each row.

    Args:
        times_us_C: int64, UTC microseconds: of a candidate, its request's.
        columns: NumPy arrays by name. Numbers are NaN where missing, ids −1.

    >>> len(FlatRows(np.array([0, 1]), {"years": np.array([1.0, 3.0])}))
    2
    """

    times_us_C: NDArray[np.int64]
    columns: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        for name, column_C in self.columns.items():
            if column_C.shape != self.times_us_C.shape:
                raise MonitoringError(
                    f"column {name!r} is not as long as the times",
                    found=column_C.shape, allowed=self.times_us_C.shape,
                )  # fmt: skip

    @classmethod
    def of_table(cls, table: Any, schema: Schema, names: Iterable[str], *, rows: RowsOf) -> Self:
        """Columns of a log in request layout, served columns among them, as `read_served` gives it.

        What stands on a request is repeated for each of its candidates.

        Args:
            table: An Arrow table or record batch of whole requests.
            schema: The log's.
            names: The columns to take: one value for a request or for a candidate.
            rows: Which rows: with "requests" only columns that stand on the request can be taken.

        Raises:
            MonitoringError: A column is not there, has lists of its own, or is a candidate's where rows are requests.
            LogError: The times are no times.

        >>> from rankwell.schema import Action, Numeric
        >>> schema = Schema(features=(Numeric(name="years", on="candidate"),), actions=(Action(name="click"),))
        >>> table = pa.table({"request_id": [1], "time_us": [5], "years": [[2.0, None]]})
        >>> flat = FlatRows.of_table(table, schema, ["years"], rows="scored")
        >>> flat.times_us_C.tolist(), flat.columns["years"].tolist()
        ([5, 5], [2.0, nan])
        """
        table = pa.table(table) if isinstance(table, pa.RecordBatch) else table
        layout = LogLayout.of(schema, "requests")
        time = layout.of_role("time")
        if time is None:
            raise MonitoringError("a log without times cannot be watched", do="declare `time` in the schema")
        times_us_R = as_times_us(whole_array(table, time), Where(time.name, "the table", 0))
        sides = {column.name: column for column in layout.columns}
        taken = {name: _values(table, name, sides) for name in dict.fromkeys(names)}
        if rows == "requests":
            return cls(times_us_R, {name: _on_requests(name, *part) for name, part in taken.items()})
        offsets = next((offsets for offsets, _ in taken.values() if offsets is not None), None)
        position = layout.of_role("position")
        if offsets is None or rows == "shown":
            counted = position if rows == "shown" else _any_candidate(layout, table)
            if counted is None:
                raise MonitoringError("the log does not say what was shown", do='take rows="scored"')
            offsets, positions_C = _values(table, counted.name, sides)
        assert offsets is not None
        request_C = np.repeat(np.arange(len(times_us_R)), np.diff(offsets))
        columns = {name: values[request_C] if of is None else values for name, (of, values) in taken.items()}
        if rows == "shown":
            shown_C = np.flatnonzero(positions_C > 0)
            return cls(times_us_R[request_C[shown_C]], {name: column_C[shown_C] for name, column_C in columns.items()})
        return cls(times_us_R[request_C], columns)

    def __len__(self) -> int:
        return len(self.times_us_C)

    def kept(self, is_kept_C: NDArray[np.bool_]) -> FlatRows:
        """Some of the rows."""
        return FlatRows(
            self.times_us_C[is_kept_C], {name: column_C[is_kept_C] for name, column_C in self.columns.items()}
        )

    def numbers(self, name: str) -> NDArray[Any]:
        """A column as contiguous float32, or as float64 where it stands so.

        Raises:
            MonitoringError: It is not there.
        """
        column_C = self._column(name)
        wanted = np.float64 if column_C.dtype == np.float64 else np.float32
        return np.ascontiguousarray(column_C, wanted)

    def ids(self, name: str) -> NDArray[np.int64]:
        """A column as ids, −1 where missing.

        Raises:
            MonitoringError: It is not there, or holds no whole numbers.
        """
        column_C = self._column(name)
        if column_C.dtype.kind not in "iub":
            raise MonitoringError(
                f"column {name!r} holds no ids", found=column_C.dtype, allowed="whole numbers, or bool",
                do="count it in NumericBins",
            )  # fmt: skip
        return column_C.astype(np.int64, copy=False)

    def segments(self, bins: CategoricalBins | None) -> NDArray[np.int64]:
        """The segment of each row: a value of `bins.top`, or `OTHER`, `NEVER_SEEN`, `MISSING`; `ALL_ROWS` without bins.

        Raises:
            MonitoringError: The column of segments is not there, or holds no ids.
        """
        if bins is None:
            return np.full(len(self), ALL_ROWS)
        ids_C = self.ids(bins.name)
        segments_C = np.where(np.isin(ids_C, np.array(bins.top, np.int64)), ids_C, NEVER_SEEN)
        segments_C[np.isin(ids_C, np.array(bins.known, np.int64))] = OTHER
        segments_C[ids_C < 0] = MISSING
        return segments_C

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self.columns:
            raise MonitoringError(f"column {name!r} is not among the rows", found=sorted(self.columns))
        return self.columns[name]


def _values(table: Any, name: str, sides: Mapping[str, LogColumn]) -> tuple[NDArray[np.int64] | None, NDArray[Any]]:
    """Offsets of a candidate's column, None of a request's, and the flat values."""
    if name not in table.column_names:
        raise MonitoringError(f"the log has no column {name!r}", found=table.column_names)
    column = sides.get(name)
    array = table.column(name)
    array = array.chunk(0) if array.num_chunks == 1 else pa.concat_arrays(array.chunks) if array.num_chunks else None
    if array is None:
        array = pa.array([], table.schema.field(name).type)
    on_request = column.side == "request" if column is not None else not pa.types.is_list(array.type)
    offsets = None
    if not on_request:
        offsets, array = list_parts(array, Where(name, "the table", 0))
    if pa.types.is_nested(array.type):
        raise MonitoringError(
            f"column {name!r} has several values for a row", found=array.type, allowed="one number or one id"
        )
    # What serving adds is numbers, prices too; of the log's own columns all but numerics are whole.
    return offsets, _plain(array, are_ids=column is not None and column.role != "numeric")


def _on_requests(name: str, offsets: NDArray[np.int64] | None, values: NDArray[Any]) -> NDArray[Any]:
    if offsets is not None:
        raise MonitoringError(
            f"column {name!r} stands on candidates", found='rows="requests"', allowed='"scored", "shown"'
        )
    return values


def _any_candidate(layout: LogLayout, table: Any) -> LogColumn | None:
    return next((c for c in layout.columns if c.side == "candidate" and c.name in table.column_names), None)


def _plain(array: Any, *, are_ids: bool) -> NDArray[Any]:
    """As NumPy: null numbers are NaN, null ids −1."""
    if are_ids and array.null_count:
        array = array.cast(pa.int8()) if pa.types.is_boolean(array.type) else array
        array = array.fill_null(MISSING_ID)
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values
