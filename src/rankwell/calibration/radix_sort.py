"""Rows sorted by a float64 number: a radix sort, several times faster than sorting an order and gathering by it.

Letters in names: C candidates, flat over the sample.
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["sorted_with"]

_DIGIT_BITS: Final = 11
_NUM_DIGITS: Final = 6
_SIGN: Final = np.uint64(1 << 63)
_LOWEST_DIGIT: Final = np.uint64((1 << _DIGIT_BITS) - 1)

_Floats = NDArray[np.float64]


def sorted_with(numbers_C: _Floats, companions_C: _Floats) -> tuple[_Floats, _Floats]:
    """The numbers ascending, and the companions moved with them; of equal numbers the earlier one comes first.

    A float64 whose bits are read as an integer, all flipped where negative and the sign alone where not, compares like
    the number. These keys are sorted digit by digit from the lowest, and carry their companions along, so that nothing
    is gathered from memory at random. A digit that all keys share needs no pass: numbers that once were float32 have 29
    low bits of zeros and take four passes instead of six.

    Args:
        numbers_C: Not NaN.
        companions_C: Of the same length.

    >>> numbers_C, companions_C = sorted_with(np.array([2.0, -1.0, 0.5, -1.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    >>> numbers_C.tolist(), companions_C.tolist()
    ([-1.0, -1.0, 0.5, 2.0], [2.0, 4.0, 3.0, 1.0])
    """
    keys_C, companions_C = _sorted_by_digits(np.ascontiguousarray(numbers_C).view(np.uint64), companions_C)
    return keys_C.view(np.float64), companions_C


@numba.njit(cache=True, nogil=True)
def _sorted_by_digits(bits_C, companions_C):  # type: ignore[no-untyped-def]
    num = len(bits_C)
    counts = np.zeros((_NUM_DIGITS, 1 << _DIGIT_BITS), np.int64)
    keys_C = np.empty(num, np.uint64)
    for row in range(num):
        key = bits_C[row]
        key = ~key if key & _SIGN else key | _SIGN
        keys_C[row] = key
        for digit in range(_NUM_DIGITS):
            counts[digit, key & _LOWEST_DIGIT] += 1
            key >>= np.uint64(_DIGIT_BITS)
    carried_C = companions_C.copy()
    next_keys_C, next_carried_C = np.empty_like(keys_C), np.empty_like(carried_C)
    for digit in range(_NUM_DIGITS):
        place = counts[digit]
        if place.max() == num:
            continue
        total = 0
        for value in range(len(place)):
            count = place[value]
            place[value] = total
            total += count
        shift = np.uint64(_DIGIT_BITS * digit)
        for row in range(num):
            key = keys_C[row]
            value = (key >> shift) & _LOWEST_DIGIT
            next_keys_C[place[value]] = key
            next_carried_C[place[value]] = carried_C[row]
            place[value] += 1
        keys_C, next_keys_C = next_keys_C, keys_C
        carried_C, next_carried_C = next_carried_C, carried_C
    for row in range(num):
        key = keys_C[row]
        keys_C[row] = key & ~_SIGN if key & _SIGN else ~key
    return keys_C, carried_C
