"""Logits sorted together with their labels, as one number each where that loses nothing.

Letters in names: C candidates, flat over the sample.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from rankwell.calibration.radix_sort import sorted_with

__all__ = ["sorted_labels"]

_Floats = NDArray[np.float64]


def sorted_labels(logits_C: _Floats, labels_C: _Floats, weights_C: _Floats) -> tuple[_Floats, _Floats]:
    """The logits ascending, and each row's weight, negative where its label is 0; equal logits stand in any order.

    A logit that once was float32 has 29 low bits of zeros, and where all weights are equal a row is told by its logit
    and its label. So the label is put into the lowest bit, which leaves the order of different logits as it is, and
    NumPy sorts one column several times faster than anything that has to move a second one along. Any other rows are
    sorted by `rankwell.calibration.radix_sort`.

    Args:
        logits_C: Not NaN.
        labels_C: 0 or 1.
        weights_C: Above 0.

    >>> logits_C, signed_C = sorted_labels(np.array([2.0, -1.0, 0.5]), np.array([1.0, 0.0, 1.0]), np.full(3, 4.0))
    >>> logits_C.tolist(), signed_C.tolist()
    ([-1.0, 0.5, 2.0], [-4.0, 4.0, 4.0])
    """
    bits_C = np.empty(len(logits_C), np.int64)
    if _is_packed(np.ascontiguousarray(logits_C).view(np.int64), labels_C, weights_C, bits_C):
        bits_C.view(np.float64).sort()
        signed_C: _Floats = _unpacked(bits_C, weights_C[0])
        return bits_C.view(np.float64), signed_C
    return sorted_with(logits_C, np.where(labels_C == 1.0, weights_C, -weights_C))


@numba.njit(cache=True, nogil=True)
def _is_packed(logit_bits_C, labels_C, weights_C, bits_C):  # type: ignore[no-untyped-def]
    """Whether each row fits into the bits of one float64: those of its logit, and in the lowest one its label."""
    for row in range(len(logit_bits_C)):
        if logit_bits_C[row] & 1 or weights_C[row] != weights_C[0]:
            return False
        bits_C[row] = logit_bits_C[row] | np.int64(labels_C[row] == 1.0)
    return True


@numba.njit(cache=True, nogil=True)
def _unpacked(bits_C, weight):  # type: ignore[no-untyped-def]
    signed_C = np.empty(len(bits_C))
    for row in range(len(bits_C)):
        signed_C[row] = weight if bits_C[row] & 1 else -weight
        bits_C[row] &= ~np.int64(1)
    return signed_C
