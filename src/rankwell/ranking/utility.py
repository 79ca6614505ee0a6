"""What showing a candidate is worth: a declared combination of calibrated probabilities and a bid.

Letters: C candidates · A actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self, final

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from rankwell.errors import RequestError, SchemaError
from rankwell.schema import Schema
from rankwell.schema.columns import Name
from rankwell.schema.transforms import Declaration, as_schema_error

__all__ = ["Utility"]

_Value = Annotated[float, Field(ge=0)]


@final
class Utility(Declaration):
    """The expected value of showing a candidate: ``Σ_a value_a · p(a | shown) + bid · p(paid | shown)``.

    Expectations add up whatever depends on what: where members share only what they have clicked, p(share | shown) has
    p(click | shown) in it already, and is multiplied with nothing. That is what calibrated probabilities are as long as
    an action is observed, with label 0, where what comes before it did not happen. In a log that observes shares of
    clicked candidates alone they are p(share | click), and have no place in this sum.

    Args:
        values: What one action is worth, by its name, finite and ≥ 0; an action that is not named is worth 0. With a
            bid they are in its unit, micros.
        bid_on: The action on which the candidate's bid is paid; with it, EVC = bid × p(bid_on) is added, in micros.

    Raises:
        SchemaError: A value is negative or not finite, or nothing is worth anything.

    >>> from rankwell.schema import Action, Categorical
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"), Action(name="share")),
    ...                 item="job", bid="bid_micros")
    >>> utility = Utility(values={"share": 50_000}, bid_on="click")
    >>> p_CA = torch.tensor([[0.5, 0.25], [0.5, 0.0]])
    >>> utility.utilities_C(p_CA, torch.tensor([20_000, 40_000]), schema=schema)
    tensor([22500., 20000.], dtype=torch.float64)
    >>> Utility.from_json(utility.to_json()) == utility
    True
    """

    values: Mapping[Name, _Value] = Field(default_factory=dict)
    bid_on: Name | None = None

    @model_validator(mode="after")
    def _something_is_worth_something(self) -> Self:
        if self.bid_on is None and not any(self.values.values()):
            raise SchemaError(
                "a utility in which nothing is worth anything orders nothing", found=dict(self.values),
                allowed="a value above 0, or a bid", do="name an action in values, or in bid_on",
            )  # fmt: skip
        return self

    def check(self, schema: Schema) -> None:
        """Hold it against a schema.

        Raises:
            SchemaError: It names an action that the schema doesn't, or a bid where the schema declares none.
        """
        for action in self.values:
            schema.action_index(action)
        if self.bid_on is not None:
            schema.action_index(self.bid_on)
            if schema.bid is None:
                raise SchemaError(
                    "the utility has a bid in it, and the schema names no column of bids", found=f"{self!r}",
                    do="declare the schema's `bid`, or drop bid_on",
                )  # fmt: skip

    def utilities_C(self, probabilities_CA: Tensor, bids_C: Tensor | None = None, *, schema: Schema) -> Tensor:
        """The utility of each candidate.

        Args:
            probabilities_CA: Calibrated, each of its action given that the candidate is shown; columns in the order of
                the schema's actions.
            bids_C: int64 micros, ≥ 0; looked at only where there is a `bid_on`.
            schema: Names the columns.

        Returns:
            float64; micros with a bid, else in the unit of the values.

        Raises:
            SchemaError: See `check`.
            RequestError: There are no bids, or one is negative.
        """
        self.check(schema)
        probabilities_CA = probabilities_CA.double()
        values_A = torch.tensor([self.values.get(action.name, 0.0) for action in schema.actions], dtype=torch.float64)
        utilities_C = (probabilities_CA * values_A).sum(1)  # no matrix product, whose last bit depends on the row
        if self.bid_on is None:
            return utilities_C
        if bids_C is None or bool((bids_C < 0).any()):
            raise RequestError(
                "candidates without a bid have no utility" if bids_C is None else "a bid is negative",
                found=None if bids_C is None else int(bids_C.min()),
                allowed="micros, 0 or more",
                do=f"give the bids of all candidates as candidates[{schema.bid!r}], 0 where there is none",
            )
        return utilities_C + bids_C.double() * probabilities_CA[:, schema.action_index(self.bid_on)]

    def to_json(self) -> str:
        """The utility as JSON text."""
        return self.model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str) -> Utility:
        """The utility that `to_json` wrote.

        Raises:
            SchemaError: The text is not a utility.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise as_schema_error(error) from None
