"""Every column of every request against a plain Python reading of the same log."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from log_example import SCHEMA, expected_of, flat_table, plain_requests, request_table, requests_of

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data import blocks as blocks_module
from rankwell.data.batches import Batches
from rankwell.data.chunk import Chunk, ragged_rows
from rankwell.data.log import log_from_table, open_log
from rankwell.data.split import WholeLog
from rankwell.schema import Action, Categorical, Numeric, Schema, Sequence

CLICKS = Schema(
    features=(Categorical(name="job"),), actions=(Action(name="click"),), request_id=None, member_id=None, time=None
)


def chunks_of(log):
    with log.reader() as reader:
        return [reader.read(block) for block in log.blocks]


def same(found, expected):
    """Equal, NaN included, and with the column's name where they differ."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in other:
            assert repr(one[name]) == repr(other[name]) or one[name] == other[name], name


@pytest.mark.parametrize("layout", ["requests", "flat"])
@pytest.mark.parametrize("row_group_size", [1000, 7, 1])
def test_every_column_arrives_from_parquet(tmp_path, layout, row_group_size):
    requests = plain_requests(23, seed=1)
    table = request_table(requests) if layout == "requests" else flat_table(requests)
    pq.write_table(table, tmp_path / "day.parquet", row_group_size=row_group_size)
    log = open_log(tmp_path, SCHEMA, layout=layout)
    assert log.num_requests == 23
    assert log.num_candidates == sum(len(request["candidates"]) for request in requests)
    whole = Chunk.concatenated(chunks_of(log))
    same(requests_of(whole.slice(0, 23)), [expected_of(request) for request in requests])


@pytest.mark.parametrize("layout", ["requests", "flat"])
@pytest.mark.parametrize("longest_block", [1000, 4])
def test_every_column_arrives_from_memory(layout, longest_block, monkeypatch):
    monkeypatch.setattr(blocks_module, "_LONGEST_BLOCK", longest_block)
    requests = plain_requests(9, seed=2)
    table = request_table(requests) if layout == "requests" else flat_table(requests)
    chunks = chunks_of(log_from_table(table, SCHEMA, layout=layout))
    assert (len(chunks) > 1) == (longest_block == 4)
    whole = Chunk.concatenated(chunks)
    same(requests_of(whole.slice(0, 9)), [expected_of(request) for request in requests])


def test_ids_are_exact_beyond_what_a_float_holds():
    ids = [0, 2**53 + 1, 2**63 - 1]
    (chunk,) = chunks_of(log_from_table(pa.table({"job": pa.array(ids, pa.uint64()), "click": [0, 1, 0]}), CLICKS))
    assert chunk.whole.features.candidates["job"].tolist() == ids


def test_int64_ids_and_float32_numbers_lend_arrows_memory():
    schema = CLICKS.model_copy(update={"features": (Categorical(name="job"), Numeric(name="pay"))})
    table = pa.table({"job": np.arange(5), "pay": np.ones(5, np.float32), "click": np.zeros(5, np.int8)})
    (chunk,) = chunks_of(log_from_table(table, schema))
    batch = chunk.slice(2, 4)
    for name, width in (("job", 8), ("pay", 4)):
        address = table.column(name).chunk(0).buffers()[1].address
        assert batch.features.candidates[name].data_ptr() == address + 2 * width


def test_what_the_log_has_not_gets_its_default():
    (chunk,) = chunks_of(log_from_table(pa.table({"job": [5, 6], "click": [True, False]}), CLICKS))
    batch = chunk.slice(0, 2)
    targets, audit = batch.targets, batch.audit
    assert targets.labels_CA.tolist() == [[1.0], [0.0]]
    assert targets.observed_CA.tolist() == [[True], [True]]
    assert (targets.weights_C.tolist(), targets.position_C.tolist()) == ([1.0, 1.0], [0, 0])
    assert targets.propensity_C.tolist() == [1.0, 1.0]
    assert audit.request_ids_R.tolist() == [0, 1]
    assert (audit.member_ids_R.tolist(), audit.times_us_R.tolist()) == ([-1, -1], [0, 0])
    assert (audit.item_ids_C.tolist(), dict(audit.columns)) == ([0, 0], {})
    for column in (targets.weights_C, targets.observed_CA, audit.times_us_R):
        assert column.is_contiguous()


def test_rows_are_numbered_over_all_files(tmp_path):
    for name in ("a", "b"):
        pq.write_table(pa.table({"job": [1, 2], "click": [0, 1]}), tmp_path / f"{name}.parquet")
    ids = [chunk.whole.audit.request_ids_R.tolist() for chunk in chunks_of(open_log(tmp_path, CLICKS, layout="flat"))]
    assert ids == [[0, 1], [2, 3]]


