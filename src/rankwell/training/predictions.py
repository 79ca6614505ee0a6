"""What a model says about a whole split, side by side with what happened.

Letters: C candidates of the split, flat · A actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.models.model import Model
from rankwell.schema import Schema
from rankwell.training.objectives import binary_labels
from rankwell.types import Batch, Features

__all__ = ["Predictions", "predict", "predict_action"]


@final
@dataclass(frozen=True, slots=True)
class Predictions:
    """Logits and labels of a split, candidate by candidate, in the order of its batches.

    Args:
        logits_CA: float32, natural log-odds, uncalibrated.
        labels_CA: float32, binary (a graded label against its threshold), NaN where not observed.
        weights_C: float32.
        request_C: int64, numbered through the split.
        request_ids_C: int64, the log's request ids.
        item_ids_C: int64.
        segments: Column name to its values, C each.
        gains: Graded action to the gain of each candidate's grade, float32 of C; NaN where not observed.
    """

    logits_CA: Tensor
    labels_CA: Tensor
    weights_C: Tensor
    request_C: Tensor
    request_ids_C: Tensor
    item_ids_C: Tensor
    segments: dict[str, Tensor]
    gains: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.weights_C)

    def of_action(self, index: int) -> tuple[Tensor, Tensor, Tensor, NDArray[np.bool_]]:
        """Logits, labels and weights of one action where it was observed, and the mask of those candidates.

        >>> nothing_C = torch.zeros(2, dtype=torch.int64)
        >>> predictions = Predictions(torch.tensor([[1.0], [2.0]]), torch.tensor([[torch.nan], [1.0]]), torch.ones(2),
        ...                           nothing_C, nothing_C, nothing_C, {})
        >>> predictions.of_action(0)
        (tensor([2.]), tensor([1.]), tensor([1.]), array([False,  True]))
        """
        known_C = ~self.labels_CA[:, index].isnan()
        return (
            self.logits_CA[known_C, index],
            self.labels_CA[known_C, index],
            self.weights_C[known_C],
            known_C.numpy(),
        )

    def segments_CS(self, names: Sequence[str]) -> Tensor:
        """The segments of each candidate, C × S, by columns that were carried along; S = 0 without names."""
        none_CS = torch.zeros(len(self.weights_C), 0, dtype=torch.int64)
        return torch.stack([self.segments[name] for name in names], dim=1) if names else none_CS


def predict(model: Model, batches: Iterable[Batch], segments: Sequence[str] = ()) -> Predictions:
    """Run a model over batches in eval mode; the model's mode is put back.

    Memory follows the columns of `Predictions`, not the features: a batch is dropped when the next one comes.

    Args:
        model: Any.
        batches: Of one split.
        segments: Columns to carry along, wherever they stand in the batch.

    Returns:
        All candidates in the order of the batches; none where there are no batches.

    Raises:
        SchemaError: A segment is no column of the batches, or a list.
        LogError: A grade has no gain.
    """
    columns: dict[str, list[Tensor]] = {name: [] for name in _COLUMNS}
    carried: dict[str, list[Tensor]] = {name: [] for name in segments}
    graded = {a: action for a, action in enumerate(model.schema.actions) if action.kind == "graded"}
    gains: dict[str, list[Tensor]] = {action.name: [] for action in graded.values()}
    num_requests = 0
    with _in_eval_mode(model):
        for batch in batches:
            features, audit = batch.features, batch.audit
            columns["logits_CA"].append(_logits(model, features))
            columns["labels_CA"].append(_binary_labels(model.schema, batch))
            columns["weights_C"].append(batch.targets.weights_C)
            columns["request_C"].append(features.request_C + num_requests)
            columns["request_ids_C"].append(audit.request_ids_R[features.request_C])
            columns["item_ids_C"].append(audit.item_ids_C)
            for name, values in carried.items():
                values.append(batch.column_C(name))
            for a, action in graded.items():
                gains[action.name].append(action.gain_of(batch.targets.labels_CA[:, a]))
            num_requests += features.num_requests
    num_actions = len(model.schema.actions)
    return Predictions(
        logits_CA=_joined(columns["logits_CA"], torch.empty(0, num_actions)),
        labels_CA=_joined(columns["labels_CA"], torch.empty(0, num_actions)),
        weights_C=_joined(columns["weights_C"], torch.empty(0)),
        request_C=_joined(columns["request_C"], _NO_IDS),
        request_ids_C=_joined(columns["request_ids_C"], _NO_IDS),
        item_ids_C=_joined(columns["item_ids_C"], _NO_IDS),
        segments={name: _joined(values, _NO_IDS) for name, values in carried.items()},
        gains={name: _joined(values, torch.empty(0)) for name, values in gains.items()},
    )


def predict_action(model: Model, batches: Iterable[Batch], index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and weights of one action where it was observed: what an evaluation needs, and nothing besides.

    Args:
        model: Any; its mode is put back.
        batches: Of one split.
        index: Of the action.

    Returns:
        logits_C, labels_C and weights_C, float32, in the order of the batches.
    """
    columns: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    with _in_eval_mode(model):
        for batch in batches:
            logits_C = _logits(model, batch.features)[:, index]
            labels_C = _binary_labels(model.schema, batch)[:, index]
            known_C = ~labels_C.isnan()
            for values, column_C in zip(columns, (logits_C, labels_C, batch.targets.weights_C), strict=True):
                values.append(column_C[known_C])
    logits_C, labels_C, weights_C = (_joined(values, torch.empty(0)) for values in columns)
    return logits_C, labels_C, weights_C


_COLUMNS: Final = ("logits_CA", "labels_CA", "weights_C", "request_C", "request_ids_C", "item_ids_C")
_NO_IDS: Final = torch.empty(0, dtype=torch.int64)


@contextmanager
def _in_eval_mode(model: Model) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.inference_mode()  # around the model alone: a batch decoded in it could be kept, and never be trained on
def _logits(model: Model, features: Features) -> Tensor:
    logits_CA: Tensor = model(features)
    return logits_CA


def _binary_labels(schema: Schema, batch: Batch) -> Tensor:
    columns_C = batch.targets.labels_CA.unbind(1)  # NaN where not observed
    return torch.stack([binary_labels(*pair) for pair in zip(schema.actions, columns_C, strict=True)], dim=1)


def _joined(parts: list[Tensor], none: Tensor) -> Tensor:
    """All parts in one tensor; the list is emptied, so that a split's columns stand in memory twice one at a time."""
    joined = torch.cat(parts) if parts else none
    parts.clear()
    return joined
