"""The rows of one table on disk: Arrow's file format, memory-mappable, only the rows that serving can read.

Letters in names: n rows in the file · W row width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from rankwell.errors import BundleError, SchemaError
from rankwell.serving.new_directory import NewDirectory
from rankwell.tables.table import Table

__all__ = ["read_rows", "write_rows"]

_ROWS_A_BATCH: Final = 1 << 20


def write_rows(table: Table, directory: NewDirectory, name: str) -> None:
    """Write the rows of a table that serving can read: where each stands, how often it was seen, and the row.

    Columns: slot int64, ascending; sightings uint8; row fixed_size_list<float32>[W].
    """
    slots_n, sightings_n, rows_nW = (column.numpy() for column in table.seen_rows())
    with directory.open(name) as file, pa.ipc.new_file(file, _schema(table.width)) as writer:
        for start in range(0, len(slots_n), _ROWS_A_BATCH):
            part = slice(start, start + _ROWS_A_BATCH)
            flat = pa.array(np.ascontiguousarray(rows_nW[part]).reshape(-1))
            columns = [
                pa.array(slots_n[part]),
                pa.array(sightings_n[part]),
                pa.FixedSizeListArray.from_arrays(flat, table.width),
            ]
            writer.write_batch(pa.record_batch(columns, schema=_schema(table.width)))


def read_rows(table: Table, path: Path) -> None:
    """Take the rows that `write_rows` wrote; all others read their table's default row.

    Raises:
        BundleError: The file holds rows of another table.
    """
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            if not reader.schema.equals(_schema(table.width)):
                raise BundleError(
                    f"{path} does not hold the rows of this table", found=str(reader.schema),
                    allowed=str(_schema(table.width)), do="write the bundle again",
                )  # fmt: skip
            batches = [reader.get_batch(b) for b in range(reader.num_record_batches)]
            num_rows = sum(batch.num_rows for batch in batches)
            slots_n = np.empty(num_rows, dtype=np.int64)
            sightings_n = np.empty(num_rows, dtype=np.uint8)
            rows_nW = np.empty((num_rows, table.width), dtype=np.float32)
            start = 0
            for batch in batches:
                stop = start + batch.num_rows
                slots_n[start:stop] = _values(batch.column("slot"))
                sightings_n[start:stop] = _values(batch.column("sightings"))
                rows_nW[start:stop] = _values(batch.column("row").flatten()).reshape(-1, table.width)
                start = stop
    except pa.ArrowException as error:
        raise BundleError(f"{path} is no Arrow file", found=str(error), do="write the bundle again") from None
    try:
        table.load_seen_rows(torch.from_numpy(slots_n), torch.from_numpy(sightings_n), torch.from_numpy(rows_nW))
    except SchemaError as error:
        raise BundleError(
            f"{path} holds rows of a larger table",
            found=error.found,
            allowed=error.allowed,
            do="write the bundle again",
        ) from error


def _schema(width: int) -> pa.Schema:
    fields = {"slot": pa.int64(), "sightings": pa.uint8(), "row": pa.list_(pa.float32(), width)}
    return pa.schema([pa.field(name, type_, nullable=False) for name, type_ in fields.items()])


def _values(column: pa.Array) -> NDArray[np.generic]:
    return cast(NDArray[np.generic], column.to_numpy(zero_copy_only=True))
