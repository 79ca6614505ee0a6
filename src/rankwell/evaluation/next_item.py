"""Where one item that came next stands among others: hit rate and nDCG of leave-one-out.

A target is placed among the items that it is held against, and ties count in expectation over their orders, so that a
model that scores all items alike has the figures of chance and no better.

Letters: R requests, one target each · I items · N negatives of a request.

Source: Kang and McAuley 2018, "Self-attentive sequential recommendation", ICDM, §IV-C (100 sampled negatives); Zhou et
al. 2020, "S3-Rec", CIKM, §5.1 (all items); Krichene and Rendle 2020, "On sampled metrics for item recommendation", KDD
(the two are different metrics, and order models differently).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from rankwell.errors import MetricError
from rankwell.evaluation.sample import Floats, Ints, check_whole_number, undefined
from rankwell.types import Ragged

__all__ = ["TargetPlaces", "draw_negatives", "places_among_all", "places_among_sampled"]


@final
@dataclass(frozen=True, slots=True)
class TargetPlaces:
    """How many items stand above each target, and how many beside it with the same score.

    Args:
        above_R: Whole numbers ≥ 0.
        level_R: Likewise, the target itself not counted.

    >>> places = TargetPlaces(np.array([0, 9, 10]), np.array([0, 1, 0]))
    >>> places.hit_rate(10)  # the second is 10th or 11th, as likely as not
    0.5
    >>> round(TargetPlaces(np.array([2]), np.array([0])).ndcg(10), 6)  # 1 / log₂(2 + 2)
    0.5
    """

    above_R: Ints
    level_R: Ints

    def __len__(self) -> int:
        return len(self.above_R)

    def hit_rate(self, k: int) -> float:
        """The mean probability that the target is among the first k, HR@k = E[place ≤ k].

        Args:
            k: ≥ 1.

        Returns:
            In [0, 1]; NaN with `UndefinedMetricWarning` where there is no target.
        """
        return self._mean(f"HR@{k}", np.ones(check_whole_number("k", k, at_least=1)))

    def ndcg(self, k: int) -> float:
        """The mean of 1 / log₂(place + 1) where the target is among the first k, else 0: nDCG@k of one relevant item.

        Args:
            k: ≥ 1.

        Returns:
            In [0, 1]; NaN with `UndefinedMetricWarning` where there is no target.
        """
        return self._mean(f"nDCG@{k}", 1 / np.log2(np.arange(check_whole_number("k", k, at_least=1)) + 2))

    @staticmethod
    def concatenated(parts: Sequence[TargetPlaces]) -> TargetPlaces:
        """Those of several batches, in their order."""
        empty = np.empty(0, np.int64)
        return TargetPlaces(
            np.concatenate([empty, *(part.above_R for part in parts)]),
            np.concatenate([empty, *(part.level_R for part in parts)]),
        )

    def _mean(self, name: str, gain_k: Floats) -> float:
        """The mean of a place's gain, each of the places that a target may have being as likely."""
        if not len(self):
            return undefined(name, "there are no targets")
        summed = np.concatenate([[0.0], np.cumsum(gain_k)])
        first_R = np.minimum(self.above_R, len(gain_k))
        end_R = np.minimum(self.above_R + self.level_R + 1, len(gain_k))
        return float(np.mean((summed[end_R] - summed[first_R]) / (self.level_R + 1)))


