"""The rows of a named table as serving reads them: two files that all processes map and none of them copies.

::

    <stem>.index   which ids have a row; see `rankwell.serving.id_index`
    <stem>.rows    head of 64 bytes: magic, format version, number of rows n, row width W, bytes of a record, zeros;
                   the default row and the missing row, float32; then n records in the order of the index
    <stem>.zeros   an index of the ids whose row is exactly zero, where there are any

A record is W float32; or, as int8, W int8 and a bfloat16 scale, ``row = scale · int8`` with scale = max |row| / 127
rounded up: a row in W + 2 bytes instead of 4·W, each value off by half a scale at most.

Letters: n ids or rows · W row width · F columns of a block.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Final, Literal, final

import numba
import numpy as np
import torch
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from rankwell.errors import BundleError
from rankwell.schema import TableSpec
from rankwell.serving.id_index import IdIndex, place_of, write_id_index
from rankwell.serving.new_directory import NewDirectory
from rankwell.serving.sorted_rows import sorted_rows
from rankwell.tables.hashing import mix64, name_salt
from rankwell.tables.row_store import DEFAULT_KEY
from rankwell.tables.table import Table
from rankwell.types import MISSING_ID

__all__ = ["Precision", "RowMap", "dequantised", "pointer_of", "quantised", "read_column", "write_row_map"]

Precision = Literal["float32", "int8"]
"""How rows are kept in files that serve."""

_MAGIC: Final = b"rwrows\0\0"
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<8sQQQQ24x")
_SCALE_BYTES: Final = 2
# Of each exponent of a bfloat16, the power of two that its mantissa, 128 to 255, counts; none of the exponent 0.
_POWERS: Final = np.ldexp(np.float32(1), np.arange(255) - 134) * (np.arange(255) > 0)
_FEW: Final = 4096
"""Keys of a small table: their places are kept side by side, 16 KiB a process, and found without hashing."""
_INDEX, _ROWS, _ZEROS = ".index", ".rows", ".zeros"
_WRITE_AGAIN: Final = "export the bundle again, or copy its export again"


def write_row_map(table: Table, name: str, directory: NewDirectory, stem: str, precision: Precision) -> None:
    """Write the rows of a named table that serving can read.

    Memory is bounded, but for some 30 bytes a row of keys and places.

    Args:
        table: Nothing may be lent.
        name: Of the named table.
        directory: On its way to its place.
        stem: Of the files in it.
        precision: Of the records.
    """
    keys, are_zero = [], []
    own_2W = torch.zeros(2, table.width)
    for piece in sorted_rows(table, name):
        is_own_n = piece.keys_n < 0
        for key, row in zip(piece.keys_n[is_own_n].tolist(), piece.rows_nW[is_own_n].float(), strict=True):
            own_2W[{DEFAULT_KEY: 0, MISSING_ID: 1}[key]] = row
        keys.append(piece.keys_n[~is_own_n].numpy())
        are_zero.append((piece.rows_nW[~is_own_n] == 0).all(dim=1).numpy())
    keys_n, is_zero_n = np.concatenate(keys), np.concatenate(are_zero)
    with directory.open(stem + _INDEX) as file:
        write_id_index(keys_n[~is_zero_n], file)
    if is_zero_n.any():
        with directory.open(stem + _ZEROS) as file:
            write_id_index(keys_n[is_zero_n], file)
    index = IdIndex.open(directory.path / (stem + _INDEX))
    record = table.width + _SCALE_BYTES if precision == "int8" else 4 * table.width
    head = _HEAD.pack(_MAGIC, _VERSION, len(index), table.width, record) + own_2W.numpy().tobytes()
    with directory.scattered(stem + _ROWS, len(head) + record * len(index)) as content:
        content[: len(head)] = np.frombuffer(head, np.uint8)
        records = content[len(head) :].reshape(len(index), record)
        for piece in sorted_rows(table, name):
            places_n = index.places(piece.keys_n.numpy())
            rows_nW = piece.rows_nW.float().numpy()[places_n >= 0]
            written = quantised(rows_nW) if precision == "int8" else np.ascontiguousarray(rows_nW).view(np.uint8)
            records[places_n[places_n >= 0]] = written


def quantised(rows_nW: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Records of W + 2 bytes: W int8, then the scale.

    >>> records = quantised(np.array([[1.27, -0.5], [0.0, 0.0]], dtype=np.float32))
    >>> records.shape, np.allclose(dequantised(records), [[1.27, -0.5], [0, 0]], atol=0.006)
    ((2, 4), True)
    """
    scales_n = np.abs(rows_nW).max(axis=1, initial=0.0) / np.float32(127)
    # bfloat16 is the upper half of a float32; rounded up, the largest value is 127 scales at most
    halves_n = ((scales_n.astype(np.float32).view(np.uint32) + np.uint32(0xFFFF)) >> np.uint32(16)).astype(np.uint16)
    halves_n[halves_n < 128] = 0  # scales that a processor may take for 0 anyway
    scales_n = (halves_n.astype(np.uint32) << np.uint32(16)).view(np.float32)
    inverse_n = np.divide(1, scales_n, out=np.zeros_like(scales_n), where=scales_n > 0)
    int8_nW = np.rint(rows_nW * inverse_n[:, None]).clip(-127, 127).astype(np.int8)
    return np.concatenate([int8_nW.view(np.uint8), halves_n[:, None].view(np.uint8)], axis=1)


