from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from log_example import SCHEMA, expected_of, plain_requests, request_table, requests_of

from rankwell.data import batches as batches_module
from rankwell.data.batches import Batches, Position
from rankwell.data.log import LogReader, log_from_table, open_log
from rankwell.data.split import PARTS, HashSplit, TimeSplit, WholeLog
from rankwell.errors import CheckpointError, LogError
from rankwell.schema import Action, Categorical, Schema

JOBS = Schema(
    features=(Categorical(name="job"),), actions=(Action(name="click"),), request_id=None, member_id=None, time=None
)
TRAIN = WholeLog("train")


def jobs_of(batches, epoch=0, start=None):
    return [batch.features.candidates["job"].tolist() for _, batch in batches.epoch(epoch, start=start)]


def flat(lists):
    return [entry for one in lists for entry in one]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Jobs 0 … 199 in 20 row groups and two files."""
    folder = tmp_path_factory.mktemp("log")
    for i in range(2):
        table = pa.table({"job": np.arange(100 * i, 100 * i + 100), "click": np.zeros(100, np.int8)})
        pq.write_table(table, folder / f"{i}.parquet", row_group_size=10)
    return open_log(folder, JOBS, layout="flat")


def test_without_seed_the_order_is_the_files(log):
    batches = Batches(log, TRAIN, "train", num_requests=7, seed=None, buffer_requests=30)
    assert flat(jobs_of(batches)) == list(range(200))
    assert jobs_of(batches, 0) == jobs_of(batches, 1)


@pytest.mark.parametrize("buffer_requests", [1, 25, 60, 1000])
def test_a_shuffled_epoch_holds_every_request_once(log, buffer_requests):
    batches = Batches(log, TRAIN, "train", num_requests=8, seed=3, buffer_requests=buffer_requests)
    first, second = flat(jobs_of(batches, 0)), flat(jobs_of(batches, 1))
    assert sorted(first) == sorted(second) == list(range(200))
    assert first != second
    assert first != list(range(200))
    assert first == flat(jobs_of(Batches(log, TRAIN, "train", num_requests=8, seed=3, buffer_requests=buffer_requests)))
    assert first != flat(jobs_of(Batches(log, TRAIN, "train", num_requests=8, seed=4, buffer_requests=buffer_requests)))


def test_row_groups_are_mixed_within_a_buffer(log):
    batches = Batches(log, TRAIN, "train", num_requests=50, seed=0, buffer_requests=100)
    first = jobs_of(batches)[0]
    assert len({job // 10 for job in first}) >= 8  # of the buffer's 10 row groups


def test_the_shuffle_is_uniform():
    schema_log = log_from_table(pa.table({"job": [0, 1, 2], "click": [0, 0, 0]}), JOBS)
    batches = Batches(schema_log, TRAIN, "train", num_requests=3, seed=0)
    orders = Counter(tuple(flat(jobs_of(batches, epoch))) for epoch in range(600))
    assert len(orders) == 6
    # 600 · 1/6 = 100 each, standard deviation 9.1
    assert max(abs(count - 100) for count in orders.values()) < 40


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 45))
def test_batches_are_nearly_equal_and_never_too_large(num_requests, length):
    table = pa.table({"job": np.arange(length), "click": np.zeros(length, np.int8)})
    batches = Batches(log_from_table(table, JOBS), TRAIN, "train", num_requests=num_requests, seed=1)
    sizes = [len(jobs) for jobs in jobs_of(batches)]
    assert len(sizes) == -(-length // num_requests) == batches.num_batches(0)
    assert max(sizes) <= num_requests
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("seed", [None, 2])
@pytest.mark.parametrize("split", [TRAIN, HashSplit(), HashSplit(train=0.05, tune=0.05, calibrate=0.45, test=0.45)])
def test_no_tiny_batch_over_many_buffers(log, seed, split):
    batches = Batches(log, split, "train", num_requests=6, seed=seed, buffer_requests=13)
    sizes = [len(jobs) for jobs in jobs_of(batches)]
    assert sum(sizes) == batches.num_requests_total
    assert min(sizes) >= 3


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_no_tiny_batch_where_files_end_in_tiny_row_groups(tmp_path, seed, monkeypatch):
    monkeypatch.setattr(batches_module, "_LEAST_BUFFER", 1)
    for i in range(4):
        table = pa.table({"job": np.arange(65 * i, 65 * i + 65), "click": np.zeros(65, np.int8)})
        pq.write_table(table, tmp_path / f"{i}.parquet", row_group_size=32)  # 32, 32 and 1
    log = open_log(tmp_path, JOBS, layout="flat")
    batches = Batches(log, TRAIN, "train", num_requests=8, seed=seed, buffer_requests=16)
    jobs = jobs_of(batches)
    assert sorted(flat(jobs)) == list(range(260))
    assert min(map(len, jobs)) >= 4


@pytest.mark.parametrize("seed", [None, 2])
def test_resuming_gives_exactly_the_rest(log, seed):
    batches = Batches(log, HashSplit(), "train", num_requests=6, seed=seed, buffer_requests=30)
    whole = list(batches.epoch(4))
    jobs = [batch.features.candidates["job"].tolist() for _, batch in whole]
    for i, (position, _) in enumerate(whole):
        position = Position(**json.loads(json.dumps(asdict(position))))
        fresh = Batches(log, HashSplit(), "train", num_requests=6, seed=seed, buffer_requests=30)
        rest = list(fresh.epoch(4, start=position))
        assert [batch.features.candidates["job"].tolist() for _, batch in rest] == jobs[i + 1 :]
        assert [place for place, _ in rest] == [place for place, _ in whole[i + 1 :]]
    assert jobs_of(batches, 4, start=Position(4)) == jobs


def test_resuming_reads_nothing_of_what_lies_before(log, monkeypatch):
    batches = Batches(log, TRAIN, "train", num_requests=10, seed=5, buffer_requests=50)
    whole = list(batches.epoch(0))
    read = []
    usual = LogReader.read
    monkeypatch.setattr(LogReader, "read", lambda self, block: read.append(block) or usual(self, block))
    assert len(jobs_of(batches, 0, start=whole[14][0])) == 5
    assert len(read) == 5  # the last of four buffers of five row groups


def test_a_position_of_something_else(log):
    batches = Batches(log, TRAIN, "train", num_requests=10, seed=5, buffer_requests=50)
    for position in (Position(1), Position(0, 5, 0), Position(0, 0, 5), Position(0, -1, 0)):
        with pytest.raises(CheckpointError, match="no such position in this epoch"):
            jobs_of(batches, 0, start=position)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_the_parts_of_a_split_share_nothing_and_leave_nothing(seed):
    table = pa.table({"job": np.arange(300), "click": np.zeros(300, np.int8)})
    log = log_from_table(table, JOBS)
    split = HashSplit(train=0.4, tune=0.2, calibrate=0.2, test=0.2, seed=seed)
    parts = [flat(jobs_of(Batches(log, split, part, num_requests=32, seed=1))) for part in PARTS]
    assert sorted(flat(parts)) == list(range(300))


@pytest.mark.parametrize("seed", [None, 0])
def test_whole_requests_arrive_with_all_their_columns(tmp_path, seed):
    requests = plain_requests(40, seed=6)
    pq.write_table(request_table(requests), tmp_path / "a.parquet", row_group_size=9)
    log = open_log(tmp_path, SCHEMA)
    by_id = {request["request_id"]: expected_of(request) for request in requests}
    found = []
    for part in PARTS:
        batches = Batches(log, TimeSplit(), part, num_requests=4, seed=seed, buffer_requests=12)
        ids = []
        for _, batch in batches.epoch(0):
            for one in requests_of(batch):
                assert repr(one) == repr({name: by_id[one["request_id"]][name] for name in one})
                ids.append(one["request_id"])
        assert len(ids) == batches.num_requests_total == {"train": 28}.get(part, 4)
        assert batches.num_candidates_total == sum(len(by_id[i]["item_ids"]) for i in ids)
        found.extend(sorted(ids))
    assert found == sorted(by_id)  # in time order from part to part


def test_candidates_bound_the_buffer_too(tmp_path):
    requests = plain_requests(40, seed=6)
    pq.write_table(request_table(requests), tmp_path / "a.parquet", row_group_size=2)
    log = open_log(tmp_path, SCHEMA)
    batches = Batches(log, TRAIN, "train", num_requests=4, seed=0, buffer_candidates=10)
    buffers = {position.buffer for position, _ in batches.epoch(0)}
    assert len(buffers) > log.num_candidates // 20


def test_a_small_split_is_decoded_once(log, monkeypatch):
    read = []
    usual = LogReader.read
    monkeypatch.setattr(LogReader, "read", lambda self, block: read.append(block) or usual(self, block))
    batches = Batches(log, TRAIN, "train", num_requests=64, seed=0)
    assert len(flat(jobs_of(batches, 0))) == len(flat(jobs_of(batches, 1))) == 200
    assert len(read) == 20


def test_totals_are_known_before_the_first_epoch_where_they_cost_nothing(log):
    assert Batches(log, TRAIN, "train", num_requests=8, seed=0).num_candidates_total == 200
    batches = Batches(log, HashSplit(), "tune", num_requests=8, seed=0)
    assert batches.num_candidates_total is None
    num = len(flat(jobs_of(batches)))
    assert batches.num_requests_total == batches.num_candidates_total == num


def test_an_empty_split_is_refused(log):
    batches = Batches(log, TRAIN, "tune", num_requests=8, seed=0)
    with pytest.raises(LogError, match=r"split 'tune' holds no request; found: \{'train': 200, 'tune': 0"):
        next(batches.epoch(0))


@pytest.mark.parametrize("wrong", [{"num_requests": 0}, {"seed": -1}, {"buffer_requests": 0}])
def test_settings_that_make_no_batches(log, wrong):
    with pytest.raises(LogError):
        Batches(log, TRAIN, "train", **({"num_requests": 8, "seed": 0} | wrong))


def test_shards_together_give_the_log(log):
    parts = [Batches(log.shard(i, 3), HashSplit(), "train", num_requests=8, seed=1) for i in range(3)]
    whole = Batches(log, HashSplit(), "train", num_requests=8, seed=1)
    assert sorted(flat(flat(jobs_of(part) for part in parts))) == sorted(flat(jobs_of(whole)))


def test_batches_do_not_write_into_each_other(log):
    batches = list(Batches(log, TRAIN, "train", num_requests=8, seed=1).epoch(0))
    before = [batch.features.candidates["job"].clone() for _, batch in batches]
    again = list(Batches(log, TRAIN, "train", num_requests=8, seed=1).epoch(1))
    assert len(again) == len(batches)
    assert all(
        torch.equal(one, batch.features.candidates["job"]) for one, (_, batch) in zip(before, batches, strict=True)
    )
