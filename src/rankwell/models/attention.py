"""How the entries of a list see each other: softmax attention with heads, fused.

Letters: B lists · L places · D width · J heads · Q places that ask.

Source: Vaswani et al. 2017, "Attention is all you need", NeurIPS, §3.2.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from rankwell.errors import RecipeError

__all__ = [
    "CrossAttention",
    "ListAttention",
    "SelfAttention",
    "SoftmaxAttention",
    "check_heads",
    "columns_of_head",
    "key_mask",
    "split_heads",
    "without_head",
]


class ListAttention(nn.Module, abc.ABC):
    """A layer in which the entries of each list see each other, and those of other lists do not."""

    num_heads: int
    """J."""

    @abc.abstractmethod
    def forward(self, x_BLD: Tensor, first_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """What each entry takes from the entries that it sees.

        Args:
            x_BLD: The entries as the layers before left them.
            first_BLD: The entries as they came into the first layer.
            valid_BL: Bool, where an entry stands; at least one place of every list. Valid places come first.

        Returns:
            B × L × D; at places where no entry stands anything finite.
        """

    @abc.abstractmethod
    def output_weights(self, head: int) -> Tensor:
        """The weights through which one head's result leaves and no other's, a view: at 0 the head says nothing.

        Args:
            head: Its number, from 0.
        """


class SoftmaxAttention(ListAttention, abc.ABC):
    """Attention of which there are maps: shares by which an entry takes from others."""

    @abc.abstractmethod
    def maps(self, x_BLD: Tensor, first_BLD: Tensor, valid_BL: Tensor, places_BQ: Tensor) -> Tensor:
        """B × J × Q × L, the shares of a few places, which sum to 1 over L; computed anew, beside the fused kernel.

        Args:
            x_BLD, first_BLD, valid_BL: As `forward` takes them.
            places_BQ: int64, which places ask.
        """


@final
class SelfAttention(SoftmaxAttention):
    """softmax(q·kᵀ / √(D/J)) v in each of J heads, side by side through one output layer.

    Args:
        width: D, a multiple of the number of heads.
        num_heads: J.
        is_causal: Whether an entry sees itself and those before it, or all.

    Raises:
        RecipeError: The width cannot be shared among the heads.

    >>> attention = SelfAttention(8, num_heads=2, is_causal=True)
    >>> x_BLD = torch.randn(1, 3, 8)
    >>> maps = attention.maps(x_BLD, x_BLD, torch.ones(1, 3, dtype=torch.bool), torch.tensor([[0]]))
    >>> maps[0, 0, 0].tolist()  # the first entry sees itself alone
    [1.0, 0.0, 0.0]
    """

    def __init__(self, width: int, *, num_heads: int, is_causal: bool) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads, self.is_causal = num_heads, is_causal
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # a bias would add the same to all that a query is held against
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, first_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """See `ListAttention`."""
        del first_BLD
        query, key, value = (split_heads(layer(x_BLD), self.num_heads) for layer in (self.query, self.key, self.value))
        if self.is_causal:  # what stands comes first, so no entry sees a place behind the list's end
            mixed_BJLd = scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            mixed_BJLd = scaled_dot_product_attention(query, key, value, attn_mask=key_mask(valid_BL))
        mixed_BLD: Tensor = self.out(mixed_BJLd.transpose(1, 2).flatten(2))
        return mixed_BLD

    def output_weights(self, head: int) -> Tensor:
        """See `ListAttention`."""
        return columns_of_head(self.out, head, self.num_heads)

    def maps(self, x_BLD: Tensor, first_BLD: Tensor, valid_BL: Tensor, places_BQ: Tensor) -> Tensor:
        """See `SoftmaxAttention`."""
        del first_BLD
        asking_BQD = x_BLD.gather(1, places_BQ.unsqueeze(2).expand(-1, -1, x_BLD.shape[2]))
        query, key = split_heads(self.query(asking_BQD), self.num_heads), split_heads(self.key(x_BLD), self.num_heads)
        seen_BQL = valid_BL.unsqueeze(1).expand(-1, places_BQ.shape[1], -1)
        if self.is_causal:
            seen_BQL = seen_BQL & (torch.arange(x_BLD.shape[1]) <= places_BQ.unsqueeze(2))
        likeness = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
        shares: Tensor = likeness.masked_fill(~seen_BQL.unsqueeze(1), -torch.inf).softmax(3)
        return shares


@final
class CrossAttention(nn.Module):
    """The same, where those that ask and those that are seen are two lists: candidates and a history.

    Args:
        width: D of both.
        num_heads: J.

    Raises:
        RecipeError: The width cannot be shared among the heads.
    """

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BKD: Tensor, seen_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """B × K × D: what each of K entries takes from the list that it sees."""
        query, key = split_heads(self.query(x_BKD), self.num_heads), split_heads(self.key(seen_BLD), self.num_heads)
        value = split_heads(self.value(seen_BLD), self.num_heads)
        mixed_BJKd = scaled_dot_product_attention(query, key, value, attn_mask=key_mask(valid_BL))
        mixed_BKD: Tensor = self.out(mixed_BJKd.transpose(1, 2).flatten(2))
        return mixed_BKD


@contextmanager
def without_head(attention: ListAttention, head: int) -> Iterator[None]:
    """Within it one head says nothing: its output weights are 0. Then they are put back, to the bit.

    Args:
        attention: A layer.
        head: Its number, from 0.

    >>> attention = SelfAttention(4, num_heads=2, is_causal=False)
    >>> with without_head(attention, 1):
    ...     attention.output_weights(1).abs().max() == 0, attention.output_weights(0).abs().max() == 0
    (tensor(True), tensor(False))
    """
    weights = attention.output_weights(head).detach()
    kept = weights.clone()
    weights.zero_()
    try:
        yield
    finally:
        weights.copy_(kept)


def columns_of_head(out: nn.Linear, head: int, num_heads: int) -> Tensor:
    """What an output layer over heads that stand side by side, D/J each, has for one of them: D × D/J, a view."""
    width = out.in_features // num_heads
    return out.weight[:, head * width : (head + 1) * width]


def key_mask(valid_BL: Tensor) -> Tensor | None:
    """Which places softmax attention may look at, B × 1 × 1 × L; None where it may look at all.

    Places behind a list's end are there for the sake of a longer list, so a list by itself has none.

    >>> key_mask(torch.ones(1, 3, dtype=torch.bool)) is None
    True
    """
    return None if valid_BL.shape[0] == 1 else valid_BL[:, None, None, :]


def split_heads(x_BLD: Tensor, num_heads: int) -> Tensor:
    """B × J × L × D/J."""
    num_lists, length, width = x_BLD.shape
    return x_BLD.view(num_lists, length, num_heads, width // num_heads).transpose(1, 2)


def check_heads(width: int, num_heads: int) -> None:
    """Refuse a width that heads cannot share.

    Raises:
        RecipeError: It is no multiple of their number.
    """
    if num_heads < 1 or width % num_heads:
        raise RecipeError(
            "the width of attention cannot be shared among its heads", found=f"width {width}, {num_heads} heads",
            allowed="a width that is a multiple of the number of heads",
        )  # fmt: skip
