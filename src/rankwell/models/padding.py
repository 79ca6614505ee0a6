"""Lists of unequal length as one padded block, and back: what attention needs, and no contract between rooms has.

Letters: n entries, flat over the lists · B lists · L places of the longest list · D width.
"""

from __future__ import annotations

import abc
from typing import final

import torch
from torch import Tensor

__all__ = ["ManyLists", "OneList", "Padding", "padding_of"]


class Padding(abc.ABC):
    """Where the entries of B lists stand in a block of B × L places, from the left, with places left free at the head.

    Args:
        num_free: Places at the head of every list that `pad` leaves at 0, for a null event.
    """

    num_free: int

    @property
    @abc.abstractmethod
    def lengths_B(self) -> Tensor:
        """int64, the entries of each list; free places don't count."""

    @property
    @abc.abstractmethod
    def valid_BL(self) -> Tensor:
        """Bool, where an entry or a free place stands; a list's first place always, so that a softmax is defined."""

    @property
    @abc.abstractmethod
    def recency_BL(self) -> Tensor:
        """int64, 0 for a list's last entry and 1 for the one before; places after the last count as 0."""

    @abc.abstractmethod
    def pad(self, x_nD: Tensor) -> Tensor:
        """B × L × D, 0 where nothing stands."""

    @abc.abstractmethod
    def unpad(self, x_BLD: Tensor) -> Tensor:
        """n × D, what `pad` would have padded."""

    @abc.abstractmethod
    def last(self, x_BLD: Tensor) -> Tensor:
        """B × D, at each list's last entry; at the first place where a list is empty and no place is free."""


def padding_of(offsets: Tensor, num_entries: int, *, num_free: int = 0) -> Padding:
    """The padding of lists: of one list it moves nothing, and knows all from how many entries there are.

    Args:
        offsets: int64 of B + 1; list b's entries are ``offsets[b]:offsets[b + 1]``.
        num_entries: n. It is given, though the offsets end with it, so that a graph can be traced for any number.
        num_free: See `Padding`.

    >>> type(padding_of(torch.tensor([0, 3]), 3)).__name__
    'OneList'
    """
    return OneList(num_entries, num_free=num_free) if offsets.shape[0] == 2 else ManyLists(offsets, num_free=num_free)


@final
class ManyLists(Padding):
    """Any number of lists.

    Args:
        offsets: int64 of B + 1; list b's entries are ``offsets[b]:offsets[b + 1]``.
        num_free: See `Padding`.

    >>> padding = ManyLists(torch.tensor([0, 2, 3]))
    >>> padding.pad(torch.tensor([[1.0], [2.0], [3.0]])).squeeze(2)
    tensor([[1., 2.],
            [3., 0.]])
    >>> padding.valid_BL
    tensor([[ True,  True],
            [ True, False]])
    """

    def __init__(self, offsets: Tensor, *, num_free: int = 0) -> None:
        self._lengths_B = offsets[1:] - offsets[:-1]
        num_lists, self.num_free = len(self._lengths_B), num_free
        longest = int(self._lengths_B.max()) if num_lists else 0
        self._shape = (num_lists, max(longest + num_free, 1))
        shift_B = torch.arange(num_lists) * self._shape[1] + num_free - offsets[:-1]
        self._place_n = torch.arange(int(offsets[-1])) + shift_B.repeat_interleave(self._lengths_B)

    @property
    def lengths_B(self) -> Tensor:
        """See `Padding`."""
        return self._lengths_B

    @property
    def valid_BL(self) -> Tensor:
        """See `Padding`."""
        return torch.arange(self._shape[1]) < (self.lengths_B + self.num_free).clamp(min=1).unsqueeze(1)

    @property
    def recency_BL(self) -> Tensor:
        """See `Padding`."""
        return (self.lengths_B.unsqueeze(1) + self.num_free - 1 - torch.arange(self._shape[1])).clamp(min=0)

    def pad(self, x_nD: Tensor) -> Tensor:
        """See `Padding`."""
        flat = x_nD.new_zeros(self._shape[0] * self._shape[1], x_nD.shape[1])
        return flat.index_copy(0, self._place_n, x_nD).view(*self._shape, x_nD.shape[1])

    def unpad(self, x_BLD: Tensor) -> Tensor:
        """See `Padding`."""
        return x_BLD.reshape(self._shape[0] * self._shape[1], x_BLD.shape[2])[self._place_n]

    def last(self, x_BLD: Tensor) -> Tensor:
        """See `Padding`."""
        return x_BLD[torch.arange(self._shape[0]), (self.lengths_B + self.num_free - 1).clamp(min=0)]


@final
class OneList(Padding):
    """One list: its entries as they are, behind the free places.

    Args:
        num_entries: n.
        num_free: See `Padding`.

    >>> OneList(2, num_free=1).pad(torch.tensor([[1.0], [2.0]])).squeeze(2)
    tensor([[0., 1., 2.]])
    """

    def __init__(self, num_entries: int, *, num_free: int = 0) -> None:
        # a block has one place at least; with a free one there is nothing to compare, in a traced graph either
        self._num_entries, self.num_free = num_entries, num_free
        self._num_empty = 1 if num_free == 0 and num_entries == 0 else 0

    @property
    def lengths_B(self) -> Tensor:
        """See `Padding`."""
        return torch.full((1,), self._num_entries, dtype=torch.int64)

    @property
    def valid_BL(self) -> Tensor:
        """See `Padding`."""
        return torch.ones(1, self._num_entries + self.num_free + self._num_empty, dtype=torch.bool)

    @property
    def recency_BL(self) -> Tensor:
        """See `Padding`."""
        num = self._num_entries + self.num_free + self._num_empty
        return (num - 1 - torch.arange(num)).unsqueeze(0)

    def pad(self, x_nD: Tensor) -> Tensor:
        """See `Padding`."""
        num = self.num_free + self._num_empty
        return (torch.cat([x_nD.new_zeros(num, x_nD.shape[1]), x_nD]) if num else x_nD).unsqueeze(0)

    def unpad(self, x_BLD: Tensor) -> Tensor:
        """See `Padding`."""
        return x_BLD[0, self.num_free + self._num_empty :]

    def last(self, x_BLD: Tensor) -> Tensor:
        """See `Padding`."""
        return x_BLD[:, -1]
