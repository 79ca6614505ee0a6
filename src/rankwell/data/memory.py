"""Tables in memory (pyarrow, polars, pandas) as Arrow tables in the form that a log has on disk."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import types as kinds

from rankwell.data.layout import LogColumn, LogLayout
from rankwell.data.string_ids import hash_strings, is_stringlike
from rankwell.errors import LogError

__all__ = ["arrow_table", "sorted_by_request", "with_hashed_strings"]


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
        return _hashed(array.combine_chunks())
    if kinds.is_dictionary(innermost) and innermost == array.type:
        return array.cast(innermost.value_type)
    return array


def _hashed(array: Any) -> Any:
    """String ids at any depth of lists as int64 ids."""
    if isinstance(array, pa.ChunkedArray):
        return pa.chunked_array(
            [_hashed(chunk) for chunk in array.chunks], pa.int64() if not array.num_chunks else None
        )
    if is_stringlike(array.type):
        return hash_strings(array)
    nulls = array.is_null() if array.null_count else None
    if kinds.is_fixed_size_list(array.type):
        return pa.FixedSizeListArray.from_arrays(_hashed(array.flatten()), array.type.list_size)
    kind = pa.LargeListArray if kinds.is_large_list(array.type) else pa.ListArray
    return kind.from_arrays(array.offsets, _hashed(array.values), mask=nulls)


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
