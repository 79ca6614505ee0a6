"""Rows that were unlikely to be shown count for those that were not.

Letters: C candidates, flat · A actions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import final

from torch import Tensor

from rankwell.errors import RecipeError
from rankwell.schema import Schema
from rankwell.training.objectives import Objective, PointwiseObjective
from rankwell.training.propensity import check_clip
from rankwell.types import Batch, Encoded

__all__ = ["PropensityObjective"]


@final
class PropensityObjective(Objective):
    """What `inner` says of the batch with its rows weighted by inverse propensities.

    ``w_C ↦ w_C · min(1/p_C, clip) / mean_ratio``, with p the propensity that the schema's exposure names; so the loss
    is that of the traffic in which all was shown alike, as far as it was shown at all. The count stays that of the
    rows, and the loop's division leaves the mean over that traffic.

    Args:
        schema: Declares the actions, and by its exposure which column the propensity is.
        inner: By default `PointwiseObjective`.
        clip: The largest ratio, above 0; None for no limit.
        mean_ratio: What the ratios' mean over the log is, so that rows weigh on average what they did
            (self-normalised); at 1 steps are that much longer.

    Raises:
        RecipeError: `mean_ratio` is not above 0.
        TrainingError: `clip` is not above 0.

    >>> from rankwell.schema import Action
    >>> PropensityObjective(Schema(actions=(Action(name="click"),), features=()), clip=20.0)
    PropensityObjective(
      clip=20.0, mean_ratio=1.0
      (inner): PointwiseObjective(loss=binary_cross_entropy, shares=(1.0,))
    )

    Source: Schnabel et al. 2016, "Recommendations as treatments: debiasing learning and evaluation", ICML.
    """

    def __init__(
        self, schema: Schema, inner: Objective | None = None, *, clip: float | None = None, mean_ratio: float = 1.0
    ) -> None:
        super().__init__()
        check_clip(clip)
        if not mean_ratio > 0:
            raise RecipeError("`mean_ratio` is no mean of ratios", found=mean_ratio, allowed="above 0")
        self.inner = PointwiseObjective(schema) if inner is None else inner
        self.terms = self.inner.terms
        self.clip, self.mean_ratio = clip, mean_ratio

    def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See the class."""
        targets = batch.targets
        ratio_C = targets.propensity_C.reciprocal()
        ratio_C = (ratio_C if self.clip is None else ratio_C.clamp(max=self.clip)) / self.mean_ratio
        weighted = replace(batch, targets=replace(targets, weights_C=targets.weights_C * ratio_C))
        loss, _ = self.inner(encoded, logits_CA, weighted)
        count = (targets.weights_C * targets.observed_CA.any(1)).sum()
        return loss, count

    def extra_repr(self) -> str:
        """The limits."""
        return f"clip={self.clip}, mean_ratio={self.mean_ratio}"