def dequantised(records_n: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The rows of `quantised` records, n × W: what the compiled look-up reads."""
    rows_nW = np.empty((len(records_n), records_n.shape[1] - _SCALE_BYTES), np.float32)
    for n in range(len(records_n)):
        _copy_int8(records_n, n, rows_nW, n, 0)
    return rows_nW


@final
class RowMap:
    """The rows of a named table, mapped; any number of threads may read.

    Args:
        folder: Where the files stand.
        stem: Of the files.
        spec: Of the named table.
        width: W.

    Raises:
        BundleError: A file is missing, cut off, of another version, or of another table.
    """

    def __init__(self, folder: Path, stem: str, spec: TableSpec, width: int) -> None:
        self.spec = spec
        self.index = IdIndex.open(folder / (stem + _INDEX))
        has_zeros = (folder / (stem + _ZEROS)).exists()
        self._zeros = IdIndex.open(folder / (stem + _ZEROS)) if has_zeros else None
        self._own_2W, self._records = _mapped(folder / (stem + _ROWS), len(self.index), width)
        zeros = self.index if self._zeros is None else self._zeros
        of_one_type = np.promote_types(self.index.starts.dtype, zeros.starts.dtype)
        self._starts = [of.starts.astype(of_one_type, copy=False) for of in (self.index, zeros)]
        limit = spec.size if spec.num_ids is not None else 2**63 - 1
        self._known_places = self._few_places(spec.size if spec.hashed else limit)
        salt = np.uint64(name_salt(spec.name)).view(np.int64)
        self.descriptor = np.array(
            [
                *_described(self.index, self._starts[0]), *_described(zeros, self._starts[1]), has_zeros,
                salt, spec.size if spec.hashed else 0, limit,
                self._own_2W.ctypes.data, self._records.ctypes.data, self._records.shape[1], width,
                self._known_places.ctypes.data, len(self._known_places),
            ],
            dtype=np.int64,
        )  # fmt: skip
        """Addresses and sizes, as `read_column` takes them; good for as long as this object lives."""

    def _few_places(self, num_keys: int) -> NDArray[np.int32]:
        """Where the rows of all keys of a small table stand, -3 where they are zero; nothing of a larger one."""
        keys_n = np.arange(num_keys if num_keys <= _FEW else 0)
        places_n = self.index.places(keys_n)
        if self._zeros is not None:
            places_n[(places_n < 0) & (self._zeros.places(keys_n) >= 0)] = -3
        return places_n.astype(np.int32)

    @property
    def num_bytes(self) -> int:
        """Of records and indexes."""
        zeros = 0 if self._zeros is None else self._zeros.num_bytes
        return self._records.nbytes + self._own_2W.nbytes + self.index.num_bytes + zeros


def _described(index: IdIndex, starts: NDArray[Any]) -> tuple[int, ...]:
    return starts.ctypes.data, len(starts), starts.itemsize, index.keys_n.ctypes.data, len(index), int(index.shift)


def _mapped(path: Path, num_rows: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    try:
        content = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    except (OSError, ValueError) as error:
        raise BundleError(f"the rows {path} cannot be read", found=str(error), do=_WRITE_AGAIN) from None
    head = bytes(content[: _HEAD.size])
    if len(head) < _HEAD.size or head[:8] != _MAGIC:
        raise BundleError(f"{path} is no file of rows", found=repr(head[:8]), allowed=_MAGIC, do=_WRITE_AGAIN)
    _, version, found_rows, found_width, record = _HEAD.unpack(head)
    if version != _VERSION:
        raise BundleError(
            f"the rows {path} have a format that is not known here", found=version, allowed=_VERSION,
            do="read them with the rankwell that wrote them",
        )  # fmt: skip
    start = _HEAD.size + 8 * width
    expected = (num_rows, width, start + num_rows * record)
    if (found_rows, found_width, len(content)) != expected or record not in (4 * width, width + _SCALE_BYTES):
        raise BundleError(
            f"the rows {path} are cut off, damaged, or of another table",
            found=f"{found_rows} rows of width {found_width} in {len(content)} bytes",
            allowed="{} rows of width {} in {} bytes".format(*expected), do=_WRITE_AGAIN,
        )  # fmt: skip
    own_2W = content[_HEAD.size : start].view(np.float32).reshape(2, width)
    return own_2W, content[start:].reshape(num_rows, record)


@numba.njit(cache=True, nogil=True)
def _copy_int8(records, place, block_nFW, n, at):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    width = records.shape[1] - 2
    half = np.uint16(records[place, width]) | np.uint16(records[place, width + 1]) << 8
    scale = _POWERS[half >> 7] * np.float32(128 + (half & 127))
    for w in range(width):
        block_nFW[n, at + w] = np.float32(np.int8(records[place, w])) * scale


@intrinsic
def pointer_of(context, address):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """An address as a pointer, for `numba.carray`."""
    del context

    def code(_, builder, signature, arguments):  # type: ignore[no-untyped-def]
        del signature
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return numba.types.voidptr(address), code


@numba.njit(cache=True, inline="always")
def _places(descriptor, starts, zero_starts, ids_n, places_n):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Where the rows of ids stand; -1, -2 and -3: they read the default row, the missing row, zeros."""
    has_zeros, salt, size, limit = descriptor[12], np.uint64(descriptor[13]), np.uint64(descriptor[14]), descriptor[15]
    keys_n, shift = numba.carray(pointer_of(descriptor[3]), (descriptor[4],), np.int64), np.uint64(descriptor[5])
    zero_keys_n = numba.carray(pointer_of(descriptor[9]), (descriptor[10],), np.int64)
    zero_shift = np.uint64(descriptor[11])
    known = numba.carray(pointer_of(descriptor[20]), (descriptor[21],), np.int32)
    are_ids = True
    for n in range(len(ids_n)):
        key = ids_n[n]
        if not 0 <= key < limit:
            are_ids &= key >= -1
            places_n[n] = -2 if key == -1 else -1
            continue
        if size:
            key = np.int64(mix64(np.uint64(key) ^ salt) % size)
        if len(known):
            places_n[n] = known[key]
            continue
        place = place_of(key, starts, keys_n, shift)
        if place < 0 and has_zeros and place_of(key, zero_starts, zero_keys_n, zero_shift) >= 0:
            place = np.int64(-3)
        places_n[n] = place
    return are_ids


@numba.njit(cache=True, nogil=True)
def read_column(descriptor, ids_n, block_nFW, at, places_n):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Copy the row of each id into a block, for other compiled loops; whether all ids are ids, or missing.

    Places first, then rows: misses of the index do not wait for those of the rows, and a processor has many underway.

    Args:
        descriptor: `RowMap.descriptor` of the table.
        ids_n: int64.
        block_nFW: Written from column `at` on.
        at: Of the block.
        places_n: Room for n numbers.
    """
    if descriptor[2] == 4:
        starts = numba.carray(pointer_of(descriptor[0]), (descriptor[1],), np.uint32)
        zero_starts = numba.carray(pointer_of(descriptor[6]), (descriptor[7],), np.uint32)
        are_ids = _places(descriptor, starts, zero_starts, ids_n, places_n)
    else:
        long_starts = numba.carray(pointer_of(descriptor[0]), (descriptor[1],), np.uint64)
        long_zero_starts = numba.carray(pointer_of(descriptor[6]), (descriptor[7],), np.uint64)
        are_ids = _places(descriptor, long_starts, long_zero_starts, ids_n, places_n)
    width = descriptor[19]
    own_2W = numba.carray(pointer_of(descriptor[16]), (2, width), np.float32)
    records = numba.carray(pointer_of(descriptor[17]), (descriptor[4], descriptor[18]), np.uint8)
    rows_nW = numba.carray(pointer_of(descriptor[17]), (descriptor[4], width), np.float32)
    is_int8 = descriptor[18] != 4 * width
    for n in range(len(ids_n)):
        place = places_n[n]
        if place >= 0:
            if is_int8:
                _copy_int8(records, place, block_nFW, n, at)
            else:
                for w in range(width):
                    block_nFW[n, at + w] = rows_nW[place, w]
        elif place == -3:
            for w in range(width):
                block_nFW[n, at + w] = 0.0
        else:
            for w in range(width):
                block_nFW[n, at + w] = own_2W[-1 - place, w]
    return are_ids
