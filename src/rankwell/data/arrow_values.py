"""Arrow arrays as NumPy arrays and tensors on the same memory, each value checked on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from rankwell.data.check import Floats, Ints, Where, check_finite, check_ids, check_no_nulls, refuse
from rankwell.data.layout import LogColumn
from rankwell.types import MISSING_ID

__all__ = [
    "as_float32",
    "as_ids",
    "as_int64",
    "as_labels",
    "as_numbers",
    "as_times_us",
    "lent",
    "list_parts",
    "plain",
    "whole_array",
]


def whole_array(table: Any, column: LogColumn) -> Any:
    """The column as one Arrow array."""
    chunks = table.column(column.name)
    if chunks.num_chunks == 1:
        return chunks.chunk(0)
    return pa.concat_arrays(chunks.chunks) if chunks.num_chunks else pa.array([], chunks.type)


def list_parts(array: Any, where: Where) -> tuple[Ints, Any]:
    """Offsets from 0 and the flat values of an Arrow list array."""
    check_no_nulls(
        array, where, "null list", allowed="a list in every row", do="write an empty list where there is none"
    )
    if pa.types.is_fixed_size_list(array.type):
        return np.arange(len(array) + 1) * array.type.list_size, array.flatten()
    offsets = array.offsets.to_numpy()
    values = array.values.slice(offsets[0], offsets[-1] - offsets[0])
    if offsets[0]:
        offsets = offsets - offsets[0]
    return offsets.astype(np.int64, copy=True), values


def plain(array: Any) -> npt.NDArray[Any]:
    """Arrow's memory as a (read-only) NumPy array."""
    values: npt.NDArray[Any] = array.to_numpy(zero_copy_only=True)
    return values


def as_int64(array: Any, where: Where) -> Ints:
    """Integers of any width, or bools, without nulls."""
    kind = array.type
    if pa.types.is_boolean(kind):
        return plain(array.cast(pa.uint8())).astype(np.int64)
    values = plain(array)
    if values.dtype == np.uint64:
        beyond = values > np.uint64(2**63 - 1)
        if beyond.any():
            refuse(
                where,
                beyond,
                "id of 2^63 or more",
                values,
                allowed="0 to 2^63 - 1",
                do="hash the column to 63 bits where the log is written",
            )
        return values.view(np.int64)
    return values if values.dtype == np.int64 else values.astype(np.int64)


def as_ids(array: Any, column: LogColumn, where: Where) -> Ints:
    """Ids, checked; a null that the column allows becomes `MISSING_ID`."""
    num_missing = array.null_count
    if num_missing:
        if not column.nullable:
            check_no_nulls(
                array,
                where,
                "null id",
                allowed="ids from 0 to 2^63 - 1, since missing values are not declared here",
                do="declare missing='row' for a categorical feature, or fill the column",
            )
        filled = pc.fill_null(array.cast(pa.uint8()) if pa.types.is_boolean(array.type) else array, 0)
        ids = as_int64(filled, where).copy()
        nulls = array.is_null().to_numpy(zero_copy_only=False)
        check_ids(ids, where)
        ids[nulls] = MISSING_ID
        return ids
    ids = as_int64(array, where)
    check_ids(ids, where)
    return ids


def as_float32(array: Any) -> Floats:
    """Numbers of any type as float32, null as NaN."""
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    if array.null_count == 0:
        values = plain(array)
        if values.dtype == np.float32:
            return values
        with np.errstate(over="ignore"):
            return values.astype(np.float32)
    with np.errstate(over="ignore"):
        return plain(pc.fill_null(array.cast(pa.float64(), safe=False), np.nan)).astype(np.float32)


def as_numbers(array: Any, column: LogColumn, where: Where) -> Floats:
    """Finite float32, checked; a null that the column allows becomes NaN."""
    values = as_float32(array)
    check_finite(values, where, nan_allowed=column.nullable)
    return values


def as_labels(array: Any) -> npt.NDArray[Any]:
    """Labels in the type that they have; float32 with NaN where some are null."""
    if array.null_count:
        return as_float32(array)
    return plain(array.cast(pa.uint8())) if pa.types.is_boolean(array.type) else plain(array)


def as_times_us(array: Any, where: Where) -> Ints:
    """Times in UTC microseconds, checked."""
    check_no_nulls(array, where, "null time", allowed="UTC microseconds or a timestamp", do="fill the column")
    if pa.types.is_timestamp(array.type):
        if array.type.unit != "us":
            array = array.cast(pa.timestamp("us", array.type.tz), safe=False)
        array = array.view(pa.int64())
    times: Ints = plain(array)
    if len(times) and times.min() < 0:
        refuse(where, times < 0, "time before 1970", times, allowed="UTC microseconds", do="mend the column")
    return times


def lent(values: npt.NDArray[Any]) -> Tensor:
    """A tensor on the array's memory.

    Arrow lends read-only memory, at which `torch.from_numpy` warns; nothing here ever writes to a batch.
    """
    if values.flags.writeable:
        return torch.from_numpy(values)
    flat = values.reshape(-1)
    kind = pa.from_numpy_dtype(flat.dtype)
    lent = torch.utils.dlpack.from_dlpack(pa.Array.from_buffers(kind, len(flat), [None, pa.py_buffer(flat)]))
    return lent.reshape(values.shape)
