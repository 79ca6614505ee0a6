"""A table of items, or of members, on its way into a feature store: every value checked as a log's are.

Letters: n rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rankwell.data.arrow_values import as_ids, as_numbers, as_times_us, list_parts
from rankwell.data.check import Where, check_equal_lists, check_history
from rankwell.data.input_columns import input_table, written_column
from rankwell.data.layout import LogColumn, LogLayout
from rankwell.data.pseudonyms import PseudonymKey
from rankwell.errors import LogError, SchemaError

__all__ = ["FeatureSource", "SourceRows"]

Ints = NDArray[np.int64]

_ROWS_A_PIECE: Final = 65_536


@final
@dataclass(frozen=True, slots=True)
class SourceRows:
    """Some rows of a source, as `RowLayout.pack` takes them.

    Args:
        ids_n: int64, ≥ 0.
        columns: By feature.
        lists: By bag or sequence.
    """

    ids_n: Ints
    columns: Mapping[str, NDArray[Any]]
    lists: Mapping[str, tuple[Ints, Mapping[str, NDArray[Any]]]]


@final
class FeatureSource:
    """Rows of items or members in memory, or in Parquet.

    Args:
        data: A table (pyarrow, polars, pandas, or a mapping of columns), or the path of a Parquet file or of a folder
            of them. Strings may stand for ids, as in a log.
        columns: Of a feature store's `item_source` or `member_source`, the ids first.
        what: What errors call the rows: "items" or "members".
        key: Where given, member ids are raw, and pseudonymised with it.

    Raises:
        LogError: It is no table, or a column is missing, unknown, or of a wrong type.
        SchemaError: The schema names no item, or no member.
    """

    def __init__(self, data: Any, columns: tuple[LogColumn, ...], what: str, *, key: PseudonymKey | None) -> None:
        if not columns:
            raise SchemaError(
                f"features of {what} cannot be stored: the schema names no id of theirs",
                do="declare `item`, or `member_id`, in the schema",
            )
        self._columns, self._what, self._key = columns, what, key
        self._layout = LogLayout("flat", columns)
        self._files: list[Path] | None = None
        if isinstance(data, str | Path):
            path = Path(data)
            self._files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
            if not self._files or not all(file.is_file() for file in self._files):
                raise LogError(f"there are no {what} at {str(path)!r}", allowed="a Parquet file, or a folder of them")
            for file in self._files:
                self._check_names(pq.read_schema(file).names, str(file))
        else:
            self._table = input_table(data, what)
            self._check_names(self._table.column_names, what)

    def _check_names(self, names: list[str], place: str) -> None:
        known = list(self._layout.names)
        missing = [name for name in known if name not in names]
        if missing:
            raise LogError(
                f"{place}: the {self._what} lack columns", found=missing, allowed=known,
                do="add them, or name their features in `not_stored`: they then come with each request",
            )  # fmt: skip
        unknown = [name for name in names if name not in known]
        if unknown:
            raise LogError(
                f"{place}: the {self._what} have columns that are not stored", found=unknown, allowed=known,
                do="drop them, or declare them in the schema",
            )  # fmt: skip

    def ids(self) -> Ints:
        """All ids, in order.

        Raises:
            LogError: One is null, negative, or stands twice.
        """
        column = self._columns[0]
        parts = [self._ids_of(table, column, file, row) for table, file, row in self._tables([column.name])]
        ids_n: Ints = np.concatenate([np.zeros(0, np.int64), *parts])
        order_n = np.argsort(ids_n, kind="stable")
        is_twice = ids_n[order_n[1:]] == ids_n[order_n[:-1]]
        if is_twice.any():
            first = int(np.flatnonzero(is_twice)[0])
            named = f" {int(ids_n[order_n[first]])}" if self._what == "items" else ""
            raise LogError(
                f"an id of the {self._what} stands twice:{named} in rows {order_n[first]} and {order_n[first + 1]}",
                found=f"{int(np.count_nonzero(is_twice))} repetitions", allowed="one row an id",
                do="keep the latest row of each",
            )  # fmt: skip
        return ids_n

    def pieces(self) -> Iterator[SourceRows]:
        """All rows, in order, some at a time.

        Raises:
            LogError: A value does not keep the schema.
            PrivacyError: Member ids are strings, and there is no key.
        """
        for table, file, first_row in self._tables(list(self._layout.names)):
            yield self._rows(table, file, first_row)

    def _tables(self, names: list[str]) -> Iterator[tuple[pa.Table, str, int]]:
        if self._files is None:
            for row in range(0, self._table.num_rows, _ROWS_A_PIECE):
                yield self._table.select(names).slice(row, _ROWS_A_PIECE), self._what, row
            return
        for file in self._files:
            row = 0
            with pq.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches(_ROWS_A_PIECE, columns=names):
                    yield pa.Table.from_batches([batch]).select(names), str(file), row
                    row += batch.num_rows

    def _array(self, table: pa.Table, column: LogColumn) -> pa.Array:
        return written_column(
            table[column.name], pa.field(column.name, column.written_as), self._layout, self._key
        )  # fmt: skip

    def _ids_of(self, table: pa.Table, column: LogColumn, file: str, row: int) -> Ints:
        ids_n: Ints = as_ids(self._array(table, column), column, Where(column.name, file, row))
        return ids_n

    def _rows(self, table: pa.Table, file: str, first_row: int) -> SourceRows:
        columns: dict[str, NDArray[Any]] = {}
        lists: dict[str, tuple[Ints, dict[str, NDArray[Any]]]] = {}
        first_list: dict[str, str] = {}
        for column in self._columns[1:]:
            array, where = self._array(table, column), Where(column.name, file, first_row)
            name = column.owner
            if column.sequence is not None or column.role == "bag":
                owner, field = (name, "") if column.sequence is None else (column.sequence, name)
                offsets, values = list_parts(array, where)
                known, fields = lists.setdefault(owner, (offsets, {}))
                check_equal_lists(offsets, where, known, first_list.setdefault(owner, column.name))
                fields[field] = _entries(values, column, where, offsets)
            elif column.role == "categorical":
                columns[name] = as_ids(array, column, where)
            elif column.role == "vector":
                offsets, values = list_parts(array, where)
                columns[name] = as_numbers(values, column, where.within(offsets)).reshape(-1, column.width or 1)
            elif column.role == "numeric":
                columns[name] = as_numbers(array, column, where)
            else:  # latitude, then longitude
                numbers_n = as_numbers(array, column, where)
                place_n2 = columns.setdefault(name, np.zeros((len(numbers_n), 2), np.float32))
                place_n2[:, int(column.role == "longitude")] = numbers_n
        return SourceRows(self._ids_of(table, self._columns[0], file, first_row), columns, lists)


def _entries(values: pa.Array, column: LogColumn, where: Where, offsets: Ints) -> NDArray[Any]:
    within = where.within(offsets)
    if column.role == "event_time":
        times_us_H = as_times_us(values, within)
        check_history(times_us_H, offsets, None, 0, where)
        return times_us_H
    if column.role == "numeric":
        return as_numbers(values, column, within)
    return as_ids(values, column, within)
