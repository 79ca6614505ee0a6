"""How a ranked list is made of the candidates of one request.

Letters in names: K candidates of one request.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.errors import RequestError
from rankwell.types import RankedList

__all__ = ["Policy", "best_first", "greedy"]


class Policy(Protocol):
    """What every policy is: a function of one request's candidates, in any order, that gives a ranked list.

    The list is a function of the *set* of candidates and of the seed: their order in the arguments means nothing, and
    equal utilities are told apart by logit, then by item id. Its propensities are the marginal probabilities, over
    seeds, that the policy puts that item at that position.
    """

    def __call__(
        self,
        item_ids_K: Tensor,
        utilities_K: Tensor,
        *,
        logits_K: Tensor,
        probabilities_K: Tensor,
        length: int,
        seed: int,
    ) -> RankedList:
        """The ranked list.

        Args:
            item_ids_K: int64, distinct.
            utilities_K: float64, what the list is ranked by; no NaN.
            logits_K: Natural log-odds; they break ties that a calibrator's flat pieces leave in the utilities.
            probabilities_K: float64, calibrated, in (0, 1), of one action; they are passed on into the list.
            length: How many to rank, ≥ 1; with fewer candidates, all of them.
            seed: Of this request's draws; a policy without chance doesn't look at it.

        Raises:
            RequestError: `length` is less than 1, a utility or logit is NaN, or an item stands twice.
        """
        ...


def greedy(
    item_ids_K: Tensor,
    utilities_K: Tensor,
    *,
    logits_K: Tensor,
    probabilities_K: Tensor,
    length: int,
    seed: int,
) -> RankedList:
    """Best utility first; ties by greater logit, then by smaller item id.

    Args:
        item_ids_K, utilities_K, logits_K, probabilities_K, length: See `Policy`.
        seed: Not looked at: there is no chance in it, so that every propensity is 1.

    Returns:
        The first min(length, K) of the order.

    Raises:
        RequestError: `length` is less than 1, a utility or logit is NaN, or an item stands twice.

    >>> p = torch.tensor([0.2, 0.4, 0.2])
    >>> ranked = greedy(torch.tensor([7, 3, 5]), p, logits_K=p.logit(), probabilities_K=p, length=10, seed=0)
    >>> ranked.item_ids.tolist(), ranked.propensities.tolist()
    ([3, 5, 7], [1.0, 1.0, 1.0])
    """
    best = torch.from_numpy(best_first(utilities_K, logits_K, item_ids_K, length=length))
    return RankedList(
        item_ids=item_ids_K.index_select(0, best),
        probabilities=probabilities_K.index_select(0, best),
        utilities=utilities_K.index_select(0, best),
        propensities=torch.ones(len(best), dtype=torch.float64),
    )


def best_first(utilities_K: Tensor, logits_K: Tensor, item_ids_K: Tensor, *, length: int) -> NDArray[np.int64]:
    """The places of the candidates in the order of `greedy`, by its keys, first to last; what it raises is its own.

    >>> p = torch.tensor([0.2, 0.4, 0.2])
    >>> best_first(p, p.logit(), torch.tensor([7, 3, 5]), length=2)
    array([1, 2])
    """
    if length < 1:
        raise RequestError("a ranked list cannot have this length", found=length, allowed="1 or more")
    ids_K, utilities, logits = item_ids_K.numpy(), utilities_K.numpy(), logits_K.numpy()
    are_nan_K = np.isnan(utilities) | np.isnan(logits)
    if are_nan_K.any():
        raise RequestError(
            f"{int(are_nan_K.sum())} of {len(ids_K)} candidates have no number to be ranked by",
            found="a NaN utility or logit",
            allowed="finite or infinite numbers",
            do="look for a feature of the request that is not finite, or for weights of the model that are not",
        )
    sorted_ids_K = ids_K if (ids_K[1:] > ids_K[:-1]).all() else np.sort(ids_K)
    repeated_K = sorted_ids_K[1:] == sorted_ids_K[:-1]
    if repeated_K.any():
        raise RequestError(
            "items stand twice among the candidates",
            found=sorted(set(sorted_ids_K[1:][repeated_K].tolist())),
            allowed="each item once",
            do="drop the repeated candidates before ranking",
        )
    # What cannot be among them is not put in order: of 2,000 candidates 50 are shown.
    least = np.partition(utilities, -length)[-length] if length < len(ids_K) else -np.inf
    near = np.flatnonzero(utilities >= least)
    order: NDArray[np.int64] = near[np.argsort(-utilities[near])]
    ordered = utilities[order]
    if (ordered[1:] == ordered[:-1]).any():  # only ties need three keys; lexsort's last is the first to count
        order = near[np.lexsort((ids_K[near], -logits[near], -utilities[near]))]
    return order[:length]
