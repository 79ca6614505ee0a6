"""Looking things up by owner and time, without a Python step a row.

Letters: E events · S sorted entries that are looked into.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Int64s", "num_up_to", "places", "ranges"]

Int64s = NDArray[np.int64]


def places(values: Int64s, distinct: Int64s) -> Int64s:
    """Where each value stands in the ascending `distinct`, or -1.

    >>> places(np.array([5, 6, 9]), np.array([5, 9])).tolist()
    [0, -1, 1]
    """
    if len(distinct) == 0:
        return np.full(len(values), -1)
    place = np.minimum(np.searchsorted(distinct, values), len(distinct) - 1)
    return np.where(distinct[place] == values, place, -1)


def ranges(starts: Int64s, stops: Int64s) -> Int64s:
    """The numbers of each range, one range after the other.

    >>> ranges(np.array([5, 0]), np.array([7, 1])).tolist()
    [5, 6, 0]
    """
    lengths = stops - starts
    before = np.cumsum(lengths) - lengths
    numbers: Int64s = np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
    return numbers


def num_up_to(owners_S: Int64s, times_S: Int64s, owners_E: Int64s, times_E: Int64s, *, equal: bool) -> Int64s:
    """How many sorted entries stand before each (owner, time), in the order of owners, then times.

    So with ``equal`` the entry before that place, if it is of the same owner, is the owner's last one at or before the
    time; without, its last one strictly before it.

    Args:
        owners_S, times_S: Ascending by owner (0 or more), then by time.
        owners_E, times_E: What is looked up; owners 0 or more.
        equal: Whether entries of the same owner and time are counted.

    >>> num_up_to(np.array([1, 1, 2]), np.array([10, 20, 15]), np.array([1, 1, 2]), np.array([20, 9, 99]),
    ...           equal=True).tolist()
    [2, 0, 3]
    """
    # Times become ranks, so that owner and rank fit into one int64 whatever the times are.
    distinct = np.unique(times_S)
    width = len(distinct) + 1
    keys_S = owners_S * width + np.searchsorted(distinct, times_S, side="right")
    # A time counts as the rank of the last entry's time that is ≤ it (or < it).
    keys_E = owners_E * width + np.searchsorted(distinct, times_E, side="right" if equal else "left")
    return np.searchsorted(keys_S, keys_E, side="right")
