"""What a position is worth to nDCG, where logits may tie.

Letters in names: C candidates that have weight, flat · R lists · T ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from rankwell.losses.lists import CandidateLists, Ties

__all__ = ["Discounts", "shares_of_ideal"]


def _discounts(lists: CandidateLists, k: int | None) -> Tensor:
    """1 / log₂(1 + position) by place in the list, 0 beyond k."""
    starts_C = (lists.ends_R - lists.lengths_R)[lists.list_C]
    place_C = torch.arange(len(starts_C), device=starts_C.device) - starts_C
    discount_C = 1.0 / torch.log2(place_C.to(lists.logits_C.dtype) + 2.0)
    return discount_C if k is None else discount_C.masked_fill(place_C >= k, 0.0)


def shares_of_ideal(lists: CandidateLists, k: int | None = None) -> Tensor:
    """Each candidate's gain by its list's ideal DCG@k: what nDCG gains per unit of discount; 0 in a list without gain.

    Args:
        lists: Whose labels are gains, ≥ 0.
        k: How many positions count; by default all.
    """
    ideal_R = lists.sum(lists.labels_C[lists.falling(lists.labels_C)] * _discounts(lists, k))
    worth_R = torch.where(ideal_R == 0, 0.0, 1.0 / ideal_R)
    return lists.labels_C * worth_R[lists.list_C]


@final
@dataclass(frozen=True, slots=True)
class Discounts:
    """The discounts of the order by logit, as expected over all orders of equal logits.

    Args:
        tie_C: int64, equal for candidates of one list and one logit.
        mean_C: A candidate's expected discount.
        apart_C: The expected distance between the discounts of a candidate and another of its tie; 0 if it has none.
    """

    tie_C: Tensor
    mean_C: Tensor
    apart_C: Tensor

    @classmethod
    def of(cls, lists: CandidateLists, k: int | None = None) -> Discounts:
        """The discounts of lists, in the order of their rows.

        Args:
            lists: By whose logits is sorted.
            k: How many positions count; by default all.

        >>> from rankwell.losses.lists import CandidateLists
        >>> zeros_C, ones_C = torch.zeros(2), torch.ones(2)
        >>> lists = CandidateLists.of(zeros_C, zeros_C, request_C=zeros_C.long(), weights_C=ones_C)
        >>> Discounts.of(lists).mean_C  # (1 + 1 / log₂ 3) / 2
        tensor([0.8155, 0.8155])
        """
        order_C = lists.falling(lists.logits_C.detach())
        discount_C = _discounts(lists, k)
        ties = Ties.of(lists.list_C[order_C], lists.logits_C.detach()[order_C])
        num_T = ties.lengths_T.to(discount_C.dtype)
        place_C = torch.arange(len(order_C), device=order_C.device) - ties.starts_T[ties.tie_C]
        # Σ_{a < b} (d_a - d_b) holds d_a as often as places follow it, less as often as places precede it
        balance_C = num_T[ties.tie_C] - 1 - 2 * place_C
        apart_T = ties.sum(balance_C * discount_C) / (num_T * (num_T - 1) / 2).clamp(min=1)
        back_C = torch.argsort(order_C)
        tie_C = ties.tie_C[back_C]
        return cls(tie_C, (ties.sum(discount_C) / num_T)[tie_C], apart_T[tie_C])

    def distance(self, one_P: Tensor, other_P: Tensor) -> Tensor:
        """How far apart the discounts of two candidates of one list are, as expected over orders of ties."""
        far_P = (self.mean_C[one_P] - self.mean_C[other_P]).abs()
        return torch.where(self.tie_C[one_P] == self.tie_C[other_P], self.apart_C[one_P], far_P)
