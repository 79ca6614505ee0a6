"""The keys of requests: what tells them apart and what they are split by.

R requests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np

from rankwell.data.arrow_values import as_ids, as_times_us, whole_array
from rankwell.data.check import Ints, Where, refuse
from rankwell.data.layout import LogLayout
from rankwell.data.request_side import first_of_requests

__all__ = ["Keys", "decode_keys"]


@final
@dataclass(frozen=True, slots=True)
class Keys:
    """What splits are made by.

    Args:
        request_ids_R: The request ids, or the rows' numbers in the log where it has none.
        times_us_R: The request times; None where the log has none.
        rows_R: The row at which each request begins; None where each row is a request.
    """

    request_ids_R: Ints
    times_us_R: Ints | None
    rows_R: Ints | None


def decode_keys(table: Any, layout: LogLayout, *, file: str, first_row: int, row_number: int) -> Keys:
    """The keys of the requests in an Arrow table of whole requests.

    Args:
        table: At least the request id and time columns.
        layout: The log's layout.
        file: What errors call the source.
        first_row: The table's first row in its file, for errors.
        row_number: The table's first row in the whole log.
    """
    id_column, time_column = layout.of_role("request_id"), layout.of_role("time")
    rows_R: Ints | None = None
    if id_column is None:
        ids_R = np.arange(row_number, row_number + table.num_rows)
    else:
        where = Where(id_column.name, file, first_row)
        ids_R = as_ids(whole_array(table, id_column), id_column, where)
        if layout.kind == "flat" and len(ids_R):
            rows_R = np.concatenate([[0], np.flatnonzero(ids_R[1:] != ids_R[:-1]) + 1])
            if len(rows_R) == len(ids_R):
                rows_R = None
            else:
                ids_R = ids_R[rows_R]
        _check_distinct(ids_R, layout, replace(where, rows_R=rows_R))
    times_R = None
    if time_column is not None:
        where = Where(time_column.name, file, first_row, rows_R, ids_R if id_column is not None else None)
        times_R = as_times_us(first_of_requests(whole_array(table, time_column), where), where)
    return Keys(ids_R, times_R, rows_R)


def _check_distinct(ids_R: Ints, layout: LogLayout, where: Where) -> None:
    """Refuse a request id that stands twice; what stands in another block isn't known here."""
    if (ids_R[1:] > ids_R[:-1]).all():  # as ids given in order are: a hundredth of what sorting costs
        return
    ascending = np.sort(ids_R)
    if not (ascending[1:] == ascending[:-1]).any():
        return
    order = np.argsort(ids_R, kind="stable")
    again = np.zeros(len(ids_R), bool)
    again[order[1:]] = ids_R[order[1:]] == ids_R[order[:-1]]
    if layout.kind == "flat":
        refuse(
            where,
            again,
            "the request id comes again after other requests",
            ids_R,
            allowed="consecutive rows for each request in a flat log",
            do="sort the log by request id, or declare request_id=None if each row is a request",
        )
    refuse(
        where,
        again,
        "the request id stands twice",
        ids_R,
        allowed="one row a request",
        do="drop the repeated rows or give each request an id of its own; with one row a candidate, open the log with "
        "layout='flat'",
    )
