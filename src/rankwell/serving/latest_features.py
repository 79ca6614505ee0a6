"""The items and members of a log as they were last seen: a feature store's first filling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankwell.data.layout import LogColumn
from rankwell.data.memory import arrow_table
from rankwell.errors import LogError
from rankwell.serving.stored_columns import StoredColumns

__all__ = ["latest_items", "latest_members"]


def latest_items(log: Any, stored: StoredColumns) -> pa.Table:
    """The items of a log, each with the features that it was last a candidate with.

    Args:
        log: A log in memory, of either layout, in the order of time where it has no time.
        stored: What is kept of an item.

    Raises:
        LogError: A column is missing.

    >>> from rankwell.schema import Action, Categorical, Numeric, Schema
    >>> schema = Schema(features=(Categorical(name="job"), Numeric(name="pay")), actions=(Action(name="click"),),
    ...                 item="job", time="time_us")
    >>> log = pa.table({"time_us": [2, 1], "job": [[7, 8], [8, 9]], "pay": [[1.0, 2.0], [3.0, 4.0]]})
    >>> latest_items(log, StoredColumns(schema)).to_pylist()
    [{'job': 9, 'pay': 4.0}, {'job': 7, 'pay': 1.0}, {'job': 8, 'pay': 2.0}]
    """
    columns = stored.item_source()
    table = _in_time(log, columns, stored)
    if columns and pa.types.is_nested(table.schema.field(columns[0].name).type):  # one row a request
        table = pa.table({name: pc.list_flatten(table[name]) for name in table.column_names})
    return _last_of_each(table)


def latest_members(log: Any, stored: StoredColumns) -> pa.Table:
    """The members of a log, each with the features and histories of their last request.

    Args:
        log: As of `latest_items`; requests of nobody are passed over.
        stored: What is kept of a member.

    Raises:
        LogError: A column is missing.
    """
    return _last_of_each(_in_time(log, stored.member_source(), stored))


def _in_time(log: Any, columns: tuple[LogColumn, ...], stored: StoredColumns) -> pa.Table:
    table = arrow_table(log)
    names = list(dict.fromkeys(column.name for column in columns))
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise LogError(
            "the log lacks columns that are to be stored", found=missing, allowed=names,
            do="name their features in `not_stored`, or give a log that has them",
        )  # fmt: skip
    time = stored.schema.time
    if time is not None and time in table.column_names:
        table = table.take(pc.array_sort_indices(table[time].combine_chunks()))  # stable
    return table.select(names)


def _last_of_each(table: pa.Table) -> pa.Table:
    """The last row of each id, which is the first column, in the order of the rows; none of a null."""
    if table.num_columns == 0:
        return table
    table = table.filter(table.column(0).is_valid())
    codes_n = pc.dictionary_encode(table.column(0).combine_chunks()).indices.to_numpy()[::-1]
    _, from_end = np.unique(codes_n, return_index=True)
    return table.take(pa.array(np.sort(table.num_rows - 1 - from_end)))
