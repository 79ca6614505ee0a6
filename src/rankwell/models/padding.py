"""Lists of unequal length as one padded block, and back: what attention needs, and no contract between rooms has.

Letters: n entries, flat over the lists · B lists · L places of the longest list · D width.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

__all__ = ["Padding"]


@final
class Padding:
    """Where the entries of B lists stand in a block of B × L places, from the left, with places left free at the head.

    Args:
        offsets: int64 of B + 1; list b's entries are ``offsets[b]:offsets[b + 1]``.
        num_free: Places at the head of every list that `pad` leaves at 0, for a null event.

    >>> padding = Padding(torch.tensor([0, 2, 3]))
    >>> padding.pad(torch.tensor([[1.0], [2.0], [3.0]])).squeeze(2)
    tensor([[1., 2.],
            [3., 0.]])
    >>> padding.valid_BL
    tensor([[ True,  True],
            [ True, False]])
    """

    def __init__(self, offsets: Tensor, *, num_free: int = 0) -> None:
        self.lengths_B = offsets[1:] - offsets[:-1]
        num_lists, self.num_free = len(self.lengths_B), num_free
        longest = int(self.lengths_B.max()) if num_lists else 0
        self.shape = (num_lists, max(longest + num_free, 1))
        shift_B = torch.arange(num_lists) * self.shape[1] + num_free - offsets[:-1]
        self._place_n = torch.arange(int(offsets[-1])) + shift_B.repeat_interleave(self.lengths_B)

    @property
    def valid_BL(self) -> Tensor:
        """Bool, where an entry or a free place stands; a list's first place always, so that a softmax is defined."""
        return torch.arange(self.shape[1]) < (self.lengths_B + self.num_free).clamp(min=1).unsqueeze(1)

    @property
    def recency_BL(self) -> Tensor:
        """int64, 0 for a list's last entry and 1 for the one before; places after the last count as 0."""
        return (self.lengths_B.unsqueeze(1) + self.num_free - 1 - torch.arange(self.shape[1])).clamp(min=0)

    def pad(self, x_nD: Tensor) -> Tensor:
        """B × L × D, 0 where nothing stands."""
        flat = x_nD.new_zeros(self.shape[0] * self.shape[1], x_nD.shape[1])
        return flat.index_copy(0, self._place_n, x_nD).view(*self.shape, x_nD.shape[1])

    def unpad(self, x_BLD: Tensor) -> Tensor:
        """n × D, what `pad` would have padded."""
        return x_BLD.reshape(self.shape[0] * self.shape[1], x_BLD.shape[2])[self._place_n]

    def last(self, x_BLD: Tensor) -> Tensor:
        """B × D, at each list's last entry; at the first place where a list is empty and no place is free."""
        return x_BLD[torch.arange(self.shape[0]), (self.lengths_B + self.num_free - 1).clamp(min=0)]
