"""What was served can be served again."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
import torch
from log_example import SCHEMA, plain_requests, request_table, requests_of
from torch import Tensor

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.replay import request_of_batch
from rankwell.data.request import batch_from_request
from rankwell.data.split import WholeLog
from rankwell.schema import Action, Categorical, Numeric, Schema, Sequence
from rankwell.types import Batch, Column


def same(one: Column, other: Column) -> bool:
    if isinstance(one, Tensor):
        assert isinstance(other, Tensor)
        return bool(torch.allclose(one, other, equal_nan=True))
    assert not isinstance(other, Tensor)
    return torch.equal(one.values, other.values) and torch.equal(one.lengths, other.lengths)


def test_every_request_survives_json_and_back() -> None:
    log = log_from_table(every_kind_table(40, 1), EVERY_KIND, layout="requests")
    for _, alone in Batches(log, WholeLog("train"), "train", num_requests=1, seed=None).epoch(0):
        again = batch_from_request(json.loads(json.dumps(request_of_batch(alone, 0, EVERY_KIND))), EVERY_KIND)
        for mine, theirs in (
            (alone.features.context, again.features.context),
            (alone.features.candidates, again.features.candidates),
            (alone.features.history["history"].columns, again.features.history["history"].columns),
        ):
            assert sorted(mine) == sorted(theirs)
            assert all(same(mine[name], theirs[name]) for name in mine)
        assert torch.equal(alone.audit.item_ids_C, again.audit.item_ids_C)
        assert torch.equal(alone.audit.member_ids_R, again.audit.member_ids_R)


def test_a_request_within_a_batch_is_the_request_alone() -> None:
    log = log_from_table(every_kind_table(12, 2), EVERY_KIND, layout="requests")
    ((_, together),) = Batches(log, WholeLog("train"), "train", num_requests=12, seed=None).epoch(0)
    alone = [batch for _, batch in Batches(log, WholeLog("train"), "train", num_requests=1, seed=None).epoch(0)]
    for index, batch in enumerate(alone):
        assert request_of_batch(together, index, EVERY_KIND) == request_of_batch(batch, 0, EVERY_KIND)


def again(batch: Batch, index: int, schema: Schema) -> Batch:
    text = json.dumps(request_of_batch(batch, index, schema), allow_nan=False)
    return batch_from_request(json.loads(text), schema)


def test_all_that_a_server_sees_survives_missing_values_and_audited_columns_included() -> None:
    requests = plain_requests(30, seed=3)
    log = log_from_table(request_table(requests), SCHEMA, layout="requests")
    ((_, batch),) = Batches(log, WholeLog("train"), "train", num_requests=30, seed=None).epoch(0)
    not_asked = {"labels", "observed", "weights", "position", "propensity", "audit.retrieval", "audit.examination"}
    for index, expected in enumerate(requests_of(batch)):
        (found,) = requests_of(again(batch, index, SCHEMA))
        assert found.keys() == expected.keys() - {"audit.retrieval", "audit.examination"}
        for name in found.keys() - not_asked:
            assert repr(found[name]) == repr(expected[name]), name


def history_schema(delay_s: float, **keys: None) -> Schema:
    fields = (
        Categorical(name="item", on="event", missing="row"),
        Numeric(name="dwell", on="event", missing="indicator"),
    )
    return Schema(
        features=(Categorical(name="job"),), sequences=(Sequence(name="h", fields=fields),),
        actions=(Action(name="click"),), ingest_delay_s=delay_s, **keys,
    )  # fmt: skip


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 2.0, 300.0, 7200.0])
def test_events_just_older_than_the_delay_stay_so(delay_s: float) -> None:
    schema, now = history_schema(delay_s), 1_700_000_000_000_000
    ages_us = [10**12, 10**11 + 1, *(round(delay_s * 1e6) + i for i in (3, 2, 1, 1))]
    num = len(ages_us)
    plain = {
        "time_us": now,
        "history": {
            "h": {"item": [None, *range(1, num)], "dwell": [None] * num, "time_us": [now - a for a in ages_us]}
        },
        "candidates": {"job": [1]},
    }
    batch = batch_from_request(plain, schema)
    replayed = again(batch, 0, schema)
    mine, theirs = batch.features.history["h"], replayed.features.history["h"]
    assert torch.equal(mine.columns["item"], theirs.columns["item"])
    assert torch.equal(mine.columns["age_s"], theirs.columns["age_s"])
    assert theirs.columns["dwell"].isnan().all()


def test_a_log_without_members_and_time_is_replayed_without_them() -> None:
    schema = history_schema(0.0, request_id=None, member_id=None, time=None)
    table = pa.table(
        {"job": [1, 2], "click": [0, 1], "h_item": [[3], []], "h_dwell": [[1.0], []], "h_time_us": [[5], []]}
    )
    ((_, batch),) = Batches(log_from_table(table, schema), WholeLog("train"), "train", num_requests=2, seed=None).epoch(
        0
    )
    plain = request_of_batch(batch, 0, schema)
    assert plain == {
        "request_id": 0, "context": {}, "candidates": {"job": [1]}, "history": {"h": {"item": [3], "dwell": [1.0]}},
    }  # fmt: skip
    assert batch_from_request(plain, schema).features.candidates["job"].tolist() == [1]
