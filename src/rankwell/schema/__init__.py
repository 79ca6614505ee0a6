"""What each column means, declared once."""

from rankwell.schema.actions import Action, Exposure
from rankwell.schema.columns import (
    Bag,
    Categorical,
    Cross,
    Numeric,
    Place,
    Sequence,
    TableSpec,
    Vector,
)
from rankwell.schema.schema import Schema
from rankwell.schema.transforms import Identity, Log, PiecewiseLinear, Quantiles, Standardise

__all__ = [
    "Action",
    "Bag",
    "Categorical",
    "Cross",
    "Exposure",
    "Identity",
    "Log",
    "Numeric",
    "PiecewiseLinear",
    "Place",
    "Quantiles",
    "Schema",
    "Sequence",
    "Standardise",
    "TableSpec",
    "Vector",
]
