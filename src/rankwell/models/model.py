"""What every model is.

Letters: R requests · C candidates, flat · A actions · D model width.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from rankwell.data.statistics import NumericStatistics
from rankwell.errors import SchemaError
from rankwell.schema import Schema
from rankwell.schema.transforms import Declaration
from rankwell.tables.table import Table
from rankwell.types import Encoded, Features

__all__ = ["Model", "ModelSettings"]


class ModelSettings(Declaration):
    """What a model of a kind is built from, besides the schema; it travels as JSON in the bundle."""


class Model(nn.Module, abc.ABC):
    """Features in, logits out.

    ``forward(features)`` gives logits_CA, natural log-odds, and is ``head(encode(features))``. Dense parameters are the
    module's own; rows for ids stand in `tables`, which lend them in training mode and are read in eval mode. Requests
    don't see each other: in eval mode the logits of one are the same whatever else is in the batch.

    Every concrete model is built from (schema, statistics, settings, seed) and names its settings' class.

    Args:
        schema: What the columns of its features mean.
        statistics: Of the numerics, measured on `train`.
        settings: What it is built from besides; by default its settings' class as it stands.
        seed: Of the random numbers that its parts start from.

    Raises:
        SchemaError: The schema shows it no feature and no sequence.
    """

    settings_class: ClassVar[type[ModelSettings]]

    schema: Schema
    statistics: NumericStatistics
    settings: ModelSettings
    tables: Mapping[str, Table]
    """By the name of the part they serve, such as "wide" and "deep"; parts that read no ids have none."""
    linear_parts: frozenset[str] = frozenset()
    """The parts among `tables` whose rows are weights of a linear model: they add to the logits as they stand."""

    def __init__(
        self, schema: Schema, statistics: NumericStatistics, settings: ModelSettings | None = None, *, seed: int
    ) -> None:
        super().__init__()
        if not schema.visible_features and not schema.sequences:
            raise SchemaError(
                f"{type(self).__name__} has nothing to read",
                found=f"no features, and {len(schema.protected)} protected attributes that models may not see",
                allowed="at least one feature or one sequence",
                do="declare what is known of requests and candidates in the schema's `features`",
            )
        del seed  # it is the parts that draw
        self.schema, self.statistics = schema, statistics
        self.settings = settings or self.settings_class()

    @abc.abstractmethod
    def encode(self, features: Features) -> Encoded:
        """The body: one vector a request, one a candidate."""

    @abc.abstractmethod
    def head(self, encoded: Encoded) -> Tensor:
        """logits_CA from what `encode` gave."""

    def forward(self, features: Features) -> Tensor:
        """logits_CA, one column an action of the schema."""
        return self.head(self.encode(features))
