"""What the serving benchmarks serve: a model of a given size on the marketplace's schema, and requests to it.

Nothing is learned from a log here; a few steps on noise put a row under every id, so that a look-up finds what it
would find in earnest, and costs what it would cost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import torch

from rankwell.calibration.platt import Platt
from rankwell.data.statistics import ColumnStatistics, NumericStatistics
from rankwell.models.candidate_list import ListSettings
from rankwell.models.history import HistorySettings
from rankwell.models.list_attention import FullSettings, LocalSettings
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.schema import Categorical, Numeric, Place, Schema
from rankwell.serving.bundle import Bundle
from rankwell.serving.example_request import example_request
from rankwell.serving.feature_table import write_feature_table
from rankwell.serving.stored_columns import StoredColumns
from rankwell.simulation.schema import marketplace_schema
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.types import Batch

__all__ = ["KINDS", "NOW_US", "NUM_EVENTS", "bundle_of", "feature_rows", "requests", "served_schema", "write_store"]

NUM_EVENTS: Final = 50
NOW_US: Final = 1_700_000_000_000_000
_ITEM: Final = "job_id"
KINDS: Final = {
    "history": None,
    "full": ListSettings(attention=FullSettings(), num_layers=2, rank="retrieval_score"),
    "local": ListSettings(attention=LocalSettings(window=50), num_layers=2, rank="retrieval_score"),
}
"""How candidates see each other: not at all, each sees all, each sees the nearest 50."""

_COLUMN = ColumnStatistics(
    num_values=9, missing_rate=0.0, mean=3.0, sd=2.0, log_mean=1.2, log_sd=0.7, quantiles=(0.0, 1.0, 3.0, 5.0, 9.0)
)


def served_schema(num_actions: int = 2) -> Schema:
    """The marketplace's, with so many actions and histories of 50 events."""
    schema = marketplace_schema()
    sequences = tuple(s.model_copy(update={"max_length": NUM_EVENTS}) for s in schema.sequences)
    return schema.model_copy(update={"actions": schema.actions[:num_actions], "sequences": sequences})


def bundle_of(kind: str, *, width: int = 64, num_layers: int = 2, num_steps: int = 40) -> Bundle:
    """A bundle whose candidates see each other as `kind` says."""
    schema = served_schema()
    names = [f.name for f in schema.visible_features if isinstance(f, Numeric)]
    statistics = NumericStatistics(columns=dict.fromkeys(names, _COLUMN))
    settings = TransformerSettings(
        row_width=16, width=width, history=HistorySettings(width=width, num_layers=num_layers), list=KINDS[kind]
    )
    model = RankingTransformer(schema, statistics, settings, seed=0)
    for table in model.tables.values():
        table.train_with(RowWiseAdaGrad(learning_rate=0.05))
    model.train()
    for seed in range(num_steps):
        batch = example_request(schema, statistics, num_candidates=500, num_events=NUM_EVENTS, seed=seed)
        torch.autograd.backward(model(batch.features).sum())
        for table in model.tables.values():
            table.apply()
    calibrators = {action.name: Platt(slope=0.9, offset=-0.1) for action in schema.actions}
    return Bundle(model=model.eval(), calibrators=calibrators, created_us=NOW_US)


def requests(bundle: Bundle, num: int, *, num_candidates: int, num_events: int = NUM_EVENTS) -> list[Batch]:
    """Requests with all their features, R = 1 each."""
    schema, statistics = bundle.schema, bundle.model.statistics
    return [
        example_request(schema, statistics, num_candidates=num_candidates, num_events=num_events, seed=10_000 + seed)
        for seed in range(num)
    ]


def write_store(folder: Path, num_items: int, num_members: int) -> None:
    """A feature table of the served world."""
    write_feature_table(
        folder, StoredColumns(served_schema()), **feature_rows(num_items, num_members),
        declared={"home": (52.5, 13.4), "job_place": (52.5, 13.4)},
    )  # fmt: skip


def feature_rows(num_items: int, num_members: int, seed: int = 0) -> dict[str, dict[str, object]]:
    """Items and members as `write_feature_table` takes them, in the columns of the marketplace's log."""
    rng = np.random.default_rng(seed)
    schema = served_schema()
    tables: dict[str, dict[str, object]] = {"items": {}, "members": {}}
    for feature in schema.features:
        table, num = ("members", num_members) if feature.on == "request" else ("items", num_items)
        column = feature.column or feature.name
        if column in (schema.member_id, _ITEM):
            tables[table][column] = np.arange(num)
        elif isinstance(feature, Categorical):
            tables[table][column] = rng.integers(0, 20, num)
        elif isinstance(feature, Place):
            tables[table][f"{column}_lat"] = rng.uniform(-60, 60, num)
            tables[table][f"{column}_lon"] = rng.uniform(-180, 180, num)
        else:
            tables[table][column] = rng.uniform(0, 9, num).astype(np.float32)
    ends = pa.array(np.arange(num_members + 1) * NUM_EVENTS, pa.int32())
    ages_us = np.sort(rng.integers(10**9, 10**12, (num_members, NUM_EVENTS)), axis=1)[:, ::-1]
    for sequence in schema.sequences:
        for field in sequence.fields:
            ids = rng.integers(0, num_items if field.table == "job" else 4, ages_us.size)
            tables["members"][f"{sequence.name}_{field.name}"] = pa.ListArray.from_arrays(ends, pa.array(ids))
        times = pa.array((NOW_US - ages_us).ravel())
        tables["members"][f"{sequence.name}_{sequence.time}"] = pa.ListArray.from_arrays(ends, times)
    return tables
