"""Numeric columns become inputs of a dense layer, or bucket ids, as the schema declares.

Letters: n entries (R requests or C candidates) · N numeric inputs after the transforms.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Final, final

import torch
from torch import Tensor, nn

from rankwell.data.statistics import ColumnStatistics, NumericStatistics
from rankwell.errors import SchemaError
from rankwell.schema import Identity, Log, Numeric, PiecewiseLinear, Place, Quantiles, Schema, Standardise, Vector
from rankwell.types import MISSING_ID, Column, Events, Features, Ragged

__all__ = ["BucketIds", "DistanceInputs", "EventInputs", "NumericInputs"]

_EARTH_RADIUS_KM: Final = 6371.0088
_LARGEST_LOG_KM: Final = math.log1p(math.pi * _EARTH_RADIUS_KM)
_ROUNDING: Final = 1e-12
_AGE_PERIODS: Final = (36.0, 18.0, 9.0, 4.5, 2.25)
_SMALLEST: Final = torch.finfo(torch.float32).tiny
_LARGEST: Final = torch.finfo(torch.float32).max


class _ColumnInputs(nn.Module, abc.ABC):
    """One column of n entries to a block of inputs."""

    width: int

    @abc.abstractmethod
    def forward(self, column: Tensor) -> Tensor:
        """Float32 n × width."""


@final
class _Affine(_ColumnInputs):
    """(x - mean) / sd, or the same of sign(x) · ln(1 + |x|); 0 where `train` knows one value only."""

    mean: Tensor
    inverse_sd: Tensor

    def __init__(self, mean: float, sd: float, *, log: bool) -> None:
        super().__init__()
        self.width = 1
        self._log = log
        # The sd of a constant column is the rounding of its mean. Divided by, it would blow up what serving brings.
        constant = sd <= max(abs(mean) * _ROUNDING, _SMALLEST)
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("inverse_sd", torch.tensor(0.0 if constant else 1.0 / sd))

    def forward(self, column: Tensor) -> Tensor:
        raw = torch.sign(column) * torch.log1p(column.abs()) if self._log else column
        return ((raw - self.mean) * self.inverse_sd).unsqueeze(1)


@final
class _Pieces(_ColumnInputs):
    """Piecewise linear, centred: min(max((x - k_i) / (k_{i+1} - k_i), 0), 1) - ½ for each piece i.

    Beyond the outer knots the inputs stay as they are there: a value that `train` never saw can't run away.
    """

    low: Tensor
    inverse_length: Tensor

    def __init__(self, knots: Tensor) -> None:
        super().__init__()
        self.width = len(knots) - 1
        self.register_buffer("low", knots[:-1])
        self.register_buffer("inverse_length", (1.0 / (knots[1:] - knots[:-1])).clamp(max=_LARGEST))

    def forward(self, column: Tensor) -> Tensor:
        return ((column.unsqueeze(1) - self.low) * self.inverse_length).clamp(0.0, 1.0) - 0.5


@final
class _Missing(_ColumnInputs):
    """Another column's inputs, those of its mean in the place of NaN, and an input that is 1 there, else 0."""

    filling: Tensor

    def __init__(self, inner: _ColumnInputs, filling: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.width = inner.width + 1
        self.register_buffer("filling", filling)

    def forward(self, column: Tensor) -> Tensor:
        missing = column.isnan().unsqueeze(1)
        known = torch.where(missing, self.filling, self.inner(column))
        return torch.cat([known, missing.to(column.dtype)], dim=1)


@final
class _Sphere(_ColumnInputs):
    """Degrees to a unit vector: no seam at the date line, no crowding at the poles."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 3

    def forward(self, column: Tensor) -> Tensor:
        return _unit_vectors(column)


@final
class _Given(_ColumnInputs):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, column: Tensor) -> Tensor:
        return column


@final
class NumericInputs(nn.Module):
    """All numeric, vector and place columns of one side, each through its declared transform, side by side.

    A missing value of a numeric with missing="indicator" becomes the mean (of logarithms, for `Log`), and a further
    input says so. Of one with missing="refuse" no NaN comes here: reading a log and taking a request refuse it. If one
    comes all the same it goes through to the logits, where it is noticed.

    Args:
        schema: Declares them.
        statistics: Measured on `train`.
        on: "request" or "candidate".
    """

    def __init__(self, schema: Schema, statistics: NumericStatistics, on: str) -> None:
        super().__init__()
        inputs: dict[str, _ColumnInputs] = {}
        # A list, because a ModuleDict has no room for a feature called "type" or "values".
        for feature in schema.visible_features:
            if feature.on != on:
                continue
            if isinstance(feature, Numeric) and not isinstance(feature.transform, Quantiles):
                inputs[feature.name] = _numeric(feature, statistics)
            elif isinstance(feature, Vector):
                inputs[feature.name] = _Given(feature.width)
            elif isinstance(feature, Place):
                inputs[feature.name] = _Sphere()
        self._names = tuple(inputs)
        self.inputs = nn.ModuleList(inputs.values())
        self.widths: Mapping[str, int] = {name: column.width for name, column in inputs.items()}
        self.width: int = sum(self.widths.values())

    def forward(self, columns: Mapping[str, Column], num_entries: int) -> Tensor:
        """Float32 n × N, the columns in the schema's order."""
        blocks = [layer(_dense(columns, name)) for name, layer in zip(self._names, self.inputs, strict=True)]
        return torch.cat(blocks, dim=1) if blocks else torch.zeros(num_entries, 0)


@final
class DistanceInputs(nn.Module):
    """For each pair of a place on the request and a place on the candidate: ln(1 + km) of the great circle, in [-1, 1].

    A layer that sees two points can learn their distance only from very many pairs; given, it costs one input.
    """

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        places = [feature for feature in schema.visible_features if isinstance(feature, Place)]
        self.pairs = [(a.name, b.name) for a in places for b in places if a.on == "request" and b.on == "candidate"]
        self.width = len(self.pairs)

    def forward(self, features: Features) -> Tensor:
        """Float32 C × number of pairs."""
        if not self.pairs:
            return torch.zeros(features.num_candidates, 0)
        blocks = []
        for on_request, on_candidate in self.pairs:
            from_C3 = _unit_vectors(_dense(features.context, on_request))[features.request_C]
            to_C3 = _unit_vectors(_dense(features.candidates, on_candidate))
            half_chord_C = (0.5 * (from_C3 - to_C3).norm(dim=1)).clamp(max=1.0)
            km_C = 2.0 * _EARTH_RADIUS_KM * torch.asin(half_chord_C)
            blocks.append(torch.log1p(km_C) * (2.0 / _LARGEST_LOG_KM) - 1.0)
        return torch.stack(blocks, dim=1)


@final
class EventInputs(nn.Module):
    """What is known of a sequence's events besides ids: their numerics, each through its transform, and their ages.

    An age of t seconds becomes z = ln(1 + t), as z / 9 - 1 and as sin and cos of 2πz / period for periods from 36 down
    to 2.25: a layer over these tells a minute from an hour from a month, wherever the boundary lies.

    Args:
        schema: Declares the sequence.
        statistics: Measured on `train`.
        sequence: Its name.
    """

    periods: Tensor

    def __init__(self, schema: Schema, statistics: NumericStatistics, sequence: str) -> None:
        super().__init__()
        declared = next(declared for declared in schema.sequences if declared.name == sequence)
        numerics = [field for field in declared.fields if isinstance(field, Numeric)]
        self._names = tuple(field.name for field in numerics)
        inputs = [_numeric(field, statistics, f"{sequence}.{field.name}") for field in numerics]
        self.inputs = nn.ModuleList(inputs)
        self._has_ages = declared.time is not None and schema.time is not None
        self.register_buffer("periods", torch.tensor(_AGE_PERIODS), persistent=False)
        self.width: int = sum(layer.width for layer in inputs)
        self.width += (1 + 2 * len(_AGE_PERIODS)) * self._has_ages

    def forward(self, events: Events) -> Tensor:
        """Float32 H × N; of width 0 where events have neither numerics nor times."""
        blocks = [layer(events.columns[name]) for name, layer in zip(self._names, self.inputs, strict=True)]
        if self._has_ages:
            log_age_H1 = torch.log1p(events.columns["age_s"].clamp(min=0.0)).unsqueeze(1)
            angle = log_age_H1 * (2.0 * math.pi / self.periods)
            blocks += [log_age_H1 / 9.0 - 1.0, torch.sin(angle), torch.cos(angle)]
        return torch.cat(blocks, dim=1) if blocks else torch.zeros(int(events.offsets[-1]), 0)


@final
class BucketIds(nn.Module):
    """A numeric with `Quantiles` as ids: the number of edges ≤ x, or `MISSING_ID` for NaN.

    Args:
        feature: Declares the number of buckets.
        statistics: Measured on `train`.
    """

    edges: Tensor

    def __init__(self, feature: Numeric, statistics: NumericStatistics) -> None:
        super().__init__()
        assert isinstance(feature.transform, Quantiles)
        quantiles = _statistics_of(feature.name, statistics).quantiles
        edges = _interpolated(quantiles, feature.transform.num_buckets + 1)[1:-1]
        self.register_buffer("edges", torch.unique(edges.float()))

    def forward(self, column: Tensor) -> Tensor:
        """int64 n."""
        ids = torch.bucketize(column, self.edges, right=True)
        return torch.where(column.isnan(), MISSING_ID, ids)


def _numeric(feature: Numeric, statistics: NumericStatistics, name: str | None = None) -> _ColumnInputs:
    column = _statistics_of(name or feature.name, statistics)
    transform = feature.transform
    inner: _ColumnInputs
    filling = torch.zeros(1)
    match transform:
        case Identity():
            inner, filling = _Affine(0.0, 1.0, log=False), torch.tensor([column.mean])
        case Standardise():
            inner = _Affine(column.mean, column.sd, log=False)
        case Log():
            inner = _Affine(column.log_mean, column.log_sd, log=True)
        case PiecewiseLinear():
            knots = torch.unique(_interpolated(column.quantiles, transform.num_pieces + 1).float())
            if len(knots) > 1:
                inner = _Pieces(knots)
                filling = inner(torch.tensor([column.mean])).squeeze(0)
            else:
                inner = _Affine(column.mean, 0.0, log=False)
        case Quantiles():  # pragma: no cover - these are ids
            raise SchemaError(
                f"feature {feature.name!r} is bucketed: it reads rows, not a dense layer", do="read it by BucketIds"
            )
    return _Missing(inner, filling) if feature.missing == "indicator" else inner


def _statistics_of(name: str, statistics: NumericStatistics) -> ColumnStatistics:
    try:
        return statistics.columns[name]
    except KeyError:
        raise SchemaError(
            f"numeric {name!r} has no statistics",
            found=sorted(statistics.columns),
            do="measure them on `train` with rankwell.data.statistics.measure_numerics",
        ) from None


def _interpolated(quantiles: Sequence[float], num: int) -> Tensor:
    places = torch.linspace(0, len(quantiles) - 1, num, dtype=torch.float64)
    known = torch.tensor(list(quantiles), dtype=torch.float64)
    low = places.floor().long().clamp(max=len(quantiles) - 2)
    return torch.lerp(known[low], known[low + 1], places - low)


def _unit_vectors(degrees: Tensor) -> Tensor:
    latitude, longitude = torch.deg2rad(degrees).unbind(1)
    cosine = torch.cos(latitude)
    return torch.stack([cosine * torch.cos(longitude), cosine * torch.sin(longitude), torch.sin(latitude)], dim=1)


def _dense(columns: Mapping[str, Column], name: str) -> Tensor:
    column = columns[name]
    if isinstance(column, Ragged):
        raise SchemaError(f"column {name!r} holds lists", allowed="one value an entry", do="declare it as a bag")
    return column
