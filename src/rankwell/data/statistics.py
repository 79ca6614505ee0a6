"""What the transforms of numeric features need to know of `train`: measured in one pass, in bounded memory.

N numeric columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, final

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from torch import Tensor

from rankwell.errors import LogError
from rankwell.schema.columns import Numeric
from rankwell.schema.schema import Schema
from rankwell.schema.transforms import Declaration, as_schema_error
from rankwell.types import Batch

__all__ = ["ColumnStatistics", "NumericStatistics", "measure_numerics"]

_NUM_QUANTILES: Final = 257
_SAMPLE_SIZE: Final = 2**18
_SEED: Final = 0x5EED


@final
class ColumnStatistics(Declaration):
    """One numeric column over `train`; all but the counts are over its finite values.

    Args:
        num_values: How many values there are, missing ones left out.
        missing_rate: The fraction of missing values among all, in [0, 1].
        mean, sd: Mean and standard deviation (over n, not n - 1); 0 and 0 where there are no values.
        log_mean, log_sd: The same of sign(x) · ln(1 + |x|).
        quantiles: 257 quantiles at even spaces from the minimum to the maximum: exact up to 262,144 values, and of a
            random sample of so many beyond (the two ends stay exact).
    """

    num_values: int
    missing_rate: float
    mean: float
    sd: float
    log_mean: float
    log_sd: float
    quantiles: tuple[float, ...]


@final
class NumericStatistics(Declaration):
    """The statistics of every numeric column of a schema.

    Args:
        columns: By name: a feature's name, or ``<sequence>.<field>``; ``<sequence>.age_s`` for the ages of events.

    >>> NumericStatistics.from_json(NumericStatistics().to_json())
    NumericStatistics(columns={})
    """

    columns: Mapping[str, ColumnStatistics] = {}

    def to_json(self) -> str:
        """The statistics as JSON text."""
        return self.model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str) -> NumericStatistics:
        """The statistics that `to_json` wrote.

        Raises:
            SchemaError: The text holds no statistics.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise as_schema_error(error) from None


def measure_numerics(batches: Iterable[Batch], schema: Schema) -> NumericStatistics:
    """Measure every numeric column in one pass; a schema without any returns at once, reading nothing.

    Mean and variance are merged batch by batch in float64, which neither overflows nor cancels.
    Source: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance".

    Args:
        batches: Of `train`, whole.
        schema: Declares the numerics.

    Raises:
        LogError: There are no batches.

    >>> import pyarrow as pa
    >>> from rankwell.data.batches import Batches
    >>> from rankwell.data.log import log_from_table
    >>> from rankwell.data.split import WholeLog
    >>> from rankwell.schema import Action
    >>> schema = Schema(features=(Numeric(name="years"),), actions=(Action(name="click"),),
    ...                 request_id=None, member_id=None, time=None)
    >>> log = log_from_table(pa.table({"years": [1.0, 2.0, 3.0], "click": [0, 1, 0]}), schema)
    >>> batches = Batches(log, WholeLog("train"), "train", num_requests=2, seed=None)
    >>> years = measure_numerics(batches, schema).columns["years"]
    >>> years.mean, round(years.sd, 3), years.quantiles[128]
    (2.0, 0.816, 2.0)
    """
    measured = {name: _Measured(_SEED + i) for i, name in enumerate(_numeric_names(schema))}
    if not measured:
        return NumericStatistics()
    num_batches = 0
    for batch in batches:
        num_batches += 1
        for name, column in _numeric_columns(batch, schema):
            measured[name].add(column.numpy())
    if num_batches == 0:
        raise LogError("numerics cannot be measured on no batches", do="give the batches of `train`")
    return NumericStatistics(columns={name: column.finished() for name, column in measured.items()})


def _numeric_names(schema: Schema) -> Iterator[str]:
    for feature in schema.visible_features:
        if isinstance(feature, Numeric):
            yield feature.name
    for sequence in schema.sequences:
        for field in sequence.fields:
            if isinstance(field, Numeric):
                yield f"{sequence.name}.{field.name}"
        if sequence.time is not None and schema.time is not None:
            yield f"{sequence.name}.age_s"


