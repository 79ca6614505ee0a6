"""How a numeric column becomes inputs of a model: declared in the schema, fitted on `train`, applied in the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rankwell.errors import SchemaError

__all__ = [
    "Declaration",
    "Identity",
    "Log",
    "PiecewiseLinear",
    "Quantiles",
    "Standardise",
    "Transform",
    "as_schema_error",
]


class Declaration(BaseModel):
    """The root of all that a schema declares: frozen, strict about unknown fields, raising `SchemaError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    if not TYPE_CHECKING:  # type checkers keep pydantic's own signature, field by field

        def __init__(self, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise as_schema_error(error) from None


def as_schema_error(error: ValidationError) -> SchemaError:
    """Pydantic's error in our tree: each place, what stands there, and what may."""
    details = error.errors()
    places = [".".join([error.title, *(str(part) for part in detail["loc"])]) for detail in details]
    rules = [_rule(detail["type"], detail["msg"]) for detail in details]
    absent = [detail["type"] == "missing" for detail in details]
    if details[0]["type"] == "json_invalid":
        return SchemaError(
            f"the text is no {error.title}",
            found=details[0]["input"],
            allowed=f"the JSON of a {error.title} ({details[0]['msg']})",
            do="give what to_json() wrote, whole",
        )
    if len(details) == 1:
        unknown = details[0]["type"] == "extra_forbidden"
        return SchemaError(
            f"{places[0]} {'is no field' if unknown else 'is missing' if absent[0] else 'does not hold'}",
            found=None if absent[0] else details[0]["input"],
            allowed=rules[0],
            do="give it" if absent[0] else "drop it, or correct its name" if unknown else "mend this declaration",
        )
    return SchemaError(
        f"{len(details)} declarations of {error.title} do not hold",
        found="; ".join(
            place if gone else f"{place} = {detail['input']!r}"
            for place, gone, detail in zip(places, absent, details, strict=True)
        ),
        allowed="; ".join(f"{place}: {rule}" for place, rule in zip(places, rules, strict=True)),
        do="mend the declarations named above",
    )


def _rule(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "the fields that the class's docstring names"
    if kind == "string_pattern_mismatch":
        return "letters, digits and underscores, a letter first"
    return message.removeprefix("Input should be ").removeprefix("Value error, ")


@final
class Identity(Declaration):
    """x ↦ x.

    >>> from rankwell.schema import Numeric
    >>> Numeric(name="match", transform=Identity()).transform.kind  # a score in [0, 1] may stand as it is
    'identity'
    """

    kind: Literal["identity"] = "identity"


@final
class Standardise(Declaration):
    """x ↦ (x - mean) / sd, both over `train`; a constant column becomes 0.

    >>> from rankwell.schema import Numeric
    >>> Numeric(name="years").transform == Standardise()  # the default
    True
    """

    kind: Literal["standardise"] = "standardise"


@final
class Log(Declaration):
    """x ↦ sign(x) · ln(1 + |x|), then standardised. For counts, prices and ages.

    >>> from rankwell.schema import Numeric
    >>> Numeric(name="salary", transform=Log()).transform.kind
    'log'
    """

    kind: Literal["log"] = "log"


@final
class Quantiles(Declaration):
    """x ↦ the number of edges ≤ x, its quantile bucket, which reads a row like an id and may enter crosses.

    Args:
        num_buckets: The edges are the 1/n, 2/n, … quantiles over `train`; equal edges are merged.

    >>> from rankwell.schema import Action, Categorical, Cross, Numeric, Schema
    >>> schema = Schema(features=(Numeric(name="age", transform=Quantiles(num_buckets=8)), Categorical(name="job")),
    ...                 crosses=(Cross(of=("age", "job")),), actions=(Action(name="click"),))
    >>> schema.table_specs()["age"].size
    8
    """

    kind: Literal["quantiles"] = "quantiles"
    num_buckets: Annotated[int, Field(ge=2, le=4096)] = 16


@final
class PiecewiseLinear(Declaration):
    """x ↦ one input a piece: 0 below the piece, 1 above it, linear inside (less ½); knots at quantiles over `train`.

    A linear layer on it is a continuous piecewise linear function of x, so a non-monotone effect costs no crosses.
    Source: Gorishniy et al. 2022, "On embeddings for numerical features in tabular deep learning", §3.2.

    Args:
        num_pieces: The number of pieces, before equal knots are merged.

    >>> from rankwell.schema import Numeric
    >>> Numeric(name="distance_km", transform=PiecewiseLinear(num_pieces=4)).transform.num_pieces
    4
    """

    kind: Literal["piecewise_linear"] = "piecewise_linear"
    num_pieces: Annotated[int, Field(ge=2, le=256)] = 8


Transform = Annotated[Identity | Standardise | Log | Quantiles | PiecewiseLinear, Field(discriminator="kind")]
