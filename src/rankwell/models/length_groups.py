"""Lists of unequal length, taken apart into the short and the long, so that few places are padded.

Letters: n entries, flat over the lists · B lists.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

__all__ = ["entries_of", "length_groups"]

_LEAST_SAVING: Final = 0.2
_PLACES_OF_A_PASS: Final = 256
"""About as many places of width 64 take as long as the calls of one more pass through two layers."""


def length_groups(offsets: Tensor) -> tuple[Tensor, ...]:
    """Which lists to pad together: the short and the long apart, and each of them likewise, wherever that saves enough.

    The k shortest and the rest are padded to the longest of each, which takes k·l_k + (B - k)·l_B places for lengths
    l_1 ≤ … ≤ l_B. They are cut at the k with the fewest, unless that saves less than a fifth of the places, or less
    than what a pass of its own costs.

    Args:
        offsets: int64 of B + 1.

    Returns:
        int64, the lists of each group; each list in one of them, none of them empty but where there is no list at all.

    >>> length_groups(torch.tensor([0, 1, 401, 403, 404]))  # 3 · 2 + 400 places, and not 4 · 400
    (tensor([0, 3, 2]), tensor([1]))
    >>> length_groups(torch.tensor([0, 90, 190, 300]))
    (tensor([0, 1, 2]),)
    """
    sorted_B, order_B = offsets.diff().sort(stable=True)
    return tuple(torch.split(order_B, _sizes(sorted_B))) if len(order_B) else (order_B,)


def _sizes(sorted_B: Tensor) -> list[int]:
    num_lists, longest = len(sorted_B), sorted_B[-1]
    num_short = torch.arange(1, num_lists)
    places = num_short * sorted_B[:-1] + (num_lists - num_short) * longest
    if not len(places):
        return [num_lists]
    cut = int(places.argmin())
    saved = num_lists * longest - places[cut]
    if saved < _LEAST_SAVING * num_lists * longest or saved < _PLACES_OF_A_PASS:
        return [num_lists]
    return _sizes(sorted_B[: cut + 1]) + _sizes(sorted_B[cut + 1 :])


def entries_of(offsets: Tensor, chosen_b: Tensor) -> tuple[Tensor, Tensor]:
    """Where the entries of some lists stand, list after list, and the offsets of these lists alone.

    Args:
        offsets: int64 of B + 1.
        chosen_b: int64, any of the lists, in any order.

    >>> entries_of(torch.tensor([0, 2, 2, 5]), torch.tensor([2, 0]))
    (tensor([2, 3, 4, 0, 1]), tensor([0, 3, 5]))
    """
    lengths_b = offsets.diff()[chosen_b]
    ends_b = lengths_b.cumsum(0)
    shift_b = offsets[chosen_b] - (ends_b - lengths_b)
    num_entries = int(ends_b[-1]) if len(ends_b) else 0
    entries_n = torch.arange(num_entries) + shift_b.repeat_interleave(lengths_b)
    return entries_n, torch.cat([ends_b.new_zeros(1), ends_b])