def places_among_all(scores_RI: Tensor, targets_R: Tensor, known: Ragged) -> TargetPlaces:
    """Each target among all items but those that its request knows already.

    A target that is known stays: what is left out is what it is held against.

    Args:
        scores_RI: Of every item, finite or -∞.
        targets_R: int64 in 0 … I - 1.
        known: Items of each request that are left out, such as its history; any may stand twice.

    Raises:
        MetricError: A score is NaN or +∞, or a target or a known item is none of the items.

    >>> scores_RI = torch.tensor([[3.0, 2.0, 1.0, 2.0]])
    >>> places_among_all(scores_RI, torch.tensor([2]), Ragged(torch.tensor([0]), torch.tensor([0, 1])))
    TargetPlaces(above_R=array([2]), level_R=array([0]))
    """
    num_items = scores_RI.shape[1]
    _check_ids("target", targets_R, num_items)
    _check_ids("known item", known.values, num_items)
    target_R1 = _checked(scores_RI).gather(1, targets_R.unsqueeze(1))
    above_RI, level_RI = scores_RI > target_R1, scores_RI == target_R1
    of_known = torch.arange(len(known)).repeat_interleave(known.lengths), known.values
    above_RI[of_known] = False
    level_RI[of_known] = False
    level_RI.scatter_(1, targets_R.unsqueeze(1), False)  # what is equal to itself is no tie
    return _counted(above_RI, level_RI)


def places_among_sampled(scores_RN: Tensor, targets_R: Tensor) -> TargetPlaces:
    """Each target among its request's negatives; one that stands twice counts twice.

    Args:
        scores_RN: Of the negatives, finite or -∞.
        targets_R: Scores of the targets.

    Raises:
        MetricError: A score is NaN or +∞.

    >>> places_among_sampled(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([2.0]))
    TargetPlaces(above_R=array([1]), level_R=array([1]))
    """
    target_R1 = _checked(targets_R.unsqueeze(1))
    scores_RN = _checked(scores_RN)
    return _counted(scores_RN > target_R1, scores_RN == target_R1)


def draw_negatives(known: Ragged, num_items: int, num_negatives: int, *, seed: int, first_item: int = 0) -> Tensor:
    """Items drawn uniformly, with replacement, from those that a request doesn't know.

    Args:
        known: Items of each request that are not drawn.
        num_items: One more than the largest id.
        num_negatives: How many for each.
        seed: Of the draws.
        first_item: The smallest id.

    Returns:
        int64 R × N.

    Raises:
        MetricError: A request knows all items.

    >>> draw_negatives(Ragged(torch.tensor([0, 2]), torch.tensor([0, 2])), 4, 5, seed=0).unique().tolist()
    [1, 3]
    """
    num_requests, span = len(known), num_items - first_item
    request_n = torch.arange(num_requests).repeat_interleave(known.lengths)
    known_keys = torch.unique(request_n * num_items + known.values)
    most = int(torch.bincount(known_keys.div(num_items, rounding_mode="floor"), minlength=1).max())
    if num_requests and most >= span:
        raise MetricError(
            "a request knows all items, so there are no negatives for it", found=f"{most} known",
            allowed=f"fewer than {span}",
        )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    drawn_n = torch.randint(first_item, num_items, (num_requests * num_negatives,), generator=generator)
    of_n = torch.arange(num_requests).repeat_interleave(num_negatives)
    open_n = torch.arange(len(drawn_n))
    while len(open_n):
        open_n = open_n[torch.isin(of_n[open_n] * num_items + drawn_n[open_n], known_keys)]
        drawn_n[open_n] = torch.randint(first_item, num_items, (len(open_n),), generator=generator)
    return drawn_n.view(num_requests, num_negatives)


def _counted(above_RI: Tensor, level_RI: Tensor) -> TargetPlaces:
    return TargetPlaces(above_RI.count_nonzero(1).numpy(), level_RI.count_nonzero(1).numpy())


def _checked(scores: Tensor) -> Tensor:
    if scores.numel() and not scores.amax() < torch.inf:  # a NaN is the highest of all
        bad = int((scores.isnan() | (scores == torch.inf)).sum())
        raise MetricError(
            "scores cannot be ranked", found=f"{bad} NaN or +∞ of {scores.numel()}", allowed="finite, or -∞"
        )
    return scores


def _check_ids(what: str, ids_n: Tensor, num_items: int) -> None:
    if len(ids_n) and not 0 <= int(ids_n.min()) <= int(ids_n.max()) < num_items:
        raise MetricError(
            f"a {what} is none of the items", found=f"{int(ids_n.min())} … {int(ids_n.max())}",
            allowed=f"0 … {num_items - 1}",
        )  # fmt: skip
