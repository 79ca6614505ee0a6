"""Tables in memory (pyarrow, polars, pandas) as Arrow tables in the form that a log has on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as kinds

from rankwell.data.layout import LogColumn, LogLayout
from rankwell.data.string_ids import hash_strings, is_stringlike
from rankwell.errors import LogError

__all__ = ["ArrowStream", "arrow_table", "map_leaves", "sorted_by_request", "with_hashed_strings"]


class ArrowStream(Protocol):
    """A table that speaks the Arrow C stream protocol: of pyarrow, polars, pandas, DuckDB and others.

    >>> import polars
    >>> table: ArrowStream = polars.DataFrame({"job": [7, 8]})
    >>> arrow_table(table).num_rows
    2

    Source: The Arrow PyCapsule interface, https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html
    """

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """A PyCapsule of an ArrowArrayStream."""
        ...


def arrow_table(table: object) -> Any:
    """The table as a `pyarrow.Table`, through the Arrow C stream protocol; memory is lent where it can be.

    Raises:
        LogError: It is no table, or has a column that Arrow cannot hold.
    """
    if isinstance(table, pa.Table):
        return table
    if not hasattr(table, "__arrow_c_stream__"):
        raise LogError(
            "a log cannot be made from this object",
            found=type(table).__name__,
            allowed="a pyarrow.Table, a polars or pandas DataFrame, or an object with __arrow_c_stream__",
            do="turn it into one of these first",
        )
    try:
        return pa.table(table)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise LogError(
            "a column of the table in memory does not fit an Arrow type",
            found=str(error).split("\n", 1)[0],
            do="drop the column, or give it one type",
        ) from error


def with_hashed_strings(table: Any, layout: LogLayout) -> Any:
    """The table with the strings of id columns hashed to 63 bits, and dictionaries decoded."""
    seen: set[str] = set()
    for column in layout.columns:
        index = table.schema.get_field_index(column.name)
        if index < 0 or column.name in seen:
            continue
        seen.add(column.name)
        array = table.column(index)
        plain = _plain_ids(array, column)
        if plain is not array:
            table = table.set_column(index, column.name, plain)
    return table


def _plain_ids(array: Any, column: LogColumn) -> Any:
    innermost = array.type
    while kinds.is_list(innermost) or kinds.is_large_list(innermost) or kinds.is_fixed_size_list(innermost):
        innermost = innermost.value_type
    if is_stringlike(innermost) and column.takes_ids:
        return map_leaves(array.combine_chunks(), hash_strings)
    if kinds.is_null(array.type) and column.depth == 0:  # all values are missing, so nothing said of what type they are
        return array.cast(column.written_as)
    if kinds.is_dictionary(innermost) and innermost == array.type:
        return array.cast(innermost.value_type)
    return array


def map_leaves(array: Any, change: Callable[[Any], Any]) -> Any:
    """The same lists around changed values, at any depth, of whole arrays and slices; null lists stay null.

    >>> map_leaves(pa.array([[1], [7], None, [2, 3]]).slice(1), lambda leaves: hash_strings(leaves.cast(pa.string()))
    ...     ).is_null().to_pylist()
    [False, True, False]
    """
    kind = array.type
    if not (kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)):
        return change(array)
    leaves = map_leaves(array.flatten(), change)  # without what stands behind null lists and outside of a slice
    if leaves.type == kind.value_type:
        return array
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, leaves, mask=array.is_null() if array.null_count else None)


def sorted_by_request(table: Any, request_id: str) -> Any:
    """The table with the rows of each request adjacent: as it is, or sorted by request id, stably."""
    chunks = table.column(request_id)
    if chunks.null_count:
        return table  # the reader refuses it, and says where
    ids = chunks.to_numpy()
    starts = np.concatenate([[0], np.flatnonzero(ids[1:] != ids[:-1]) + 1])
    if len(np.unique(ids[starts])) == len(starts):
        return table
    return table.take(pa.array(np.argsort(ids, kind="stable"))).combine_chunks()
