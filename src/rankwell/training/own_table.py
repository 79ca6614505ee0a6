"""The short way from one table to a recipe: the table becomes a log on disk, and the recipe reads it.

Everything that takes a recipe then takes the table: `train`, `judge`, checkpoints, bundles, reports.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import pyarrow as pa

from rankwell.data.memory import ArrowStream, arrow_table
from rankwell.data.pseudonyms import PseudonymKey
from rankwell.data.split import PARTS, Split, TimeSplit
from rankwell.data.statistics import NumericStatistics
from rankwell.data.writer import write_log
from rankwell.models.model import Model
from rankwell.schema import Schema
from rankwell.training.estimator import Estimator
from rankwell.training.recipe import LogPart, Recipe

__all__ = ["BuildModel", "recipe_of_table"]

_FILE: Final = "log.parquet"


class BuildModel(Protocol):
    """What makes a fresh model of a schema; each model's class is one."""

    def __call__(self, schema: Schema, statistics: NumericStatistics, *, seed: int) -> Model:
        """The model."""
        ...


def recipe_of_table(
    table: ArrowStream,
    schema: Schema,
    build: BuildModel | Estimator,
    folder: str | Path,
    *,
    split: Split | None = None,
    key: PseudonymKey | None = None,
    num_requests: int = 256,
) -> Recipe:
    """Write a table of one row a candidate as ``log.parquet`` into a folder, and return the recipe that reads it.

    What the schema doesn't name is left out. Strings in id columns become ids, member ids become pseudonyms, every
    value is checked. The rows of one request need not be adjacent. All else of the recipe stands as `Recipe` has it;
    `dataclasses.replace` changes it.

    Args:
        table: An Arrow table, or any that speaks Arrow's C stream (pandas, polars).
        schema: What its columns mean.
        build: A model's class, a function that fills in its settings, or an estimator.
        folder: Made where there is none; what `train` and `judge` take as `data`.
        split: By default `TimeSplit()`; a table without time needs a `HashSplit`.
        key: Makes pseudonyms of member ids; needed where the schema names a member.
        num_requests: The most requests in a batch.

    Raises:
        LogError: The table does not keep the schema; no log is written.
        PrivacyError: A column declared as PII stands in the table, or members have no key.

    >>> import tempfile
    >>> from rankwell.data.split import HashSplit
    >>> from rankwell.models.wide_deep import Logistic
    >>> from rankwell.schema import Action, Categorical
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), member_id=None, time=None)
    >>> table = pa.table({"request_id": ["b", "a", "b"], "job": ["cook", "clerk", "pilot"], "click": [0, 0, 1]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     recipe = recipe_of_table(table, schema, Logistic, folder, split=HashSplit(1.0, 0.0, 0.0, 0.0))
    ...     recipe.batches("train", Path(folder), seed=0).num_requests_total
    2
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = _by_request(arrow_table(table), schema)
    write_log(rows, str(folder / _FILE), schema, key=key, layout="flat", extra="drop")
    part = LogPart(path=_FILE, layout="flat", split=TimeSplit() if split is None else split)
    return Recipe(
        name=folder.resolve().name,
        schema=schema,
        parts=dict.fromkeys(PARTS, part),
        build=build if isinstance(build, Estimator) else _of_schema(build, schema),
        num_requests=num_requests,
    )


def _of_schema(build: BuildModel, schema: Schema) -> Callable[[NumericStatistics, int], Model]:
    return lambda statistics, seed: build(schema, statistics, seed=seed)


def _by_request(table: pa.Table, schema: Schema) -> pa.Table:
    """The rows of each request adjacent, requests in the order in which they first appear."""
    if schema.request_id is None or schema.request_id not in table.column_names or not len(table):
        return table
    ids = table[schema.request_id].combine_chunks()
    if ids.null_count:
        return table  # the writer refuses it, and says where
    encoded = ids if pa.types.is_dictionary(ids.type) else ids.dictionary_encode()
    codes = encoded.indices.to_numpy()
    num_runs = 1 + np.count_nonzero(np.diff(codes))
    if num_runs == len(np.unique(codes)):
        return table
    plain = pa.schema([field.with_type(_without_views(field.type)) for field in table.schema])
    return table.cast(plain).take(pa.array(np.argsort(codes, kind="stable")))


def _without_views(type_: pa.DataType) -> pa.DataType:
    """The type with polars' string views as plain strings, at any depth: Arrow cannot take rows of a view."""
    if pa.types.is_string_view(type_):
        return pa.large_string()
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return pa.large_list(_without_views(type_.value_type))
    return type_
