"""A policy that explores in declared slots, with propensities that are known exactly.

Letters in names: K candidates of one request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
from torch import Tensor

from rankwell.errors import RequestError
from rankwell.ranking.policies import best_first
from rankwell.tables.hashing import mix64, mix64_each
from rankwell.types import RankedList

__all__ = ["SlotExploration"]

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


@final
@dataclass(frozen=True, slots=True)
class SlotExploration:
    """The best candidates fill the slots that don't explore, in order; each of the others is drawn from what is left.

    Of K candidates, m = min(length, K) are shown, e of them in exploring slots. The best m - e take the other slots
    first, whatever is drawn, so each has the propensity 1. From the N = min(`pool`, K - m + e) best of the rest (and
    never fewer than e), the exploring slots are filled uniformly without replacement::

        propensity(item, exploring slot) = 1 / N

    Args:
        slots: The 1-based positions that explore, each once; those beyond the list do nothing. () explores nowhere.
        pool: From how many of the best that are left a slot is drawn, ≥ 1. A larger pool learns of more items, and
            shows worse ones.

    Raises:
        RequestError: A slot is below 1 or stands twice, or the pool is below 1.

    >>> p = torch.tensor([0.4, 0.3, 0.2, 0.1])
    >>> ranked = SlotExploration(slots=(2,))(
    ...     torch.tensor([7, 3, 5, 9]), p, logits_K=p.logit(), probabilities_K=p, length=3, seed=0)
    >>> ranked.item_ids[[0, 2]].tolist(), ranked.propensities.tolist()
    ([7, 3], [1.0, 0.5, 1.0])
    """

    slots: tuple[int, ...] = (3, 7)
    pool: int = 20

    def __post_init__(self) -> None:
        if any(slot < 1 for slot in self.slots) or len(set(self.slots)) < len(self.slots):
            raise RequestError(
                "the exploring slots are no positions",
                found=self.slots,
                allowed="distinct whole numbers from 1 on",
                do="name each position once",
            )
        if self.pool < 1:
            raise RequestError("the pool lets nothing be drawn", found=self.pool, allowed="1 or more")

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
        """See `Policy`."""
        num = len(item_ids_K)
        most = length if length < 1 else length + self.pool  # no slot takes one that stands behind these
        best = best_first(utilities_K, logits_K, item_ids_K, length=most)
        num_shown = min(length, num)
        explores = np.zeros(num_shown, bool)
        explores[[slot - 1 for slot in self.slots if slot <= num_shown]] = True
        num_explored = int(explores.sum())
        num_fixed = num_shown - num_explored
        num_pooled = min(max(self.pool, num_explored), num - num_fixed)
        places = np.empty(num_shown, np.int64)
        places[~explores] = np.arange(num_fixed)
        places[explores] = num_fixed + _drawn(num_explored, num_pooled, seed)
        propensities = np.ones(num_shown)
        propensities[explores] = 1.0 / max(num_pooled, 1)
        chosen = torch.from_numpy(best[places])
        return RankedList(
            item_ids=item_ids_K.index_select(0, chosen),
            probabilities=probabilities_K.index_select(0, chosen),
            utilities=utilities_K.index_select(0, chosen),
            propensities=torch.from_numpy(propensities),
        )


def _drawn(num: int, num_of: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """`num` of 0 … num_of - 1, without replacement: the first in the order of keys mixed from seed and place."""
    start = mix64(np.uint64(seed % 2**64) ^ _GOLDEN)
    keys = mix64_each(start ^ (_GOLDEN * np.arange(1, num_of + 1, dtype=np.uint64)))
    return np.argsort(keys)[:num]
