"""Losses that look at the whole list of a request: likelihoods of its order, and a smooth nDCG.

Letters in names: C candidates, flat over the batch · P pairs of one block · T ties.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from rankwell.losses.discounts import shares_of_ideal
from rankwell.losses.lists import (
    CandidateLists,
    Ties,
    check_setting,
    list_cross_entropy,
    pair_blocks,
    with_gradient,
)

__all__ = ["ApproxNDCG", "ListNet", "list_mle", "softmax_cross_entropy"]


def softmax_cross_entropy(logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
    """How surprising it is that, of a request's candidates, these were acted on: ``Σ_r Y_r · KL(y / Y ‖ softmax(z))``.

    Y is the request's Σ w·y; with one positive of weight 1 this is ``-ln softmax(z)`` of it, and with several the
    cross-entropy less that of the labels themselves, which no logit moves. So each unit of label counts once, and a
    request without a positive costs nothing.

    Args:
        logits_C: z; only differences within a request count, so these logits order and say no probability.
        labels_C: y ≥ 0: 0 or 1, grades or gains; NaN allowed where the weight is 0.
        request_C: int64, ascending.
        weights_C: w ≥ 0; a row of weight 2 is two such candidates in labels and softmax, and with all of a request's
            weights doubled it counts twice.

    Returns:
        A scalar in nats, a sum; 0 when no label is above 0.

    >>> import torch
    >>> logits_C, labels_C = torch.tensor([0.0, 0.0, 5.0]), torch.tensor([1.0, 0.0, 0.0])
    >>> softmax_cross_entropy(logits_C, labels_C, request_C=torch.tensor([0, 0, 1]), weights_C=torch.ones(3))  # ln 2
    tensor(0.6931)

    Source: Bruch et al. 2019, "An analysis of the softmax cross entropy loss for learning-to-rank with binary
    relevance"; Cao et al. 2007, "Learning to rank: from pairwise approach to listwise approach".
    """
    lists = CandidateLists.of(logits_C, labels_C, request_C=request_C, weights_C=weights_C)
    return list_cross_entropy(lists, lists.logits_C, lists.labels_C)


@final
@dataclass(frozen=True, slots=True)
class ListNet:
    """The top-one distribution of the logits against that of the labels: ``Σ_r W_r · KL(softmax(s·y) ‖ softmax(z))``.

    W_r is the request's summed weight. A request whose labels are all equal says nothing about order and costs nothing.
    With labels of 0 and 1 and s = 1, the paper's, a positive is to be chosen only e times as often as a negative; a
    greater s comes near `softmax_cross_entropy`.

    Args:
        sharpness: s, nats per unit of label, > 0.

    Raises:
        RecipeError: The sharpness is not finite or not above 0.

    >>> import torch
    >>> logits_C, labels_C = torch.tensor([0.0, 0.0]), torch.tensor([3.0, 2.0])
    >>> ListNet()(logits_C, labels_C, request_C=torch.tensor([0, 0]), weights_C=torch.ones(2))
    tensor(0.2219)

    Source: Cao et al. 2007, "Learning to rank: from pairwise approach to listwise approach", §4 and §5.
    """

    sharpness: float = 1.0

    def __post_init__(self) -> None:
        check_setting("ListNet", "sharpness", self.sharpness)

    def __call__(self, logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
        """Σ w·ℓ in nats, a sum; labels are any numbers, other arguments as in `softmax_cross_entropy`."""
        lists = CandidateLists.of(logits_C, labels_C, request_C=request_C, weights_C=weights_C)
        labels_C = lists.labels_C
        says_nothing_C = (lists.largest(labels_C) == -lists.largest(-labels_C))[lists.list_C]
        shares_C = torch.exp(-lists.surprise(self.sharpness * labels_C))
        mass_C = lists.sum(lists.weights_C)[lists.list_C] * shares_C
        return list_cross_entropy(lists, lists.logits_C, mass_C.masked_fill(says_nothing_C, 0.0))


def list_mle(logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
    """The likelihood of drawing a request's candidates by falling label, each draw a softmax over what is left.

    ``Σ w_i · (ln Σ_{y_j ≤ y_i} w_j·e^z_j - z_i - ln Σ_{y_j = y_i} w_j)``, over candidates above their request's lowest
    label. Where no label is given twice this is the Plackett–Luce likelihood. Equal labels have no order, and none is
    drawn for them: each of them is as if it were drawn first (Breslow's form), less the entropy of that choice, which
    no logit moves; and the lowest, behind which nothing is left, cost nothing. With labels of 0 and 1 this is
    `softmax_cross_entropy`, but that it leaves requests of nothing but positives alone.

    Args:
        logits_C: z; only differences within a request count, so these logits order and say no probability.
        labels_C: y, any numbers of which higher is better; only their order counts. NaN allowed where the weight is 0.
        request_C: int64, ascending.
        weights_C: w ≥ 0; a row of weight 2 is two such candidates, and with all of a request's weights doubled it
            counts twice.

    Returns:
        A scalar in nats, a sum; 0 when no request has two labels.

    >>> import torch
    >>> logits_C, labels_C = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([2.0, 1.0, 0.0])
    >>> list_mle(logits_C, labels_C, request_C=torch.tensor([0, 0, 0]), weights_C=torch.ones(3))  # ln 3 + ln 2
    tensor(1.7918)

    Source: Xia et al. 2008, "Listwise approach to learning to rank: theory and algorithm"; for ties, Breslow 1974,
    "Covariance analysis of censored survival data".
    """
    lists = CandidateLists.of(logits_C, labels_C, request_C=request_C, weights_C=weights_C)
    lists = lists.at(lists.falling(-lists.labels_C))  # worst first
    logits_C, weights_C = lists.logits_C.detach(), lists.weights_C
    ties = Ties.of(lists.list_C, lists.labels_C)
    tied = CandidateLists(logits_C, lists.labels_C, weights_C, ties.tie_C, ties.lengths_T)  # each tie a list
    num_T = tied.sum(weights_C)
    list_T = lists.list_C[ties.starts_T]
    num_ties_R = torch.bincount(list_T, minlength=len(lists.lengths_R))
    rank_T = torch.arange(len(list_T), device=list_T.device) - (num_ties_R.cumsum(0) - num_ties_R)[list_T]
    own_T = (tied.surprise(logits_C) + logits_C)[ties.starts_T]  # ln Σ w·e^z over the tie
    left_T = _running_log_sum(own_T, rank_T)  # and over all that is worse, too
    drawn_T = torch.where(rank_T > 0, num_T, 0.0)
    drawn_C = torch.where(rank_T[ties.tie_C] > 0, weights_C, 0.0)
    value = 0.0 * lists.labels_C.sum()  # NaN where a label is, which no comparison would show
    value += (drawn_C * (left_T[ties.tie_C] - logits_C)).sum() - torch.xlogy(drawn_T, num_T).sum()
    # a candidate is part of what is left at its own draw and at those of all better ties
    height_T = num_ties_R[list_T] - 1 - rank_T
    chance_T = _running_log_sum((torch.log(drawn_T) - left_T).flip(0), height_T.flip(0)).flip(0)
    gradient_C = weights_C * torch.exp(logits_C + chance_T[ties.tie_C]) - drawn_C
    return with_gradient(lists.logits_C, value, gradient_C)


@final
@dataclass(frozen=True, slots=True)
class ApproxNDCG:
    """1 - nDCG with smooth positions: ``Σ_r w̄_r · (1 - Σ_i g_i / log₂(1 + π_i) / ideal DCG)``.

    ``π_i = 1 + Σ_{j ≠ i} σ((z_j - z_i) / temperature)``: how many stand above a candidate, each as far as it does. The
    lower the temperature, the nearer to nDCG and the rarer a slope. A request without a gain costs nothing.

    Labels are gains, as nDCG counts them (`LossTerm(labels="gains")`). The weight of a request is w̄, the mean of its
    candidates', as in `rankwell.evaluation.ranking_quality.ndcg_at_k`: places of a list cannot be taken twice. Not
    nats, but shares of the ideal DCG: at most 1 a request.

    Args:
        temperature: In log-odds, > 0.

    Raises:
        RecipeError: The temperature is not finite or not above 0.

    >>> import torch
    >>> logits_C, gains_C = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0])
    >>> ApproxNDCG()(logits_C, gains_C, request_C=torch.tensor([0, 0]), weights_C=torch.ones(2))  # 1 - 1 / log₂ 2.5
    tensor(0.2435)

    Source: Qin, Liu and Li 2010, "A general approximation framework for direct optimization of information retrieval
    measures"; Bruch et al. 2019, "Revisiting approximate metric optimization in the age of deep neural networks".
    """

    temperature: float = 0.1

    def __post_init__(self) -> None:
        check_setting("ApproxNDCG", "temperature", self.temperature)

    def __call__(self, logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
        """Σ w̄·ℓ, a sum over requests; labels are gains ≥ 0, other arguments as in `softmax_cross_entropy`."""
        lists = CandidateLists.of(logits_C, labels_C, request_C=request_C, weights_C=weights_C)
        scaled_C = lists.logits_C.detach() / self.temperature
        worth_C = lists.mean_weight_C * shares_of_ideal(lists)
        first_C = (lists.ends_R - lists.lengths_R)[lists.list_C]
        count_C = torch.where(worth_C == 0, 0, lists.lengths_R[lists.list_C])  # only of gains the position counts
        position_C = torch.full_like(scaled_C, 0.5)  # with its own σ(0) = 0.5, 1
        for one_P, other_P in pair_blocks(first_C, count_C):
            position_C.index_add_(0, one_P, torch.sigmoid(scaled_C[other_P] - scaled_C[one_P]))
        log_C = torch.log2(1.0 + position_C)
        counts_R = lists.largest(lists.labels_C) > 0
        value = (lists.sum(lists.weights_C) / lists.lengths_R)[counts_R].sum() - (worth_C / log_C).sum()
        slope_C = worth_C / (log_C.square() * (1.0 + position_C) * (math.log(2.0) * self.temperature))
        gradient_C = torch.zeros_like(scaled_C)
        for one_P, other_P in pair_blocks(first_C, count_C):
            above_P = torch.sigmoid(scaled_C[other_P] - scaled_C[one_P])
            slope_P = slope_C[one_P] * above_P * (1.0 - above_P)
            gradient_C.index_add_(0, other_P, slope_P).index_add_(0, one_P, slope_P, alpha=-1)
        return with_gradient(lists.logits_C, value, gradient_C)


def _running_log_sum(values_T: Tensor, rank_T: Tensor) -> Tensor:
    """``ln Σ e^v`` over each value and those before it in its list, in as many sweeps as doublings of the longest list.

    A running sum of e^v, from one peak a list, would lose every value that is 1e4 below it.

    Args:
        values_T: List by list; -inf is nothing.
        rank_T: int64, the place of each in its list, from 0.
    """
    shift, longest = 1, int(rank_T.max()) + 1 if len(rank_T) else 0
    while shift < longest:
        joined_T = torch.logaddexp(values_T[shift:], values_T[:-shift])
        values_T = torch.cat([values_T[:shift], torch.where(rank_T[shift:] >= shift, joined_T, values_T[shift:])])
        shift *= 2
    return values_T
