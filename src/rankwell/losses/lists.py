"""Candidates list by list, flat: what the losses of pairs and of lists share.

Nothing is padded, and nothing is larger than the batch's candidates or than one block of pairs.

Letters in names: C candidates that have weight, flat · R lists · T ties · P pairs of one block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rankwell.errors import RecipeError

__all__ = [
    "PAIRS_PER_BLOCK",
    "CandidateLists",
    "Ties",
    "check_setting",
    "list_cross_entropy",
    "pair_blocks",
    "with_gradient",
]

PAIRS_PER_BLOCK: Final = 2**18
"""Pairs that stand in memory at once; with their indices some 10 MB, which caches hold in part."""


@final
@dataclass(frozen=True, slots=True)
class CandidateLists:
    """The candidates of a batch that have weight, request by request.

    Args:
        logits_C: Natural log-odds, no narrower than the labels.
        labels_C: Of the logits' dtype.
        weights_C: Above 0, of the logits' dtype.
        list_C: int64, the list of each candidate, ascending from 0 without gaps.
        lengths_R: int64, ≥ 1.
    """

    logits_C: Tensor
    labels_C: Tensor
    weights_C: Tensor
    list_C: Tensor
    lengths_R: Tensor

    @classmethod
    def of(cls, logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> CandidateLists:
        """The arguments of a loss, less what has weight 0; half-precision logits are widened to the labels' dtype.

        >>> lists = CandidateLists.of(
        ...     torch.zeros(4), torch.tensor([1.0, 0.0, torch.nan, 1.0]),
        ...     request_C=torch.tensor([3, 3, 3, 8]), weights_C=torch.tensor([1.0, 2.0, 0.0, 1.0]),
        ... )
        >>> lists.labels_C.tolist(), lists.list_C.tolist(), lists.lengths_R.tolist()
        ([1.0, 0.0, 1.0], [0, 0, 1], [2, 1])
        """
        present = torch.nonzero(weights_C).squeeze(1)
        _, list_C, lengths_R = torch.unique_consecutive(request_C[present], return_inverse=True, return_counts=True)
        dtype = torch.promote_types(logits_C.dtype, labels_C.dtype)
        logits_C, labels_C, weights_C = (column_C[present].to(dtype) for column_C in (logits_C, labels_C, weights_C))
        return cls(logits_C, labels_C, weights_C, list_C, lengths_R)

    @property
    def ends_R(self) -> Tensor:
        """int64, the place after each list's last candidate."""
        return self.lengths_R.cumsum(0)

    @property
    def mean_weight_C(self) -> Tensor:
        """The mean weight of each candidate's list."""
        return (self.sum(self.weights_C) / self.lengths_R)[self.list_C]

    def at(self, rows: Tensor) -> CandidateLists:
        """The same lists with their candidates in another order; `rows` keeps each list where it is."""
        return CandidateLists(
            self.logits_C[rows], self.labels_C[rows], self.weights_C[rows], self.list_C[rows], self.lengths_R
        )

    def falling(self, values_C: Tensor) -> Tensor:
        """int64, the rows list by list, each by falling value."""
        order_C = torch.argsort(values_C, descending=True, stable=True)
        return order_C[torch.argsort(self.list_C[order_C], stable=True)]

    def sum(self, values_C: Tensor) -> Tensor:
        """The sum of a column over each list (R)."""
        return values_C.new_zeros(len(self.lengths_R)).index_add(0, self.list_C, values_C)

    def largest(self, values_C: Tensor) -> Tensor:
        """The largest value of each list (R), NaN where it holds one; no gradient passes."""
        lowest_R = values_C.new_full((len(self.lengths_R),), -math.inf)
        return lowest_R.scatter_reduce(0, self.list_C, values_C.detach(), "amax")

    def surprise(self, values_C: Tensor) -> Tensor:
        """``ln Σ w·e^v - v``, the sum over each candidate's list: of a softmax in which a row of weight w is w rows."""
        peak_C = self.largest(values_C)[self.list_C]
        total_R = self.sum(self.weights_C * torch.exp(values_C - peak_C))
        return torch.log(total_R)[self.list_C] + (peak_C - values_C)  # the difference first: at ±1e4 digits are few


