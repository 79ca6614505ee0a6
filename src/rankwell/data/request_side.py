"""The request's side of a flat log: one value a request, though it stands on each of the request's rows.

R requests · N rows · V values in the lists of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rankwell.data.check import Where
from rankwell.errors import LogError

__all__ = ["first_of_requests"]

Bools = npt.NDArray[np.bool_]


def first_of_requests(array: Any, where: Where) -> Any:
    """The entries at the first rows of requests; the array itself where each row is a request.

    Args:
        array: The column, N rows.
        where: The place of the requests' values, with the row at which each begins and with their ids.

    Raises:
        LogError: Two rows of one request differ. Null equals null, and NaN equals NaN.

    >>> where = Where("years", "day.parquet", 0, np.array([0, 2]), np.array([7, 8]))
    >>> first_of_requests(pa.array([3, 3, 4]), where).to_pylist()
    [3, 4]
    """
    rows_R, ids_R = where.rows_R, where.request_ids_R
    if rows_R is None:
        return array
    assert ids_R is not None  # or each row would be a request
    differs_N = np.ones(len(array), bool)
    differs_N[1:] = _differ_from_last(array)
    differs_N[rows_R] = False
    if differs_N.any():
        row = int(np.flatnonzero(differs_N)[0])
        r = int(np.searchsorted(rows_R, row, side="right")) - 1
        others = int(np.count_nonzero(differs_N)) - 1
        more = f" (and {others} more in this block)" if others else ""
        raise LogError(
            f"column {where.column!r} differs within request {int(ids_R[r])}, file {where.file!r}, "
            f"row {where.first_row + row} (from 0){more}",
            found=f"{array[row].as_py()}, after {array[row - 1].as_py()}",
            allowed="one value a request, because the column stands on the request",
            do="declare it on='candidate', or repeat the request's value on each of its rows",
        )
    return array.take(pa.array(rows_R))


def _differ_from_last(array: Any) -> Bools:
    """Whether each entry but the first differs from the one before it."""
    if pa.types.is_fixed_size_list(array.type):
        width = array.type.list_size
        offsets = np.arange(len(array) + 1) * width
        values = array.values.slice(array.offset * width, len(array) * width)
    elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        offsets = array.offsets.to_numpy()
        values = array.values.slice(offsets[0], offsets[-1] - offsets[0])
        offsets = offsets - offsets[0]
    else:
        return _unequal(array.slice(1), array.slice(0, max(len(array) - 1, 0)))
    known_N = array.is_valid().to_numpy(zero_copy_only=False)
    lengths_N = np.diff(offsets)
    differ: Bools = (lengths_N[1:] != lengths_N[:-1]) & known_N[1:] | (known_N[1:] != known_N[:-1])
    # beside each value the one a list's length before: its counterpart, where the list before is as long
    before_V = np.arange(len(values))
    before_V -= np.repeat(lengths_N, lengths_N)
    unequal = np.flatnonzero(_unequal(values, values.take(pa.array(np.maximum(before_V, 0, out=before_V)))))
    row = np.searchsorted(offsets, unequal, side="right") - 1
    differ[row[(row > 0) & known_N[row]] - 1] = True
    return differ


def _unequal(one: Any, other: Any) -> Bools:
    """Where two arrays of scalars differ; null equals null, and NaN equals NaN and, among numbers, null."""
    unequal: Bools
    if pa.types.is_floating(one.type):
        a, b = (pc.fill_null(side, np.nan).to_numpy(zero_copy_only=False) for side in (one, other))
        unequal = a != b
        return unequal & ~(np.isnan(a) & np.isnan(b)) if unequal.any() else unequal
    unequal = pc.fill_null(pc.not_equal(one, other), False).to_numpy(zero_copy_only=False)
    if one.null_count or other.null_count:
        nulls, other_nulls = (side.is_null().to_numpy(zero_copy_only=False) for side in (one, other))
        unequal |= nulls != other_nulls
    return unequal
