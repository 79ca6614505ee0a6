"""Files of rows for checkpoints: all of them in one, and in those after it what has changed since.

A file is a line that names the format, then blocks: a line of JSON that says what follows, and arrays as they stand in
memory, little-endian. A block of table t either has rows (keys, last, sightings, state, values of n rows each), or has
ids that were evicted: they go before the file's rows come.

Letters: n rows of one block · W row width · S state columns.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, Final, final

import torch
from torch import Tensor

from rankwell.errors import CheckpointError, SchemaError
from rankwell.tables.row_store import StoredRows
from rankwell.tables.table import Table

__all__ = ["RowFile", "put_rows", "why_damaged", "write_rows"]

_FORMAT: Final = b"rankwell rows 1\n"
_BYTES_A_READ: Final = 1 << 22
_FIELDS: Final = tuple(field.name for field in fields(StoredRows))


@final
@dataclass(frozen=True, slots=True)
class RowFile:
    """A file of rows, as the checkpoint knows it that is made of it and of those before it.

    Args:
        name: In the checkpoints' folder.
        num_bytes: Its size.
        crc32: Of its content.
    """

    name: str
    num_bytes: int
    crc32: int


def write_rows(path: Path, tables: Mapping[str, Table], *, only_changed: bool) -> RowFile:
    """Write the rows of all tables to a file, a piece at a time, and flush it to disk.

    Rows written count as not changed from then on; where writing fails, some of them do, so that the next file must
    have all rows.

    Args:
        path: Of the file.
        tables: By part.
        only_changed: Leaves out rows that did not change since they were last written or put.

    Raises:
        OSError: The file cannot be written.
    """
    with path.open("wb", buffering=0) as file:
        sink = _Sink(file)
        sink.write(_FORMAT)
        for part, table in tables.items():
            for name in table.names:
                evicted_n = table.take_removed(name)
                if only_changed and len(evicted_n):
                    sink.block({"part": part, "table": name, "evicted": len(evicted_n)}, [evicted_n])
                for rows in table.take(name, only_changed=only_changed):
                    shape = {"rows": len(rows), "state": rows.state_nS.shape[1], "width": rows.rows_nW.shape[1]}
                    dtype = str(rows.rows_nW.dtype).removeprefix("torch.")
                    sink.block({"part": part, "table": name, **shape, "dtype": dtype}, _arrays(rows))
        os.fsync(file.fileno())
    return RowFile(path.name, sink.num_bytes, sink.crc32)


def why_damaged(folder: Path, file: RowFile) -> str:
    """What is wrong with a file of a folder; empty where nothing is.

    Raises:
        OSError: It is there and cannot be read.
    """
    path = folder / file.name
    if not path.exists():
        return f"its rows {file.name} are missing"
    if path.stat().st_size != file.num_bytes:
        return f"its rows {file.name} are {path.stat().st_size} bytes instead of {file.num_bytes}"
    crc32, buffer = 0, memoryview(bytearray(_BYTES_A_READ))
    with path.open("rb", buffering=0) as opened:
        while n := opened.readinto(buffer):
            crc32 = zlib.crc32(buffer[:n], crc32)
    return "" if crc32 == file.crc32 else f"the content of its rows {file.name} doesn't match its checksum"


def put_rows(paths: Sequence[Path], tables: Mapping[str, Table]) -> None:
    """Have the tables hold the rows of whole files, the oldest first, and nothing else, as rows that did not change.

    Raises:
        CheckpointError: A file is of another format, or of tables of another shape.
        TrainingError: Memory ends, or a disk.
    """
    for table in tables.values():
        table.track_removed(on=False)
        table.clear()
    for path in paths:
        try:
            _put_file(path, tables)
        except (SchemaError, KeyError) as error:
            raise CheckpointError(
                f"the rows of {path} do not fit the model's tables", found=str(error),
                do="go on with the settings that they were written under, or name another folder to start anew",
            ) from error  # fmt: skip


def _put_file(path: Path, tables: Mapping[str, Table]) -> None:
    with path.open("rb") as file:
        if (found := file.readline(len(_FORMAT))) != _FORMAT:
            raise CheckpointError(
                f"rows {path} have an unknown format", found=found.decode(errors="replace").strip(),
                allowed=_FORMAT.decode().strip(), do="go on with the version of rankwell that wrote them",
            )  # fmt: skip
        while line := file.readline():
            block = json.loads(line)
            table, name = tables[block["part"]], block["table"]
            if "evicted" in block:
                table.remove(name, _read(file, torch.int64, block["evicted"]))
                continue
            if block["dtype"] != table.storage.dtype:
                raise SchemaError("rows are of another dtype", found=block["dtype"], allowed=table.storage.dtype)
            n = block["rows"]
            rows = StoredRows(
                keys_n=_read(file, torch.int64, n),
                last_n=_read(file, torch.int32, n),
                sightings_n=_read(file, torch.int32, n),
                state_nS=_read(file, torch.float32, n, block["state"]),
                rows_nW=_read(file, getattr(torch, block["dtype"]), n, block["width"]),
            )
            table.insert(name, rows, changed=False)


class _Sink:
    """A file, and the size and checksum of what was written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.num_bytes, self.crc32 = 0, 0

    def write(self, content: bytes | memoryview) -> None:
        view = memoryview(content)
        self.crc32 = zlib.crc32(view, self.crc32)
        self.num_bytes += view.nbytes
        while view.nbytes:
            view = view[self._file.write(view) :]

    def block(self, what: Mapping[str, Any], arrays: Sequence[Tensor]) -> None:
        self.write(json.dumps(what).encode() + b"\n")
        for array in arrays:
            self.write(_bytes_of(array))


def _arrays(rows: StoredRows) -> list[Tensor]:
    return [getattr(rows, field) for field in _FIELDS]


def _bytes_of(array: Tensor) -> memoryview:
    if sys.byteorder != "little":
        raise CheckpointError("checkpoints of rows are written on little-endian machines only", found=sys.byteorder)
    flat: memoryview = array.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return flat


def _read(file: IO[bytes], dtype: torch.dtype, *shape: int) -> Tensor:
    array = torch.empty(shape, dtype=dtype)
    view = _bytes_of(array)
    while view.nbytes:
        n = file.readinto(view)  # type: ignore[attr-defined]
        if not n:
            raise CheckpointError("a file of rows ends too early", do="delete the checkpoints to start anew")
        view = view[n:]
    return array