def test_observed_column_makes_labels_unknown():
    table = pa.table({"job": [1, 2, 3], "click": [1, 0, 0], "click_observed": [True, True, False]})
    (chunk,) = chunks_of(log_from_table(table, CLICKS))
    targets = chunk.slice(0, 3).targets
    assert targets.observed_CA[:, 0].tolist() == [True, True, False]
    assert targets.labels_CA[:2, 0].tolist() == [1.0, 0.0]
    assert targets.labels_CA[2, 0].isnan()


def test_no_age_where_the_request_has_no_time():
    schema = Schema(
        features=(Categorical(name="job"),),
        actions=(Action(name="click"),),
        sequences=(Sequence(name="past", fields=(Categorical(name="job", on="event", table="job"),)),),
        request_id=None,
        member_id=None,
        time=None,
    )
    table = pa.table({"job": [1], "click": [0], "past_job": [[3, 4]], "past_time_us": [[10, 20]]})
    (chunk,) = chunks_of(log_from_table(table, schema))
    assert set(chunk.whole.features.history["past"].columns) == {"job"}


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_of_any_unit_become_microseconds(unit):
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    schema = CLICKS.model_copy(update={"time": "at"})
    table = pa.table(
        {"job": [1], "click": [0], "at": pa.array([1_700_000_000 * per_second], pa.timestamp(unit, "Europe/Berlin"))}
    )
    (chunk,) = chunks_of(log_from_table(table, schema))
    assert chunk.whole.audit.times_us_R.tolist() == [1_700_000_000 * 10**6]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.data())
def test_ragged_rows_gather_lists(lengths, data):
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    wanted = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=10)), np.int64)
    rows, new_offsets = ragged_rows(offsets, wanted)
    lists = [list(range(a, b)) for a, b in pairwise(offsets.tolist())]
    assert [rows[a:b].tolist() for a, b in pairwise(new_offsets.tolist())] == [lists[i] for i in wanted]


CHUNK = chunks_of(log_from_table(flat_table(plain_requests(8, seed=3)), SCHEMA))[0]
PLAIN = [expected_of(request) for request in plain_requests(8, seed=3)]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 7), max_size=12))
def test_taken_requests_are_the_ones_asked_for(wanted):
    taken = CHUNK.take(np.array(wanted, np.int64))
    same(requests_of(taken.slice(0, len(wanted))), [PLAIN[i] for i in wanted])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 8), min_size=2, max_size=6).map(sorted))
def test_split_gives_views_of_each_span(cuts):
    batches = list(CHUNK.split(cuts))
    for batch, (start, stop) in zip(batches, pairwise(cuts), strict=True):
        same(requests_of(batch), PLAIN[start:stop])


def test_views_copy_nothing():
    batch = CHUNK.slice(2, 5)
    whole = CHUNK.whole.features.candidates["job"]
    first = int(CHUNK.whole.features.offsets[2])
    assert batch.features.candidates["job"].data_ptr() == whole[first:].data_ptr()


def test_concatenated_chunks_of_one_and_of_several_candidates():
    table = pa.table({"request_id": [1, 2, 3, 3], "job": [5, 6, 7, 8], "click": [0, 1, 0, 1]})
    schema = CLICKS.model_copy(update={"request_id": "request_id"})
    parts = [chunks_of(log_from_table(part, schema))[0] for part in (table.slice(0, 2), table.slice(2))]
    assert [part.single for part in parts] == [True, False]
    whole = Chunk.concatenated(parts)
    assert whole.whole.features.offsets.tolist() == [0, 1, 2, 4]
    assert whole.whole.features.request_C.tolist() == [0, 1, 2, 2]
    assert torch.equal(whole.take(np.array([2, 0])).whole.features.candidates["job"], torch.tensor([7, 8, 5]))


@pytest.mark.parametrize("shuffled", [None, 3])
def test_events_beyond_the_limit_are_counted_and_the_newest_stay(shuffled):
    table = every_kind_table(60, 2)
    log = log_from_table(table, EVERY_KIND, layout="requests")
    batches = Batches(log, WholeLog("train"), "train", num_requests=7, seed=shuffled)
    given = dict(zip(table["request_id"].to_pylist(), table["history_item"].to_pylist(), strict=True))
    num_cut = 0
    for _, batch in batches.epoch(0):
        events = batch.features.history["history"]
        for r, request_id in enumerate(batch.audit.request_ids_R.tolist()):
            items = given[request_id]
            kept = events.columns["item"][events.offsets[r] : events.offsets[r + 1]].tolist()
            assert kept == items[-5:]
            assert int(events.num_cut_R[r]) == max(len(items) - 5, 0)
        num_cut += int((events.num_cut_R > 0).sum())
    assert num_cut == sum(len(items) > 5 for items in given.values()) > 0
