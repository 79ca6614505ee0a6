"""A file that says where the values of an id stand: written once, mapped into memory by every process that looks up.

::

    head      64 bytes: magic, format version, number of ids n, bits b of a bucket's number, zeros
    starts    uint32 (uint64 from 2^32 ids on) of 2^b + 1: bucket i is places starts[i] … starts[i + 1] - 1
    keys      int64 of n, 8-byte aligned: the ids, bucket by bucket

The bucket of an id is the first b bits of its mixed bits, and a bucket holds about two ids, so a look-up reads one pair
of starts and a cache line of keys. What belongs to an id, be it a row of a table or a feature of a member, stands in
other files in the same order.

Letters: n ids.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import IO, Any, Final, final

import numba
import numpy as np
from numpy.typing import NDArray

from rankwell.errors import BundleError
from rankwell.tables.hashing import mix64, mix64_each

__all__ = ["IdIndex", "place_of", "write_id_index"]

_MAGIC: Final = b"rwidx\0\0\0"
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<8sQQQ32x")
_IDS_OF_A_BUCKET: Final = 2
_SALT: Final = np.uint64(0x9E3779B97F4A7C15)
_WRITE_AGAIN: Final = "write it again, or copy it again from where it was written"


def write_id_index(ids_n: NDArray[np.int64], file: IO[bytes] | io.RawIOBase) -> NDArray[np.int64]:
    """Write the index of distinct ids.

    Args:
        ids_n: int64, any but equal ones.
        file: Open for writing, at its beginning.

    Returns:
        int64 of n: the id at place i is ``ids_n[order_n[i]]``, so values written in this order are found by place.

    Raises:
        BundleError: An id stands twice.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path, ids = Path(folder) / "members.index", np.array([70, 30, 50])
    ...     with path.open("wb") as file:
    ...         order = write_id_index(ids, file)
    ...     places = IdIndex.open(path).places(np.array([50, 99, 70]))
    >>> ids[order][places[[0, 2]]].tolist(), int(places[1])
    ([50, 70], -1)
    """
    num_ids = len(ids_n)
    bits = max(1, int(np.ceil(np.log2(max(num_ids, 1) / _IDS_OF_A_BUCKET)))) if num_ids > _IDS_OF_A_BUCKET else 1
    mixed_n = mix64_each(ids_n.astype(np.int64).view(np.uint64) ^ _SALT)
    order_n = np.argsort(mixed_n, kind="stable")
    mixed_n = mixed_n[order_n]
    is_twice = mixed_n[1:] == mixed_n[:-1]  # mixing is a bijection: equal bits are equal ids
    if is_twice.any():
        raise BundleError(
            "an id stands twice, so it has no one place", found=int(ids_n[order_n[int(is_twice.argmax())]]),
            allowed="each id once", do="keep one entry of each id",
        )  # fmt: skip
    bounds = np.arange(2**bits, dtype=np.uint64) << np.uint64(64 - bits)
    starts = np.append(np.searchsorted(mixed_n, bounds), num_ids)
    file.write(_HEAD.pack(_MAGIC, _VERSION, num_ids, bits))
    start_bytes = starts.astype(_start_type(num_ids)).tobytes()
    file.write(start_bytes + bytes(-len(start_bytes) % 8))
    file.write(np.ascontiguousarray(ids_n[order_n], dtype=np.int64).tobytes())
    return order_n


@final
class IdIndex:
    """Places of ids, read from a file that stays mapped; any number of threads and processes may ask at once.

    Args:
        starts: First places of the buckets, and n.
        keys_n: The ids, in the order of their places.
        bits: b.
    """

    def __init__(self, starts: NDArray[Any], keys_n: NDArray[np.int64], bits: int) -> None:
        self.starts, self.keys_n, self.shift = starts, keys_n, np.uint64(64 - bits)

    @classmethod
    def open(cls, path: Path) -> IdIndex:
        """Map a file that `write_id_index` wrote.

        Raises:
            BundleError: It is no such file, is cut off, or is of another version.
        """
        try:
            content = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise BundleError(f"the index {path} cannot be read", found=str(error), do=_WRITE_AGAIN) from None
        head = bytes(content[: _HEAD.size])
        if len(head) < _HEAD.size or head[:8] != _MAGIC:
            raise BundleError(f"{path} is no index of ids", found=repr(head[:8]), allowed=_MAGIC, do=_WRITE_AGAIN)
        _, version, num_ids, bits = _HEAD.unpack(head)
        if version != _VERSION:
            raise BundleError(
                f"the index {path} has a format that is not known here", found=version, allowed=_VERSION,
                do="read it with the rankwell that wrote it",
            )  # fmt: skip
        type_ = _start_type(num_ids)
        num_bytes = (2**bits + 1) * type_().itemsize
        keys_at = _HEAD.size + num_bytes + (-num_bytes % 8)
        if not 1 <= bits <= 60 or len(content) != keys_at + 8 * num_ids:
            raise BundleError(
                f"the index {path} is cut off or damaged", found=f"{len(content)} bytes",
                allowed=f"{keys_at + 8 * num_ids} bytes", do=_WRITE_AGAIN,
            )  # fmt: skip
        starts = content[_HEAD.size : _HEAD.size + num_bytes].view(type_)
        return cls(starts.view(np.ndarray), content[keys_at:].view(np.int64).view(np.ndarray), bits)

    def __len__(self) -> int:
        return len(self.keys_n)

    @property
    def num_bytes(self) -> int:
        """Of starts and keys."""
        return int(self.starts.nbytes + self.keys_n.nbytes)

    def places(self, ids_n: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 of n: where each id stands, -1 where it is not among them."""
        places_n = np.empty(len(ids_n), np.int64)
        _find(np.ascontiguousarray(ids_n, dtype=np.int64), self.starts, self.keys_n, self.shift, places_n)
        return places_n


@numba.njit(cache=True, inline="always")
def place_of(key, starts, keys_n, shift):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Where one id stands, or -1: for other compiled loops, with the arrays of an `IdIndex`."""
    bucket = mix64(np.uint64(key) ^ _SALT) >> shift
    for place in range(np.int64(starts[bucket]), np.int64(starts[bucket + np.uint64(1)])):
        if keys_n[place] == key:
            return place
    return np.int64(-1)


@numba.njit(cache=True, nogil=True)
def _find(ids_n, starts, keys_n, shift, places_n):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for i in range(len(ids_n)):
        places_n[i] = place_of(ids_n[i], starts, keys_n, shift)


def _start_type(num_ids: int) -> type[np.unsignedinteger[Any]]:
    return np.uint32 if num_ids < 2**32 else np.uint64
