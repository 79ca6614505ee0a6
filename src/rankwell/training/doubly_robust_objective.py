"""What was never shown is imputed, and the imputation mended by what was.

Letters: C candidates, flat · A actions.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from rankwell.models.model import Model
from rankwell.schema import Schema
from rankwell.training.objectives import Objective, binary_labels
from rankwell.training.propensity import check_clip
from rankwell.training.propensity_objective import PropensityObjective
from rankwell.types import Batch, Encoded

__all__ = ["DoublyRobustObjective"]


@final
class DoublyRobustObjective(Objective):
    """Cross-entropy on labels that are right on average if the propensities or the imputation are.

    ``ỹ = q̂ + min(1/p, clip)·(y − q̂)`` where the candidate was shown, and ``ỹ = q̂`` where it was not (its label is not
    observed); q̂ is what the imputation says, and the loss ``Σ w·(ln(1 + e^z) − ỹ·z)`` is over both. ỹ is no
    probability, but its mean is: of one row the loss has no lowest value, and of many that share weights it has.

    Without an imputation nothing is known of what was not shown: then it is `PropensityObjective`.

    Args:
        schema: Declares the actions, and by its exposure which column the propensity is.
        imputation: A finished model of the same schema, such as one trained on what was shown; it is not trained.
        clip: The largest ratio, above 0; None for no limit.

    Raises:
        TrainingError: `clip` is not above 0.

    >>> from rankwell.schema import Action
    >>> DoublyRobustObjective(Schema(actions=(Action(name="click"),), features=()), clip=20.0)
    DoublyRobustObjective(clip=20.0, imputation=None)

    Source: Dudík, Langford and Li 2011, "Doubly robust policy evaluation and learning", ICML; Wang et al. 2019, "Doubly
    robust joint learning for recommendation on data missing not at random", ICML.
    """

    def __init__(self, schema: Schema, imputation: Model | None = None, *, clip: float | None = None) -> None:
        super().__init__()
        check_clip(clip)
        self._schema, self.clip = schema, clip
        self._imputation = () if imputation is None else (imputation,)  # in a tuple: no module of this one

    def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See the class."""
        if not self._imputation:
            weighted = PropensityObjective(self._schema, clip=self.clip)
            loss, count = weighted(encoded, logits_CA, batch)
            return loss, count
        targets = batch.targets
        with torch.no_grad():
            imputed_CA = self._imputation[0](batch.features).sigmoid()
        columns_C = [
            binary_labels(action, column_C)
            for action, column_C in zip(self._schema.actions, targets.labels_CA.unbind(1), strict=True)
        ]
        label_CA = torch.stack(columns_C, dim=1)
        shown_CA = targets.observed_CA & ~label_CA.isnan()
        ratio_C = targets.propensity_C.reciprocal()
        ratio_C = ratio_C if self.clip is None else ratio_C.clamp(max=self.clip)
        error_CA = torch.where(shown_CA, label_CA - imputed_CA, 0.0)
        pseudo_CA = imputed_CA + ratio_C[:, None] * error_CA
        loss = binary_cross_entropy_with_logits(
            logits_CA.to(pseudo_CA.dtype), pseudo_CA, weight=targets.weights_C[:, None], reduction="sum"
        )
        return loss, targets.weights_C.sum()

    def extra_repr(self) -> str:
        """The limit, and what kind of model imputes."""
        kind = type(self._imputation[0]).__name__ if self._imputation else None
        return f"clip={self.clip}, imputation={kind}"
