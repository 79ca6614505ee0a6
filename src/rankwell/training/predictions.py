"""What a model says about a whole split, side by side with what happened.

Letters: C candidates of the split, flat · A actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.models.model import Model
from rankwell.training.objectives import binary_labels
from rankwell.types import Batch

__all__ = ["Predictions", "predict"]


@final
@dataclass(frozen=True, slots=True)
class Predictions:
    """Logits and labels of a split.

    Args:
        logits_CA: float32.
        labels_CA: float32, binary (a graded label against its threshold), NaN where not observed.
        weights_C: float32.
        request_C: int64, numbered through the split.
        request_ids_C: int64, the log's request ids.
        item_ids_C: int64.
        segments: Column name to int64 values, C each.
    """

    logits_CA: Tensor
    labels_CA: Tensor
    weights_C: Tensor
    request_C: Tensor
    request_ids_C: Tensor
    item_ids_C: Tensor
    segments: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.weights_C)

    def of_action(self, index: int) -> tuple[Tensor, Tensor, Tensor, NDArray[np.bool_]]:
        """Logits, labels and weights of one action where it was observed, and the mask of those candidates."""
        known_C = ~self.labels_CA[:, index].isnan()
        return (
            self.logits_CA[known_C, index],
            self.labels_CA[known_C, index],
            self.weights_C[known_C],
            known_C.numpy(),
        )


def predict(model: Model, batches: Iterable[Batch], segments: Sequence[str] = ()) -> Predictions:
    """Run a model over batches in eval mode; the model's mode is put back.

    Args:
        model: Any.
        batches: Of one split.
        segments: Columns to carry along, wherever they stand in the batch.

    Returns:
        All candidates in the order of the batches.
    """
    was_training = model.training
    model.eval()
    logits, labels, weights, requests, request_ids, items = [], [], [], [], [], []
    carried: dict[str, list[Tensor]] = {name: [] for name in segments}
    num_requests = 0
    try:
        with torch.inference_mode():
            for batch in batches:
                features, targets = batch.features, batch.targets
                logits.append(model(features))
                labels.append(
                    torch.stack(
                        [binary_labels(a, targets.labels_CA[:, i]) for i, a in enumerate(model.schema.actions)], dim=1
                    ).masked_fill(~targets.observed_CA, torch.nan)
                )
                weights.append(targets.weights_C)
                requests.append(features.request_C + num_requests)
                request_ids.append(batch.audit.request_ids_R[features.request_C])
                items.append(batch.audit.item_ids_C)
                num_requests += features.num_requests
                for name, columns in carried.items():
                    columns.append(batch.column_C(name))
    finally:
        model.train(was_training)
    return Predictions(
        torch.cat(logits).clone(), torch.cat(labels), torch.cat(weights), torch.cat(requests), torch.cat(request_ids),
        torch.cat(items), {name: torch.cat(columns) for name, columns in carried.items()},
    )  # fmt: skip