@final
@dataclass(frozen=True, slots=True)
class Ties:
    """Neighbours of one list and one value, where lists are sorted by that value.

    Args:
        tie_C: int64, the tie of each candidate, ascending from 0.
        starts_T: int64, where each tie begins.
        lengths_T: int64, ≥ 1.
    """

    tie_C: Tensor
    starts_T: Tensor
    lengths_T: Tensor

    @classmethod
    def of(cls, list_C: Tensor, values_C: Tensor) -> Ties:
        """The ties of a sorted column.

        >>> Ties.of(torch.tensor([0, 0, 0, 1]), torch.tensor([2.0, 1.0, 1.0, 1.0])).lengths_T.tolist()
        [1, 2, 1]
        """
        is_first_C = torch.ones_like(list_C, dtype=torch.bool)
        is_first_C[1:] = (list_C[1:] != list_C[:-1]) | (values_C[1:] != values_C[:-1])
        starts_T = torch.nonzero(is_first_C).squeeze(1)
        ends_T = torch.cat([starts_T[1:], starts_T.new_tensor([len(list_C)])]) if len(starts_T) else starts_T
        return cls(is_first_C.cumsum(0) - 1, starts_T, ends_T - starts_T)

    @property
    def ends_C(self) -> Tensor:
        """int64, for each candidate the place after its tie."""
        return (self.starts_T + self.lengths_T)[self.tie_C]

    def sum(self, values_C: Tensor) -> Tensor:
        """The sum of a column over each tie (T)."""
        return values_C.new_zeros(len(self.starts_T)).index_add(0, self.tie_C, values_C)


def pair_blocks(first_C: Tensor, count_C: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """All pairs of a candidate and its partners, `PAIRS_PER_BLOCK` at a time.

    Args:
        first_C: int64, the row of each candidate's first partner; the others follow it.
        count_C: int64, how many partners it has, ≥ 0.

    Yields:
        int64, the rows of the candidates and those of their partners.

    >>> [(one_P.tolist(), other_P.tolist()) for one_P, other_P in
    ...  pair_blocks(torch.tensor([1, 2, 0]), torch.tensor([2, 1, 0]))]
    [([0, 0, 1], [1, 2, 2])]
    """
    ends_C = count_C.cumsum(0)
    num_pairs = int(ends_C[-1]) if len(ends_C) else 0
    shift_C = first_C - ends_C + count_C
    for begin in range(0, num_pairs, PAIRS_PER_BLOCK):
        pair_P = torch.arange(begin, min(begin + PAIRS_PER_BLOCK, num_pairs), device=first_C.device)
        low, high = torch.searchsorted(ends_C, pair_P[[0, -1]], right=True).tolist()  # of all pairs it takes far longer
        inside = ends_C[low : high + 1].clamp(max=int(pair_P[-1]) + 1)
        num = inside.diff(prepend=pair_P[:1])
        one_P = torch.arange(low, high + 1, device=first_C.device).repeat_interleave(num, output_size=len(pair_P))
        yield one_P, pair_P + shift_C[one_P]


def list_cross_entropy(lists: CandidateLists, logits_C: Tensor, mass_C: Tensor) -> Tensor:
    """How far a softmax over each list is from its labels: ``Σ_r M_r · KL(m / M ‖ softmax(z))``.

    With M the list's ``Σ w·m``, this is ``Σ w·m·(ln Σ w·e^z - z - ln(M / m))``: the cross-entropy less the entropy of
    the labels, which no logit moves. A row of weight w stands for w candidates of its list in both distributions, so
    it counts as w rows, and a list whose weights are all doubled counts as two.

    Args:
        lists: What weights and lists are taken from.
        logits_C: What the softmax is over.
        mass_C: m ≥ 0; a list without mass costs nothing.

    Returns:
        A scalar in nats, a sum; 0 where each list's softmax is its labels' shares.
    """
    total_C = lists.sum(lists.weights_C * mass_C)[lists.list_C]
    entropy_C = torch.xlogy(mass_C, total_C) - torch.xlogy(mass_C, mass_C)
    return (lists.weights_C * (mass_C * lists.surprise(logits_C) - entropy_C)).sum()


def with_gradient(logits_C: Tensor, value: Tensor, gradient_C: Tensor) -> Tensor:
    """`value` as a function of the logits, whose derivative has been computed beside it.

    For what autograd would remember pair by pair, or scan by scan. It can be differentiated once.

    Args:
        logits_C: What `value` was computed from.
        value: A scalar without a gradient of its own.
        gradient_C: Its derivative with respect to each logit.

    >>> logits_C = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> (3 * with_gradient(logits_C, torch.tensor(5.0), torch.tensor([1.0, -1.0]))).backward()
    >>> logits_C.grad
    tensor([ 3., -3.])
    """
    attached: Tensor = _WithGradient.apply(logits_C, value, gradient_C)  # type: ignore[no-untyped-call]
    return attached


def check_setting(loss: str, setting: str, value: float, *, may_be_zero: bool = False) -> None:
    """Refuse a setting of a loss that is no usable number.

    Raises:
        RecipeError: It is not finite, is negative, or is 0 where it may not be.
    """
    if not (math.isfinite(value) and (value > 0 or (may_be_zero and value == 0))):
        raise RecipeError(
            f"{loss} cannot use this {setting}", found=value, allowed=f"finite, {'≥' if may_be_zero else '>'} 0"
        )


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_C: Tensor, value: Tensor, gradient_C: Tensor) -> Tensor:
        ctx.save_for_backward(gradient_C)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, downstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient_C,) = ctx.saved_tensors
        return downstream * gradient_C, None, None
