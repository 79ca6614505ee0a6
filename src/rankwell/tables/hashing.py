"""Ids to 64-bit keys and to rows.

All arithmetic is modulo 2^64; ids stay int64 and never pass through a float.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.types import MISSING_ID

__all__ = ["cross_ids", "fold_in", "mix64", "mix64_each", "name_salt", "stochastic_bfloat16", "uniform_rows"]

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)
_TO_UNIT: Final = 2.0**-53


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def mix64(x: np.uint64) -> np.uint64:  # pragma: no cover - compiled
    """SplitMix64's finaliser: a bijection of 64 bits in which each input bit moves each output bit half the time.

    Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", with Stafford's variant 13.

    Args:
        x: uint64.

    >>> bool(mix64.py_func(np.uint64(0)) == 0)
    True
    """
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


def mix64_each(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """`mix64` of each element.

    >>> bool(mix64_each(np.array([5], dtype=np.uint64))[0] == mix64.py_func(np.array([5], dtype=np.uint64))[0])
    True
    """
    mixed: NDArray[np.uint64] = mix64.py_func(x)  # of arrays, NumPy's arithmetic wraps around silently
    return mixed


def name_salt(name: str) -> int:
    """A 64-bit salt from a name, the same on every machine: two tables hash one id to unrelated rows.

    >>> name_salt("job") != name_salt("member")
    True
    """
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def cross_ids(columns: list[Tensor]) -> Tensor:
    """One id per entry for the conjunction of several id columns; the order of the columns matters.

    Args:
        columns: int64 columns of equal length, or of length 1, which counts for every entry; `MISSING_ID` counts as a
            value of its own.

    Returns:
        int64 in [0, 2^63), as many as the longest column has; none where one is empty.

    >>> a, b = torch.tensor([1, 1, 2]), torch.tensor([5, 6, 5])
    >>> crossed = cross_ids([a, b])
    >>> len(set(crossed.tolist())), bool((cross_ids([b, a]) == crossed).any())
    (3, False)
    >>> bool((cross_ids([a[:1], b]) == cross_ids([a[:1].expand(3), b])).all())
    True
    """
    lengths = {column.shape[0] for column in columns} - {1}
    crossed = np.zeros(lengths.pop() if lengths else 1, dtype=np.uint64)
    for column in columns:
        fold_in(crossed, column.contiguous().numpy())
    return torch.from_numpy(crossed.view(np.int64)) & 0x7FFF_FFFF_FFFF_FFFF


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def fold_in(crossed: NDArray[np.uint64], ids: NDArray[np.int64]) -> None:  # pragma: no cover - compiled
    """A further column of a cross, for other compiled loops. Zeros come before the first."""
    one_for_all = len(ids) == 1
    for i in range(len(crossed)):
        crossed[i] = mix64((crossed[i] + _GOLDEN) ^ mix64(np.uint64(ids[0 if one_for_all else i]) + _GOLDEN))


def uniform_rows(rows_UW: Tensor, keys_U: NDArray[np.uint64], *, seed: int, scale: float) -> None:
    """Fill rows in place with uniform numbers in [-scale, scale) that depend on (seed, key, column) alone.

    Args:
        rows_UW: float32, contiguous.
        keys_U: What stands for each row.
        seed: 64 bits.
        scale: Half the width of the range.

    >>> rows = torch.empty(2, 2); uniform_rows(rows, np.array([7, 9], dtype=np.uint64), seed=1, scale=0.5)
    >>> other = torch.empty(1, 2); uniform_rows(other, np.array([9], dtype=np.uint64), seed=1, scale=0.5)
    >>> bool((rows[1:] == other).all()), float(rows.abs().max()) <= 0.5
    (True, True)
    """
    _fill_uniform(rows_UW.numpy(), keys_U, np.uint64(seed % 2**64), scale)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _fill_uniform(
    rows_UW: NDArray[np.float32], keys_U: NDArray[np.uint64], seed: np.uint64, scale: float
) -> None:  # pragma: no cover - compiled
    start = mix64(seed + _GOLDEN)
    for u in range(rows_UW.shape[0]):
        key = mix64(start ^ keys_U[u])
        for w in range(rows_UW.shape[1]):
            key += _GOLDEN
            unit = np.float64(mix64(key) >> np.uint64(11)) * _TO_UNIT
            rows_UW[u, w] = np.float32((2.0 * unit - 1.0) * scale)


def stochastic_bfloat16(rows_UW: Tensor, keys_U: NDArray[np.uint64]) -> Tensor:
    """Round rows to bfloat16, up with the probability of the part cut off, so that the mean is exact.

    Args:
        rows_UW: float32.
        keys_U: What the draws of each row depend on, besides the column.

    >>> stochastic_bfloat16(torch.full((1000, 4), 1.001), np.arange(1000, dtype=np.uint64)).float().mean()
    tensor(1.00...)
    """
    num_columns = rows_UW.shape[1]
    columns_W = np.arange(num_columns, dtype=np.uint64)
    draws_UW = mix64_each(keys_U[:, None] + _GOLDEN * (columns_W // np.uint64(4) + np.uint64(1)))
    draws_UW = draws_UW >> (columns_W % np.uint64(4) * np.uint64(16)) & np.uint64(0xFFFF)
    bits_UW = rows_UW.contiguous().numpy().view(np.uint32)
    is_finite_UW = (bits_UW & np.uint32(0x7F800000)) != np.uint32(0x7F800000)
    rounded_UW = bits_UW + np.where(is_finite_UW, draws_UW, 0).astype(np.uint32) >> np.uint32(16)
    return torch.from_numpy(rounded_UW.astype(np.uint16).view(np.int16)).view(torch.bfloat16)


assert MISSING_ID == -1  # cross_ids and the stores rely on it being negative
