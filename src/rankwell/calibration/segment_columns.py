"""Which columns of a log can be segments of a calibrator, and their values in a batch.

Letters in names: C candidates, flat over the batch · S segment columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rankwell.schema import Categorical, Schema
from rankwell.types import Batch

__all__ = ["known_segments", "segments_of"]


def known_segments(schema: Schema) -> list[str]:
    """The features that have one id a candidate or request, and are there when a request is ranked.

    >>> from rankwell.schema import Action, Bag
    >>> features = (Categorical(name="country", on="request"), Bag(name="skills"))
    >>> known_segments(Schema(features=features, actions=(Action(name="click"),)))
    ['country']
    """
    return [feature.name for feature in schema.features if isinstance(feature, Categorical)]


def segments_of(batch: Batch, names: Sequence[str]) -> Tensor:
    """The segments of each candidate, int64 of C × S; S = 0 without names.

    Args:
        batch: Of the schema's features.
        names: As `known_segments` has them.
    """
    if not names:
        return torch.zeros(batch.features.num_candidates, 0, dtype=torch.int64)
    return torch.stack([batch.column_C(name) for name in names], dim=1)
