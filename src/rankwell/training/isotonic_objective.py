"""Losses of what an isotonic layer makes of the logits, trained together with the model.

Letters: C candidates, flat · A actions.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from rankwell.calibration.isotonic_layer import IsotonicLayer
from rankwell.calibration.segment_columns import segments_of
from rankwell.errors import SchemaError
from rankwell.schema import Categorical, Schema
from rankwell.training.objectives import Objective, PointwiseObjective
from rankwell.types import Batch, Encoded

__all__ = ["IsotonicObjective"]


@final
class IsotonicObjective(Objective):
    """What `inner` says of the logits after an `IsotonicLayer` for each action, which is trained with the model.

    So the model's logits need only order candidates and may bend where log-odds are no simple sum; what is increasing
    about the bend is the layer's to learn. It is dropped after training like the rest of the objective: the recipe's
    calibrator is fitted on the model's own logits, which are no log-odds before that (`fit_segment_isotonic` fits the
    same function, offsets and all; `IsotonicLayer.as_calibrator` keeps the trained one). The loop had better go by an
    order, such as AUC, than by log loss on tune, which sees those logits.

    Args:
        schema: Declares the actions.
        inner: By default `PointwiseObjective`.
        num_buckets: Of each layer, from -12 to 6.
        segments: A categorical feature of a closed vocabulary; each layer has an offset for each of its ids.

    Raises:
        CalibrationError: There is no bucket.
        SchemaError: The feature is not there, or its vocabulary is open.

    >>> from rankwell.schema import Action
    >>> IsotonicObjective(Schema(actions=(Action(name="click"),), features=()))
    IsotonicObjective(
      (inner): PointwiseObjective(loss=binary_cross_entropy, shares=(1.0,))
      (layers): ModuleList(
        (0): IsotonicLayer(low=-12, high=6, num_buckets=100, num_segments=0)
      )
    )
    """

    def __init__(
        self, schema: Schema, inner: Objective | None = None, *, num_buckets: int = 100, segments: str | None = None
    ) -> None:
        super().__init__()
        self.inner = PointwiseObjective(schema) if inner is None else inner
        self.terms = self.inner.terms
        num_segments = 0 if segments is None else _num_ids(schema, segments)
        self._calibrate_by = () if segments is None else (segments,)
        self.layers = nn.ModuleList(
            IsotonicLayer(num_buckets=num_buckets, num_segments=num_segments) for _ in schema.actions
        )

    def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See the class."""
        columns = zip(self.layers, logits_CA.unbind(1), strict=True)
        segment_C = segments_of(batch, self._calibrate_by).sum(1)  # of one column, or of none
        bent_CA = torch.stack([layer(logits_C, segment_C) for layer, logits_C in columns], 1)
        loss, count = self.inner(encoded, bent_CA, batch)
        return loss, count


def _num_ids(schema: Schema, segments: str) -> int:
    feature = schema.feature(segments)
    num_ids = feature.num_ids if isinstance(feature, Categorical) else None
    if num_ids is None:
        raise SchemaError(
            f"a layer cannot have offsets by {segments!r}", found=type(feature).__name__,
            allowed="a Categorical with num_ids", do="name another, or calibrate by it after training",
        )  # fmt: skip
    return num_ids
