"""What members did with what was shown, and how it came to be shown."""

from __future__ import annotations

from typing import Annotated, Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rankwell.errors import LogError, SchemaError
from rankwell.schema.columns import Name
from rankwell.schema.transforms import Declaration

__all__ = ["Action", "Exposure"]


@final
class Action(Declaration):
    """Something a member may do with a candidate.

    Args:
        name: Its name; the log's label column is `column`, or `name`.
        kind: "binary" (0 or 1) or "graded" (0, 1, 2, …).
        column: The log's column, where it isn't called `name`.
        threshold: For log loss a graded label counts as 1 from here on.
        gains: For ranking losses and nDCG, the gain of each grade from 0 on; by default 2^grade - 1.
        window_s: How long after the impression the action may still come. Until then it is not `observed`.

    >>> apply = Action(name="apply", column="applied", window_s=7 * 86_400)
    >>> apply.label_column, apply.observed_column
    ('applied', 'apply_observed')
    """

    name: Name
    kind: Literal["binary", "graded"] = "binary"
    column: Name | None = None
    threshold: Annotated[float, Field(gt=0)] | None = None
    gains: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=2)] | None = None
    window_s: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _grades_are_declared(self) -> Self:
        if self.kind == "graded" and self.threshold is None:
            raise SchemaError(
                f"action {self.name!r} is graded and has no threshold",
                allowed="a grade above 0 from which a label counts as 1",
                do="declare threshold=…: probabilities are of reaching it",
            )
        if self.kind == "binary" and (self.threshold is not None or self.gains is not None):
            raise SchemaError(
                f"action {self.name!r} is binary, but has what only grades have",
                found={"threshold": self.threshold, "gains": self.gains},
                allowed="threshold and gains with kind='graded'",
                do="declare kind='graded', or drop them",
            )
        if self.gains is not None and self.threshold is not None and self.threshold > len(self.gains) - 1:
            raise SchemaError(
                f"action {self.name!r}: no grade that has a gain reaches the threshold",
                found=f"threshold {self.threshold:g} and gains for the grades 0 to {len(self.gains) - 1}",
                allowed="a threshold of at most the highest grade",
                do="give a gain for each grade, from 0 on, or lower the threshold",
            )
        return self

    @property
    def label_column(self) -> str:
        """The log's column of labels."""
        return self.column or self.name

    @property
    def observed_column(self) -> str:
        """The log's column that says whether the label is known; a log may lack it, and then every label is."""
        return f"{self.name}_observed"

    def gain_of(self, labels_C: Tensor) -> Tensor:
        """The gain of each label for ranking: ``gains[grade]`` where gains are declared, else 2^grade - 1.

        Args:
            labels_C: Whole grades from 0 on; NaN where not observed.

        Returns:
            float32; NaN where the label is.

        Raises:
            LogError: A grade beyond those that have a gain.

        >>> Action(name="click").gain_of(torch.tensor([0.0, 1.0])).tolist()
        [0.0, 1.0]
        >>> Action(name="stars", kind="graded", threshold=2, gains=(0, 1, 5)).gain_of(torch.tensor([2.0, 1.0])).tolist()
        [5.0, 1.0]
        """
        if self.gains is None:
            return torch.exp2(labels_C.double()).float() - 1.0
        unknown_C = labels_C.isnan()
        grades_C = torch.where(unknown_C, 0, labels_C).long()
        if len(grades_C) and int(grades_C.max()) >= len(self.gains):
            raise LogError(
                f"action {self.name!r}: a grade has no gain",
                found=int(grades_C.max()),
                allowed=f"0 to {len(self.gains) - 1}, the grades that `gains` declares",
                do="declare a gain for every grade",
            )
        gains_C = torch.tensor(self.gains, dtype=torch.float32)[grades_C]
        return torch.where(unknown_C, torch.nan, gains_C)


@final
class Exposure(Declaration):
    """How each candidate came to be seen; names of candidate columns, all optional.

    Args:
        position: 1-based place in the shown list; null or 0 where it was not shown.
        propensity: Probability that the logging policy showed it at this position, in (0, 1].
        retrieval: Probability that the retrieval stage let it through, in (0, 1].
        examination: Probability that this position was looked at, in (0, 1].

    >>> Exposure(position="rank", propensity="shown_at_rank").position
    'rank'
    """

    position: Name | None = None
    propensity: Name | None = None
    retrieval: Name | None = None
    examination: Name | None = None
