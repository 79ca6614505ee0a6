"""Losses that look at two candidates of a request at a time, of which one has the higher label.

Letters in names: C candidates, flat over the batch · P pairs of one block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rankwell.errors import RecipeError
from rankwell.losses.discounts import Discounts, shares_of_ideal
from rankwell.losses.lists import CandidateLists, Ties, check_setting, pair_blocks, with_gradient

__all__ = ["LambdaRank", "MarginLoss", "rank_net"]


def rank_net(logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
    """The negative log likelihood of each pair's order: ``Σ_r Σ_{y_i > y_j} (w_i·w_j / W_r) · ln(1 + e^-(z_i - z_j))``.

    W_r is the summed weight of the request, so a candidate counts by the share of its list that it is compared with:
    a list costs by its length, not by the square of it. A request of one label costs nothing.

    Args:
        logits_C: z; only differences within a request count, so these logits order and say no probability.
        labels_C: y, any numbers of which higher is better; NaN allowed where the weight is 0.
        request_C: int64, ascending.
        weights_C: w ≥ 0; a row of weight 2 is two such candidates, and with all of a request's weights doubled it
            counts twice.

    Returns:
        A scalar in nats, a sum; 0 when no request has two labels.

    >>> import torch
    >>> logits_C, labels_C = torch.tensor([0.0, 2.0, 5.0]), torch.tensor([1.0, 0.0, 1.0])
    >>> rank_net(logits_C, labels_C, request_C=torch.tensor([0, 0, 1]), weights_C=torch.ones(3))  # ln(1 + e²) / 2
    tensor(1.0635)

    Source: Burges et al. 2005, "Learning to rank using gradient descent".
    """
    lists = _best_first(logits_C, labels_C, request_C, weights_C)
    return _over_pairs(lists, _joint_weight(lists), _logistic)


@final
@dataclass(frozen=True, slots=True)
class MarginLoss:
    """The hinge of each pair: ``Σ_r Σ_{y_i > y_j} (w_i·w_j / W_r) · max(0, margin - (z_i - z_j))``.

    Pairs and their weights are those of `rank_net`. Where the better candidate leads by the margin, nothing is left to
    be learned; at exactly the margin the slope is 0.

    Args:
        margin: In log-odds, > 0.

    Raises:
        RecipeError: The margin is not finite or not above 0.

    >>> import torch
    >>> logits_C, labels_C = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])
    >>> MarginLoss()(logits_C, labels_C, request_C=torch.tensor([0, 0]), weights_C=torch.ones(2))  # (1 + 2) / 2
    tensor(1.5000)

    Source: Herbrich, Graepel and Obermayer 1999, "Support vector learning for ordinal regression"; Joachims 2002,
    "Optimizing search engines using clickthrough data".
    """

    margin: float = 1.0

    def __post_init__(self) -> None:
        check_setting("MarginLoss", "margin", self.margin)

    def __call__(self, logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
        """Σ w·ℓ in log-odds, a sum; arguments as in `rank_net`."""
        lists = _best_first(logits_C, labels_C, request_C, weights_C)
        return _over_pairs(lists, _joint_weight(lists), self._hinge)

    def _hinge(self, lead_P: Tensor) -> tuple[Tensor, Tensor]:
        short_P = self.margin - lead_P
        return short_P.clamp(min=0), -(short_P > 0).to(lead_P.dtype)


@final
@dataclass(frozen=True, slots=True)
class LambdaRank:
    """Each pair by what nDCG would change if the two changed places: ``Σ_r w̄_r Σ |ΔnDCG_ij| · ln(1 + e^-(z_i - z_j))``.

    ``|ΔnDCG_ij| = |g_i - g_j| · |d_i - d_j| / ideal DCG``, with the discounts d of the present order by logit: weights,
    not functions, so the gradient is that of Burges et al., and the value falls where nDCG rises. Equal logits share
    the expectation over their orders, so that a model whose logits are all equal learns, and the order of rows means
    nothing. A request without a gain costs nothing.

    Labels are gains, as nDCG counts them (`LossTerm(labels="gains")`). The weight of a request is w̄, the mean of its
    candidates', as in `rankwell.evaluation.ranking_quality.ndcg_at_k`: places of a list cannot be taken twice.

    Args:
        k: How many positions nDCG counts, ≥ 1; by default all. Where neither of two is among the first k, their order
            is not learned.

    Raises:
        RecipeError: k is no whole number above 0.

    >>> import torch
    >>> logits_C, gains_C = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])
    >>> LambdaRank()(logits_C, gains_C, request_C=torch.tensor([0, 0]), weights_C=torch.ones(2))
    tensor(0.7850)

    Source: Burges, Ragno and Le 2006, "Learning to rank with nonsmooth cost functions"; Wang et al. 2018, "The
    LambdaLoss framework for ranking metric optimization", for the loss whose gradient this is.
    """

    k: int | None = None

    def __post_init__(self) -> None:
        if self.k is not None and (isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1):
            raise RecipeError("LambdaRank cannot use this k", found=self.k, allowed="a whole number ≥ 1, or None")

    def __call__(self, logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
        """Σ w̄·ℓ in nats, a sum over requests; labels are gains ≥ 0, other arguments as in `rank_net`."""
        lists = _best_first(logits_C, labels_C, request_C, weights_C)
        worth_C, discounts = lists.mean_weight_C * shares_of_ideal(lists, self.k), Discounts.of(lists, self.k)

        def change(better_P: Tensor, worse_P: Tensor) -> Tensor:
            return (worth_C[better_P] - worth_C[worse_P]) * discounts.distance(better_P, worse_P)

        return _over_pairs(lists, change, _logistic)


def _best_first(logits_C: Tensor, labels_C: Tensor, request_C: Tensor, weights_C: Tensor) -> CandidateLists:
    lists = CandidateLists.of(logits_C, labels_C, request_C=request_C, weights_C=weights_C)
    return lists.at(lists.falling(lists.labels_C))


def _joint_weight(lists: CandidateLists) -> Callable[[Tensor, Tensor], Tensor]:
    part_C = lists.weights_C / lists.sum(lists.weights_C)[lists.list_C]
    return lambda better_P, worse_P: lists.weights_C[better_P] * part_C[worse_P]


def _logistic(lead_P: Tensor) -> tuple[Tensor, Tensor]:
    return -logsigmoid(lead_P), -torch.sigmoid(-lead_P)


def _over_pairs(
    lists: CandidateLists,
    weigh: Callable[[Tensor, Tensor], Tensor],
    cost: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> Tensor:
    """``Σ weigh(better, worse) · cost(z_better - z_worse)`` over pairs of unequal label, in blocks.

    Args:
        lists: Sorted by falling label, so that a candidate's worse ones are what follows its tie.
        weigh: The weights of pairs.
        cost: Of leads, with its slope.
    """
    logits_C = lists.logits_C.detach()
    value = 0.0 * lists.labels_C.sum()  # NaN where a label is, which no comparison would show
    gradient_C = torch.zeros_like(logits_C)
    first_C = Ties.of(lists.list_C, lists.labels_C).ends_C
    for better_P, worse_P in pair_blocks(first_C, lists.ends_R[lists.list_C] - first_C):
        weight_P = weigh(better_P, worse_P)
        cost_P, slope_P = cost(logits_C[better_P] - logits_C[worse_P])
        value += (weight_P * cost_P).sum()
        slope_P = weight_P * slope_P
        gradient_C.index_add_(0, better_P, slope_P).index_add_(0, worse_P, slope_P, alpha=-1)
    return with_gradient(lists.logits_C, value, gradient_C)
