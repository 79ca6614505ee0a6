"""Numbers of one request as a block of a record, and blocks of many records as numbers again; n rows of one request."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from rankwell.types import Column, Ragged

__all__ = ["bag_block", "block_of", "ids_or_null", "list_of_block", "list_offsets", "plain_array"]

_Numbers = NDArray[Any]
_DTYPES: Final[dict[Any, np.dtype[Any]]] = {
    pa.int64(): np.dtype(np.int64),
    pa.float32(): np.dtype(np.float32),
    pa.float64(): np.dtype(np.float64),
}


def plain_array(values: Any) -> _Numbers:
    """A tensor or what NumPy takes, as NumPy's array on the same memory."""
    return values.numpy() if isinstance(values, Tensor) else np.asarray(values)


def bag_block(bag: Column, rows_n: _Numbers) -> tuple[_Numbers, _Numbers]:
    """The lengths of the bags in some rows, and their ids one after the other."""
    if not isinstance(bag, Ragged):
        raise TypeError("a bag holds no lists")
    offsets, values = plain_array(bag.offsets), plain_array(bag.values)
    starts_n, lengths_n = offsets[rows_n], offsets[rows_n + 1] - offsets[rows_n]
    before_n = np.cumsum(lengths_n) - lengths_n
    return lengths_n, values[np.arange(lengths_n.sum()) + np.repeat(starts_n - before_n, lengths_n)]


def list_of_block(block: _Numbers, list_type: Any, value_type: Any) -> pa.Array:
    """A block as an Arrow list array of one entry; its memory is lent where it is as Arrow wants it."""
    block = np.ascontiguousarray(block, _DTYPES[value_type])
    values = pa.Array.from_buffers(value_type, block.size, [None, pa.py_buffer(block)])
    offsets = pa.py_buffer(np.array([0, block.size], np.int32))
    return pa.Array.from_buffers(list_type, 1, [None, offsets], children=[values])


def block_of(records: pa.Table, name: str) -> tuple[_Numbers, _Numbers]:
    """The numbers of a block in all records, and how many each record has."""
    lists = records[name].combine_chunks()
    offsets = lists.offsets.to_numpy()
    values = lists.values.to_numpy()[offsets[0] : offsets[-1]]
    return values, np.diff(offsets).astype(np.int64)


def list_offsets(lengths: _Numbers) -> pa.Array:
    """Where each list begins, and where the last one ends."""
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def ids_or_null(ids: _Numbers) -> pa.Array:
    """Ids as a log has them: null where they are negative."""
    missing = ids < 0
    return pa.array(ids, mask=missing) if missing.any() else pa.array(ids)
