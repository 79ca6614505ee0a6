"""What is minimised: losses over the actions of a schema.

Letters: C candidates, flat · A actions.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from rankwell.errors import RecipeError
from rankwell.losses.loss import Loss
from rankwell.losses.pointwise import binary_cross_entropy
from rankwell.schema import Action, Schema
from rankwell.types import Batch, Encoded

__all__ = ["Objective", "PointwiseObjective", "binary_labels"]


class Objective(nn.Module, abc.ABC):
    """(encoded, logits_CA, batch) → (loss, count): a sum, and what the loop divides it by.

    It sees the targets, may own parameters, and is dropped at export.
    """

    @abc.abstractmethod
    def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The summed loss in nats, and the weight it was summed over."""


@final
class PointwiseObjective(Objective):
    """Σ over actions of share · loss(logits, labels), unobserved labels counting nothing; count = Σ weights_C.

    Args:
        schema: Declares the actions.
        loss: One loss for all of them.
        shares: Weight of each action in the sum; by default 1 each.
    """

    def __init__(
        self, schema: Schema, loss: Loss = binary_cross_entropy, shares: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self._actions, self._loss = schema.actions, loss
        self._shares = tuple(shares) if shares is not None else (1.0,) * len(schema.actions)
        if len(self._shares) != len(schema.actions):
            raise RecipeError(
                "shares of the objective and actions of the schema differ in number",
                found=len(self._shares),
                allowed=len(schema.actions),
            )

    def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See the class."""
        targets, request_C = batch.targets, batch.features.request_C
        total = logits_CA.new_zeros(())
        for a, (action, share) in enumerate(zip(self._actions, self._shares, strict=True)):
            if share:
                loss = self._loss(
                    logits_CA[:, a],
                    binary_labels(action, targets.labels_CA[:, a]),
                    request_C=request_C,
                    weights_C=targets.weights_C * targets.observed_CA[:, a],
                )
                total = total + share * loss
        return total, targets.weights_C.sum()


def binary_labels(action: Action, labels_C: Tensor) -> Tensor:
    """What log loss takes for an action: the label, or whether a grade reaches the declared threshold; NaN stays NaN.

    >>> binary_labels(Action(name="stars", kind="graded", threshold=4), torch.tensor([3.0, 4.0, 5.0]))
    tensor([0., 1., 1.])
    """
    if action.threshold is None:
        return labels_C
    return torch.where(labels_C.isnan(), labels_C, (labels_C >= action.threshold).to(labels_C.dtype))
