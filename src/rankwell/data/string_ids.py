"""Strings become ids: 63 bits of a hash that is the same on every machine and in every year.

Letters: U unique values.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankwell.errors import LogError

__all__ = ["dictionary_of", "hash_strings", "is_stringlike", "take_ids"]

_ID_BITS: Final = np.uint64(2**63 - 1)


def is_stringlike(type_: pa.DataType) -> bool:
    """Whether `hash_strings` takes an array of this type: strings or bytes, plain, large, view or dictionary.

    >>> is_stringlike(pa.dictionary(pa.int32(), pa.string())), is_stringlike(pa.int64())
    (True, False)
    """
    if pa.types.is_dictionary(type_):
        return is_stringlike(type_.value_type)
    return bool(
        pa.types.is_string(type_)
        or pa.types.is_large_string(type_)
        or pa.types.is_string_view(type_)
        or pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
        or pa.types.is_binary_view(type_)
        or pa.types.is_fixed_size_binary(type_)
    )


def hash_strings(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The id of each string: the first 8 bytes of BLAKE2b over its UTF-8 bytes, little-endian, the top bit cleared.

    Each distinct value is hashed once, so the cost follows the vocabulary. Among n distinct strings some pair shares
    an id with probability ≈ n² / 2⁶⁴: 5 % at 10⁹. Bytes and the string they spell share an id; a float or an integer
    has none here (integers are ids already).

    Args:
        array: string, binary, their large, view and fixed-size forms, or a dictionary of one of them.

    Returns:
        int64 in [0, 2⁶³), null where `array` is null.

    Raises:
        LogError: The array holds something else.

    >>> hash_strings(pa.array(["job", None, "job"])).to_pylist()
    [2652386491717082798, None, 2652386491717082798]
    """
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), pa.int64())
    if not is_stringlike(array.type):
        raise LogError(
            "only strings and bytes can be hashed to ids",
            found=str(array.type),
            allowed="string, binary, or a dictionary of them",
            do="cast the column; integers are ids as they are",
        )
    codes, values = dictionary_of(array)
    digests = b"".join([blake2b(value, digest_size=8).digest() for value in values])
    return take_ids(digests, codes)


def dictionary_of(array: pa.Array | pa.ChunkedArray) -> tuple[pa.Array, list[bytes]]:
    """The array as codes (null where it is null) and the bytes of each distinct value that stands in it."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        # A slice of a long dictionary would otherwise pay for values that do not stand in it, and the dictionary
        # itself may hold nulls and repetitions.
        used = pc.dictionary_encode(array.indices)
        words = _as_bytes(array.dictionary).take(used.dictionary)
        again = words.dictionary_encode()
        return again.indices.take(used.indices), again.dictionary.to_pylist()
    encoded = _as_bytes(array).dictionary_encode()
    return encoded.indices, encoded.dictionary.to_pylist()


def take_ids(digests_U: bytes, codes: pa.Array) -> pa.Array:
    """The 63-bit id of each code, from 8 bytes of digest a unique value."""
    ids_U = (np.frombuffer(digests_U, dtype="<u8") & _ID_BITS).astype(np.int64)
    return pa.array(ids_U).take(codes)


def _as_bytes(array: pa.Array) -> pa.Array:
    if pa.types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    return array.cast(pa.large_binary())
