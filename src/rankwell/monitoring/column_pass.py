"""One read over a column gives all that a pane keeps of it: counts by bin, what is missing, and two sums.

Letters in names: C rows · G groups of rows that stand one after the other · E edges · B bins, E + 1 and one for
missing.
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["category_counts", "numeric_counts"]

_BLOCK: Final = 2048
"""Rows that are looked at for one edge after the other while they are in the nearest cache; float32 counts so many."""
# Sums may be taken in any order, as vectors need it; NaN and infinity keep their meaning.
_ANY_ORDER: Final = {"reassoc", "contract", "nsz"}

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


def numeric_counts(
    values_C: NDArray[np.floating], bounds_G: _Ints, edges_E: NDArray[np.floating], origin: float
) -> tuple[_Ints, _Floats]:
    """Counts by bin, and Σ (v − origin) and Σ (v − origin)², of each group.

    Bin k holds edge k−1 ≤ v < edge k. What is not finite is missing.

    Args:
        values_C: float32 or float64, contiguous; the rows of a group stand one after the other.
        bounds_G: int64, where each group begins, and the end of the last.
        edges_E: Ascending, of the type of the values.
        origin: A number near the values' mean: what is summed stays small, so that variances don't cancel.

    Returns:
        Counts, G × B, and sums, G × 2.

    >>> values_C = np.array([1, 2, 3, np.nan, np.inf], np.float32)
    >>> counts_GB, sums_G2 = numeric_counts(values_C, np.array([0, 2, 5]), np.array([2], np.float32), 2.0)
    >>> counts_GB.tolist(), sums_G2.tolist()
    ([[1, 1, 0], [0, 1, 2]], [[-1.0, 1.0], [1.0, 1.0]])
    """
    counts_GB = np.zeros((len(bounds_G) - 1, len(edges_E) + 2), np.int64)
    sums_G2 = np.zeros((len(bounds_G) - 1, 2))
    _numeric(values_C, bounds_G, edges_E, origin, counts_GB, sums_G2)
    return counts_GB, sums_G2


def category_counts(ids_C: _Ints, bounds_G: _Ints, top_T: _Ints, known_V: _Ints) -> _Ints:
    """Counts of each top value, of other known ones, of those never seen, and of missing ones, of each group.

    Args:
        ids_C: Ids, −1 where missing; the rows of a group stand one after the other.
        bounds_G: int64, where each group begins, and the end of the last.
        top_T: The values that are counted one by one, in the order of their bins.
        known_V: All values of the reference, ascending.

    >>> rows_C, top_T, known_V = np.array([7, 7, 5, 6, -1]), np.array([7]), np.array([5, 7])
    >>> category_counts(rows_C, np.array([0, 5]), top_T, known_V).tolist()
    [[2, 1, 1, 1]]
    """
    num_groups, num_bins = len(bounds_G) - 1, len(top_T) + 3
    bin_V = np.full(len(known_V) + 1, len(top_T))
    bin_V[np.searchsorted(known_V, top_T)] = np.arange(len(top_T))
    place_C = np.searchsorted(known_V, ids_C)
    bin_C = bin_V[place_C]
    is_known_C = np.zeros(len(ids_C), np.bool_)
    if len(known_V):
        is_known_C = known_V[np.minimum(place_C, len(known_V) - 1)] == ids_C
    bin_C[~is_known_C] = len(top_T) + 1
    bin_C[ids_C < 0] = len(top_T) + 2
    group_C = np.repeat(np.arange(num_groups), np.diff(bounds_G))
    counts = np.bincount(group_C * num_bins + bin_C, minlength=num_groups * num_bins)
    return counts.reshape(num_groups, num_bins)


@numba.njit(cache=True, nogil=True, fastmath=_ANY_ORDER)
def _numeric(values_C, bounds_G, edges_E, origin, counts_GB, sums_G2):  # type: ignore[no-untyped-def]
    num_edges = len(edges_E)
    # Counted in the type of the values, so that as many rows are compared at once as a register holds.
    zero, one, infinity = values_C.dtype.type(0), values_C.dtype.type(1), values_C.dtype.type(np.inf)
    reached_E = np.zeros(num_edges, np.int64)
    for group in range(len(bounds_G) - 1):
        reached_E[:] = 0
        first, last = bounds_G[group], bounds_G[group + 1]
        num_finite, num_above, total, squares = 0, 0, 0.0, 0.0
        for start in range(first, last, _BLOCK):
            block = values_C[start : min(start + _BLOCK, last)]
            block_total, block_squares = 0.0, 0.0
            for row in range(len(block)):
                step = np.float64(block[row]) - origin
                block_total += step
                block_squares += step * step
            if block_squares < np.inf:  # then every value is finite, and none has to be looked at for that
                num_finite += len(block)
            else:
                block_total, block_squares = 0.0, 0.0
                for row in range(len(block)):
                    value = block[row]
                    if abs(value) < infinity:
                        step = np.float64(value) - origin
                        block_total += step
                        block_squares += step * step
                        num_finite += 1
                    elif value == infinity:
                        num_above += 1
            total += block_total
            squares += block_squares
            edge = 0
            while edge + 4 <= num_edges:
                e_0, e_1, e_2, e_3 = edges_E[edge], edges_E[edge + 1], edges_E[edge + 2], edges_E[edge + 3]
                n_0, n_1, n_2, n_3 = zero, zero, zero, zero
                for row in range(len(block)):
                    value = block[row]
                    n_0 += one if value >= e_0 else zero
                    n_1 += one if value >= e_1 else zero
                    n_2 += one if value >= e_2 else zero
                    n_3 += one if value >= e_3 else zero
                reached_E[edge] += int(n_0)
                reached_E[edge + 1] += int(n_1)
                reached_E[edge + 2] += int(n_2)
                reached_E[edge + 3] += int(n_3)
                edge += 4
            while edge < num_edges:
                e_0, n_0 = edges_E[edge], zero
                for row in range(len(block)):
                    n_0 += one if block[row] >= e_0 else zero
                reached_E[edge] += int(n_0)
                edge += 1
        above_bin = num_finite
        for edge in range(num_edges):
            reached = reached_E[edge] - num_above  # infinity reaches every edge, and is missing
            counts_GB[group, edge] = above_bin - reached
            above_bin = reached
        counts_GB[group, num_edges] = above_bin
        counts_GB[group, num_edges + 1] = last - first - num_finite
        sums_G2[group, 0], sums_G2[group, 1] = total, squares
