"""The rows of one named table on disk: Arrow's file format, memory-mappable, only what serving can read.

::

    <table>.arrow    key int64, sightings int32, row fixed_size_list<float32>[W]: the rows that are not zero, and the
                     table's own two (keys -2 and -1) before them; keys ascend, nothing is compressed or padded
    <table>.zeros    the ids whose row is exactly zero, where there are any; see `rankwell.serving.zero_file`
    <table>.states   see `rankwell.serving.state_file`

Equal rows give equal files, whatever order they were seen in.

Letters: n rows · z ids whose row is zero · W row width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from rankwell.errors import BundleError, SchemaError
from rankwell.serving.new_directory import NewDirectory
from rankwell.serving.sorted_rows import sorted_rows
from rankwell.serving.state_file import state_batch, state_schema, states_travel
from rankwell.serving.zero_file import read_zeros, write_zeros
from rankwell.tables.row_store import StoredRows
from rankwell.tables.table import Table

__all__ = ["ROWS", "STATES", "ZEROS", "file_stem", "read_rows", "row_batches", "table_notes", "write_rows"]

ROWS: Final = ".arrow"
ZEROS: Final = ".zeros"
STATES: Final = ".states"

_NOTES: Final = b"rankwell"
_LONGEST_STEM: Final = 200
_WRITE_AGAIN: Final = "write the bundle again"


def file_stem(part: str, name: str) -> str:
    """Where the files of a named table stand, without their endings.

    >>> file_stem("wide", "member_x_job")
    'rows/wide/member_x_job'
    """
    if len(name) > _LONGEST_STEM:  # file systems end at 255 bytes
        name = f"{name[:_LONGEST_STEM]}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f"rows/{part}/{name}"


def write_rows(table: Table, name: str, directory: NewDirectory, stem: str) -> None:
    """Write the rows of a named table that serving can read, and their state where it belongs to them.

    Memory is bounded, but for 8 bytes a row of a growing table and 12 bytes an id whose row is zero.
    """
    zeros: list[tuple[torch.Tensor, torch.Tensor]] = []
    notes = _notes_of(table, name)
    with ExitStack() as files:

        def new_file(ending: str, schema: pa.Schema) -> pa.ipc.RecordBatchFileWriter:
            file = files.enter_context(directory.open(stem + ending))
            return files.enter_context(pa.ipc.new_file(file, schema))

        rows_file = new_file(ROWS, _schema(table.width).with_metadata(notes))
        states_file = new_file(STATES, state_schema(table, notes)) if states_travel(table) else None
        for piece in sorted_rows(table, name):
            if states_file is not None:
                states_file.write_batch(state_batch(piece))
            is_zero_n = (piece.keys_n >= 0) & (piece.rows_nW == 0).all(dim=1)
            zeros.append((piece.keys_n[is_zero_n], piece.sightings_n[is_zero_n]))
            rows_file.write_batch(_batch(piece.where(~is_zero_n)))
    keys_z, sightings_z = (torch.cat(columns) for columns in zip(*zeros, strict=True))
    if len(keys_z):
        write_zeros(keys_z, sightings_z, directory, stem + ZEROS, notes)


def read_rows(table: Table, name: str, rows: Path, zeros: Path | None) -> None:
    """Take the rows that `write_rows` wrote; all other ids read the table's default row.

    Raises:
        BundleError: A file holds rows of another table.
    """
    path = rows
    try:
        for batch in row_batches(rows, table.width):
            _insert(table, name, *batch)
        if zeros is not None:
            path = zeros
            for keys_z, sightings_z in read_zeros(zeros):
                _insert(table, name, keys_z, sightings_z, torch.zeros(len(keys_z), table.width))
    except pa.ArrowException as error:
        raise BundleError(f"{path} is no Arrow file of rows", found=str(error), do=_WRITE_AGAIN) from None
    except SchemaError as error:
        raise BundleError(
            f"{path} holds rows of another table", found=error.found, allowed=error.allowed, do=_WRITE_AGAIN
        ) from error


def row_batches(path: Path, width: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Keys, sightings and rows of a file, in pieces.

    Raises:
        BundleError: The rows are of another width, or the file is of another kind.
        pyarrow.ArrowException: It is no Arrow file.
    """
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        if not reader.schema.equals(_schema(width), check_metadata=False):
            raise BundleError(
                f"{path} does not hold the rows of this table",
                found=str(reader.schema.remove_metadata()), allowed=str(_schema(width)), do=_WRITE_AGAIN,
            )  # fmt: skip
        for b in range(reader.num_record_batches):
            batch = reader.get_batch(b)
            rows_nW = _values(batch.column("row").flatten()).reshape(-1, width)
            columns = (_values(batch.column("key")), _values(batch.column("sightings")), rows_nW)
            keys_n, sightings_n, rows = (torch.from_numpy(column.copy()) for column in columns)
            yield keys_n, sightings_n, rows


def table_notes(path: Path) -> dict[str, Any]:
    """What a file says of its table: "table", "width", "dtype", "admission", and its spec.

    Raises:
        BundleError: It is no such file.
    """
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            notes: dict[str, Any] = json.loads((reader.schema.metadata or {})[_NOTES])
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise BundleError(f"{path} is no file of rows", found=str(error), do=_WRITE_AGAIN) from None
    return notes


def _notes_of(table: Table, name: str) -> dict[bytes, bytes]:
    spec = next(spec for spec in table.specs if spec.name == name)
    notes = {
        "table": name,
        "spec": spec.model_dump(mode="json", exclude_defaults=True),
        "width": table.width,
        "dtype": table.storage.dtype,
        "admission": table.admission,
    }
    return {_NOTES: json.dumps(notes).encode()}


def _insert(table: Table, name: str, keys_n: torch.Tensor, sightings_n: torch.Tensor, rows_nW: torch.Tensor) -> None:
    table.insert(
        name,
        StoredRows(
            keys_n=keys_n,
            last_n=torch.zeros(len(keys_n), dtype=torch.int32),
            sightings_n=sightings_n,
            state_nS=torch.zeros(len(keys_n), 0),
            rows_nW=rows_nW,
        ),
    )


def _schema(width: int) -> pa.Schema:
    fields = {"key": pa.int64(), "sightings": pa.int32(), "row": pa.list_(pa.float32(), width)}
    return pa.schema([pa.field(name, type_, nullable=False) for name, type_ in fields.items()])


def _batch(rows: StoredRows) -> pa.RecordBatch:
    width = rows.rows_nW.shape[1]
    flat = pa.array(rows.rows_nW.float().reshape(-1).numpy())  # bfloat16 is exact in float32
    columns = [
        pa.array(rows.keys_n.numpy()),
        pa.array(rows.sightings_n.numpy()),
        pa.FixedSizeListArray.from_arrays(flat, width),
    ]
    return pa.record_batch(columns, schema=_schema(width))


def _values(column: pa.Array) -> NDArray[np.generic]:
    return cast(NDArray[np.generic], column.to_numpy(zero_copy_only=True))
