"""The ids whose row is exactly zero, on disk: which they are and how often they were seen, in a byte or two each.

They must be known, since an id without a row of its own reads the default row, which is not zero. Ascending keys are
written as the gaps between them, in the smallest unsigned integers that hold the largest gap, compressed.

Letters: z ids, ascending.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.serving.new_directory import NewDirectory

__all__ = ["read_zeros", "write_zeros"]

_IDS_A_BATCH: Final = 1 << 18
_UNSIGNED: Final = (np.uint8, np.uint16, np.uint32, np.uint64)


def write_zeros(
    keys_z: Tensor, sightings_z: Tensor, directory: NewDirectory, name: str, metadata: Mapping[bytes, bytes]
) -> None:
    """Write ascending keys ≥ 0 and their sightings."""
    gaps_z = np.diff(keys_z.numpy(), prepend=0).astype(np.uint64)
    columns = {"gap": _narrowed(gaps_z), "sightings": _narrowed(sightings_z.numpy().astype(np.uint64))}
    schema = pa.schema([(column, pa.from_numpy_dtype(values.dtype)) for column, values in columns.items()])
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        directory.open(name) as file,
        pa.ipc.new_file(file, schema.with_metadata(dict(metadata)), options=options) as writer,
    ):
        for start in range(0, len(gaps_z), _IDS_A_BATCH):
            part = slice(start, start + _IDS_A_BATCH)
            writer.write_batch(pa.record_batch([pa.array(values[part]) for values in columns.values()], schema=schema))


def read_zeros(path: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys, int64 ascending, and sightings, int32, in pieces.

    Raises:
        pyarrow.ArrowException: The file is none that `write_zeros` wrote.
    """
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        if reader.schema.names != ["gap", "sightings"] or not all(
            map(pa.types.is_unsigned_integer, reader.schema.types)
        ):
            raise pa.ArrowInvalid(f"these are not gaps and sightings: {reader.schema}")
        last = np.uint64(0)
        for b in range(reader.num_record_batches):
            batch = reader.get_batch(b)
            keys_z = last + np.cumsum(batch.column("gap").to_numpy(), dtype=np.uint64)
            if len(keys_z):
                last = keys_z[-1]
            sightings_z = batch.column("sightings").to_numpy().astype(np.int32)
            yield torch.from_numpy(keys_z.view(np.int64)), torch.from_numpy(sightings_z)


def _narrowed(values_z: NDArray[np.uint64]) -> NDArray[np.unsignedinteger]:
    largest = values_z.max(initial=0)
    smallest = next(kind for kind in _UNSIGNED if largest <= np.iinfo(kind).max)
    return values_z.astype(smallest)