def _numeric_columns(batch: Batch, schema: Schema) -> Iterator[tuple[str, Tensor]]:
    features = batch.features
    for feature in schema.visible_features:
        if isinstance(feature, Numeric):
            column = (features.context if feature.on == "request" else features.candidates)[feature.name]
            assert isinstance(column, Tensor)
            yield feature.name, column
    for sequence in schema.sequences:
        events = features.history[sequence.name].columns
        names = [field.name for field in sequence.fields if isinstance(field, Numeric)]
        if sequence.time is not None and schema.time is not None:
            names.append("age_s")
        for name in names:
            yield f"{sequence.name}.{name}", events[name]


class _Moments:
    """Count, mean and the sum of squared deviations, merged part by part."""

    def __init__(self) -> None:
        self.num_values, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, values: npt.NDArray[np.float64]) -> None:
        num_values = len(values)
        mean = float(values.mean())
        deviations = values - mean
        squares = float(deviations @ deviations)
        total = self.num_values + num_values
        step = mean - self.mean
        self.mean += step * num_values / total
        self.squares += squares + step * step * self.num_values * num_values / total
        self.num_values = total

    @property
    def sd(self) -> float:
        return math.sqrt(self.squares / self.num_values) if self.num_values else 0.0


@final
class _Measured:
    """One column on its way: moments, the extremes, and the values with the smallest random keys."""

    def __init__(self, seed: int) -> None:
        self._plain, self._log = _Moments(), _Moments()
        self._num_missing = 0
        self._least, self._most = math.inf, -math.inf
        self._random = np.random.default_rng(seed)
        self._waiting: list[npt.NDArray[np.float32]] = []
        self._num_waiting = 0
        self._sample = np.zeros(0, np.float32)
        self._keys = np.zeros(0, np.float64)

    def add(self, column: npt.NDArray[np.float32]) -> None:
        missing = np.isnan(column)
        num_missing = int(np.count_nonzero(missing))
        self._num_missing += num_missing
        known = column[~missing] if num_missing else column
        if not len(known):
            return
        values = known.astype(np.float64)
        self._plain.add(values)
        self._log.add(np.copysign(np.log1p(np.abs(values)), values))
        self._least, self._most = min(self._least, float(values.min())), max(self._most, float(values.max()))
        self._waiting.append(known.copy())  # a view would keep the batch's whole buffer
        self._num_waiting += len(known)
        if self._num_waiting >= _SAMPLE_SIZE:
            self._thin()

    def _thin(self) -> None:
        """Keep the values with the smallest keys: a uniform sample, whatever the order and size of the parts."""
        self._sample = np.concatenate([self._sample, *self._waiting])
        self._keys = np.concatenate([self._keys, self._random.random(self._num_waiting)])
        self._waiting, self._num_waiting = [], 0
        if len(self._sample) > _SAMPLE_SIZE:
            kept = np.argpartition(self._keys, _SAMPLE_SIZE)[:_SAMPLE_SIZE]
            self._sample, self._keys = self._sample[kept], self._keys[kept]

    def finished(self) -> ColumnStatistics:
        self._thin()
        num_values = self._plain.num_values
        quantiles = np.zeros(_NUM_QUANTILES)
        if num_values:
            quantiles = np.quantile(self._sample.astype(np.float64), np.linspace(0, 1, _NUM_QUANTILES))
            quantiles[0], quantiles[-1] = self._least, self._most
        total = num_values + self._num_missing
        return ColumnStatistics(
            num_values=num_values,
            missing_rate=self._num_missing / total if total else 0.0,
            mean=self._plain.mean,
            sd=self._plain.sd,
            log_mean=self._log.mean,
            log_sd=self._log.sd,
            quantiles=tuple(quantiles.tolist()),
        )
