"""What is minimised: losses over the actions of a schema.

Letters: C candidates, flat · A actions.
"""

from __future__ import annotations

import abc
import math
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

    It sees the targets, may own parameters, and is dropped at export. What sets two objectives of a kind apart shows in
    their `str` (by `extra_repr`): a training goes on from a checkpoint only under an objective of the same `str`.
    """

    @abc.abstractmethod
    def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The summed loss in nats, and the weight it was summed over; both are sums, so two shards add up.

        Args:
            encoded: What the model's body gave.
            logits_CA: What its head gave.
            batch: Features and targets.
        """


@final
class PointwiseObjective(Objective):
    """Σ over actions of share · loss(logits, labels), over what was observed.

    The count is Σ weights_C over the candidates that count: those of which some action that has a share was observed.
    So with one action the loop minimises the mean loss of the observed labels, and a candidate of which nothing is
    known is as good as absent.

    Args:
        schema: Declares the actions.
        loss: One loss for all of them.
        shares: Weight of each action in the sum, ≥ 0, at least one above 0; by default 1 each.

    Raises:
        RecipeError: There are not as many shares as actions, one is negative or not finite, or all are 0.

    >>> PointwiseObjective(Schema(actions=(Action(name="click"), Action(name="apply")), features=()), shares=(1.0, 0.5))
    PointwiseObjective(loss=binary_cross_entropy, shares=(1.0, 0.5))
    """

    def __init__(
        self, schema: Schema, loss: Loss = binary_cross_entropy, shares: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self._actions, self.loss = schema.actions, loss
        self._shares = tuple(shares) if shares is not None else (1.0,) * len(schema.actions)
        if len(self._shares) != len(schema.actions):
            raise RecipeError(
                "shares of the objective and actions of the schema differ in number",
                found=len(self._shares),
                allowed=len(schema.actions),
            )
        if not all(math.isfinite(share) and share >= 0 for share in self._shares) or not any(self._shares):
            raise RecipeError(
                "the objective cannot use these shares", found=self._shares, allowed="finite, ≥ 0, not all of them 0"
            )

    def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See the class."""
        targets, request_C = batch.targets, batch.features.request_C
        losses: list[Tensor] = []
        counts: list[Tensor] = []
        # unbind, because the backward of one unbind is one stack, and that of each indexed column a block of zeros
        columns_C = (column_CA.unbind(1) for column_CA in (logits_CA, targets.labels_CA, targets.observed_CA))
        columns = zip(self._actions, self._shares, *columns_C, strict=True)
        for action, share, logits_C, labels_C, observed_C in columns:
            if share:
                weights_C = targets.weights_C * observed_C
                labels_C = binary_labels(action, labels_C)
                loss = self.loss(logits_C, labels_C, request_C=request_C, weights_C=weights_C)
                losses.append(loss if share == 1 else share * loss)
                counts.append(weights_C)
        if len(losses) == 1:
            return losses[0], counts[0].sum()
        return torch.stack(losses).sum(), torch.stack(counts).amax(0).sum()

    def extra_repr(self) -> str:
        """The loss and the shares."""
        return f"loss={getattr(self.loss, '__qualname__', self.loss)}, shares={self._shares}"


def binary_labels(action: Action, labels_C: Tensor) -> Tensor:
    """What log loss takes for an action: the label, or whether a grade reaches the declared threshold; NaN stays NaN.

    Args:
        action: Declares a threshold if it is graded.
        labels_C: 0 or 1, or grades; NaN where not observed.

    Returns:
        0, 1 or NaN, of the same shape and dtype.

    >>> binary_labels(Action(name="stars", kind="graded", threshold=4), torch.tensor([3.0, 4.0, 5.0]))
    tensor([0., 1., 1.])
    """
    if action.threshold is None:
        return labels_C
    return torch.where(labels_C.isnan(), labels_C, (labels_C >= action.threshold).to(labels_C.dtype))
