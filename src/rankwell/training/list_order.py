"""How well a model orders lists: what a training is watched by whose loss sees nothing but order.

Letters: C candidates of the split, flat.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import torch

from rankwell.evaluation.ranking_quality import ndcg_at_k
from rankwell.models.model import Model
from rankwell.training.monitor import Monitor
from rankwell.training.predictions import Predictions, predict
from rankwell.types import Batch

__all__ = ["ListNdcg", "ndcg_of_logits"]


@final
@dataclass(frozen=True)
class ListNdcg(Monitor):
    """nDCG@k of the first action, of gains where it is graded; see `ndcg_of_logits`.

    Log loss is no guide where logits order only, and AUC compares candidates across requests, which such logits don't.

    Args:
        k: ≥ 1.

    >>> ListNdcg(k=5)
    ListNdcg(k=5)
    """

    k: int = 10

    def value(self, model: Model, tune: Iterable[Batch]) -> float:
        """See `Monitor`."""
        return ndcg_of_logits(predict(model, tune), model.schema.actions[0].name, self.k)


def ndcg_of_logits(predictions: Predictions, action: str, k: int) -> float:
    """nDCG@k of the first action, ranked by logit: no two logits are made equal by a probability that is rounded.

    Args:
        predictions: Of one split.
        action: The first action's name, by which its gains are found where it is graded.
        k: How many positions count, ≥ 1.

    Returns:
        As `rankwell.evaluation.ranking_quality.ndcg_at_k` gives it.

    >>> from rankwell.training.predictions import Predictions
    >>> ids_C, logits_CA = torch.zeros(2, dtype=torch.int64), torch.tensor([[50.0], [51.0]])  # σ of both is 1
    >>> predictions = Predictions(logits_CA, torch.tensor([[0.0], [1.0]]), torch.ones(2), ids_C, ids_C, ids_C, {})
    >>> ndcg_of_logits(predictions, "click", 10)
    1.0
    """
    logits_C, labels_C, weights_C, is_known_C = predictions.of_action(0)
    known_C = torch.from_numpy(is_known_C)
    gains_C = predictions.gains[action][known_C] if action in predictions.gains else labels_C
    _, rank_C = torch.unique(logits_C, return_inverse=True)
    stand_in_C = rank_C.double() / max(len(rank_C), 1)
    return ndcg_at_k(stand_in_C, gains_C, weights_C, request_C=predictions.request_C[known_C], k=k)
