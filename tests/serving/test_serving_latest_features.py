from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from feature_example import assert_equal_columns, assert_equal_features

from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import measure_numerics
from rankwell.errors import LogError
from rankwell.schema import Action, Categorical, Numeric, Schema
from rankwell.serving.feature_defaults import FeatureDefaults
from rankwell.serving.feature_table import FeatureTable, write_feature_table
from rankwell.serving.latest_features import latest_items, latest_members
from rankwell.serving.stored_columns import StoredColumns
from rankwell.simulation.schema import marketplace_schema
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.simulate import simulate_tables
from rankwell.types import Features

SETTINGS = MarketplaceSettings(num_members=200, num_jobs=100)
NOT_STORED = ("retrieval_score", "hour_of_week")


def test_the_last_requests_of_a_marketplace_come_back_by_ids(tmp_path: Path) -> None:
    """As the log was decoded: every tensor of the last request of each member is that of its ids."""
    schema = marketplace_schema(SETTINGS)
    log, _ = simulate_tables(SETTINGS, seed=3, num_requests=300)
    stored = StoredColumns(schema, NOT_STORED)
    items, members = latest_items(log, stored), latest_members(log, stored)
    assert items["job_id"].to_pylist() == list(dict.fromkeys(items["job_id"].to_pylist()))
    batches = Batches(
        log_from_table(log, schema, layout="requests"), WholeLog("train"), "train", num_requests=1, seed=None
    )
    decoded = [batch for _, batch in batches.epoch(0)]
    defaults = FeatureDefaults(schema, measure_numerics(decoded, schema), {"home": (0, 0), "job_place": (0, 0)})
    write_feature_table(tmp_path, stored, items=items, members=members)
    table = FeatureTable(tmp_path, stored, defaults)
    last_of = {int(batch.audit.member_ids_R[0]): batch for batch in decoded}
    num_events = 0
    for member_id, batch in last_of.items():
        features = batch.features
        member, candidates = table.features(member_id, batch.audit.item_ids_C.numpy())
        time_us = int(batch.audit.times_us_R[0])
        history = {
            sequence.name: member.history[sequence.name].at(time_us, sequence, ingest_delay_s=schema.ingest_delay_s)
            for sequence in schema.sequences
        }
        num_events += int(history["history"].offsets[1])
        found = Features(
            {**member.context, "hour_of_week": features.context["hour_of_week"]},
            history,
            {**candidates.columns, "retrieval_score": features.candidates["retrieval_score"]},
            features.offsets,
            features.request_C,
        )
        assert_equal_features(found, features)
    assert len(last_of) > 100
    assert num_events > 100
    assert table.counts.items.num_missing == table.counts.members.num_missing == 0


def test_a_flat_log_gives_the_same(tmp_path: Path) -> None:
    schema = Schema(
        features=(Categorical(name="job"), Numeric(name="pay"), Numeric(name="years", on="request")),
        actions=(Action(name="click"),),
        item="job",
    )
    stored = StoredColumns(schema)
    flat = pa.table(
        {
            "member_id": ["ann", "ann", "bob", None],
            "time_us": [5, 5, 1, 9],
            "job": ["x", "y", "x", "z"],
            "pay": [1.0, 2.0, 3.0, 4.0],
            "years": [10, 10, 20, 30],
        }
    )
    assert latest_items(flat, stored).to_pylist() == [
        {"job": "x", "pay": 1.0},
        {"job": "y", "pay": 2.0},
        {"job": "z", "pay": 4.0},
    ]
    assert latest_members(flat, stored).to_pylist() == [
        {"member_id": "bob", "years": 20},
        {"member_id": "ann", "years": 10},
    ]
    with pytest.raises(LogError, match="lacks columns"):
        latest_items(flat.drop_columns(["pay"]), stored)
    assert latest_items(flat.slice(0, 0), stored).num_rows == 0


def test_unequal_columns_are_told_apart() -> None:
    """The comparison that these tests stand on fails where it should."""
    for other in (torch.tensor([1.0, 2.5]), torch.tensor([1, 2]), torch.tensor([[1.0, 2.0]])):
        with pytest.raises(AssertionError):
            assert_equal_columns(other, torch.tensor([1.0, 2.0]))
    assert_equal_columns(torch.tensor([np.nan]), torch.tensor([np.nan]))
