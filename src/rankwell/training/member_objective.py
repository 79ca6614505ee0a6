"""Each member of an ensemble is trained as if it were alone.

Letters: C candidates, flat · A actions.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from rankwell.schema import Schema
from rankwell.training.objectives import Objective, PointwiseObjective
from rankwell.types import Batch, Encoded

__all__ = ["MemberObjective"]


@final
class MemberObjective(Objective):
    """The mean over a model's members of what `inner` says of each one's logits; of any other model, `inner`.

    A loss of the mean logit would let members make up for each other, and their mean would fit train as closely as one
    large network does. With a loss of its own, each errs in its own way, and the mean errs less. Rules that scale a
    gradient by its own size (Adam's, AdaGrad's) move a member as they would alone.

    Args:
        schema: Declares the actions.
        inner: By default `PointwiseObjective`; of the model's body it is shown nothing but logits.

    >>> from rankwell.schema import Action
    >>> MemberObjective(Schema(actions=(Action(name="click"),), features=()))
    MemberObjective(
      (inner): PointwiseObjective(loss=binary_cross_entropy, shares=(1.0,))
    )
    """

    def __init__(self, schema: Schema, inner: Objective | None = None) -> None:
        super().__init__()
        self.inner = PointwiseObjective(schema) if inner is None else inner
        self.terms = self.inner.terms

    def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See the class."""
        if not encoded.members:
            loss, count = self.inner(encoded, logits_CA, batch)
            return loss, count
        pairs = [self.inner(encoded, member_CA, batch) for member_CA in encoded.members]
        return torch.stack([loss for loss, _ in pairs]).mean(), pairs[0][1]
