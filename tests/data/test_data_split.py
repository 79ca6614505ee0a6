from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.data import split as split_module
from rankwell.data.log import log_from_table, open_log
from rankwell.data.split import (
    PARTS,
    HashSplit,
    TimeBoundaries,
    TimeSplit,
    WholeLog,
    check_time_order,
    count_requests,
)
from rankwell.errors import LeakError, LogError
from rankwell.schema import Action, Categorical, Schema

TIMED = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), request_id=None, member_id=None)
UNTIMED = TIMED.model_copy(update={"time": None})
MASK = 2**64 - 1


def timed(times):
    return pa.table({"job": [0] * len(times), "click": [0] * len(times), "time_us": pa.array(times, pa.int64())})


def splitmix64(value):
    mixed = (value + 0x9E3779B97F4A7C15) & MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
    return mixed ^ (mixed >> 31)


def test_the_hash_is_splitmix64():
    # The generator's published first outputs for seed 0 are splitmix64(0), splitmix64(golden ratio), …
    values = np.array([0, 0x9E3779B97F4A7C15], np.uint64)
    assert split_module.splitmix64(values).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20), st.integers(0, 2**31))
def test_hash_split_against_plain_python(ids, seed):
    split = HashSplit(train=0.4, tune=0.3, calibrate=0.1, test=0.2, seed=seed)
    expected = []
    for request_id in ids:
        uniform = (splitmix64((request_id + splitmix64(seed)) & MASK) >> 11) / 2**53
        expected.append(sum(uniform >= edge for edge in np.cumsum([0.4, 0.3, 0.1]).tolist()))
    assert split.assign(None, np.array(ids)).tolist() == expected


def test_hash_split_keeps_its_fractions_and_depends_on_the_seed():
    ids = np.arange(100_000)
    codes = HashSplit(train=0.0, tune=0.4, calibrate=0.2, test=0.4).assign(None, ids)
    # ±.006 is four standard deviations of a fraction near one half of 100,000
    assert np.bincount(codes, minlength=4) / 1e5 == pytest.approx([0, 0.4, 0.2, 0.4], abs=0.006)
    other = HashSplit(train=0.0, tune=0.4, calibrate=0.2, test=0.4, seed=1).assign(None, ids)
    assert np.mean(codes == other) == pytest.approx(0.36, abs=0.006)  # .4² + .2² + .4²


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 3 * 10**13), min_size=1, max_size=40),
    st.sampled_from([(0.7, 0.1, 0.1, 0.1), (0.5, 0.25, 0.25, 0.0), (0.0, 0.4, 0.2, 0.4), (1.0, 0.0, 0.0, 0.0)]),
)
def test_time_split_takes_the_times_at_the_cumulative_fractions(times, fractions):
    found = TimeSplit(*fractions).resolve(log_from_table(timed(times), TIMED))
    ordered = sorted(times)
    ends = [int(np.floor(round(sum(fractions[: i + 1]) * len(times), 6))) for i in range(3)]
    expected = [ordered[end] if end < len(times) else ordered[-1] + 1 for end in ends]
    assert [found.tune_us, found.calibrate_us, found.test_us] == expected


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_time_split_partitions_and_never_goes_backwards(times):
    log = log_from_table(timed(times), TIMED)
    codes = TimeSplit().resolve(log).assign(np.array(times), None)
    for earlier, code in zip(times, codes, strict=True):
        for later, later_code in zip(times, codes, strict=True):
            assert code <= later_code or earlier > later  # equal times fall on one side
    assert count_requests(log, TimeSplit()).sum(axis=0).tolist() == np.bincount(codes, minlength=4).tolist()


def test_a_hundred_requests_are_split_seventy_ten_ten_ten():
    log = log_from_table(timed(np.random.default_rng(0).permutation(100) * 10**9), TIMED)
    assert count_requests(log, TimeSplit()).sum(axis=0).tolist() == [70, 10, 10, 10]


@pytest.mark.parametrize("statistics", [True, False])
def test_counts_are_the_same_with_and_without_statistics(tmp_path, statistics):
    times = np.sort(np.random.default_rng(1).integers(0, 1000, 200))
    pq.write_table(timed(times), tmp_path / "a.parquet", row_group_size=13, write_statistics=statistics)
    log = open_log(tmp_path, TIMED, layout="flat")
    boundaries = TimeSplit.at(300, 300, 800)
    counts = count_requests(log, boundaries)
    codes = boundaries.assign(times, None)
    assert counts.tolist() == [np.bincount(codes[i : i + 13], minlength=4).tolist() for i in range(0, 200, 13)]


def test_only_blocks_that_a_boundary_cuts_are_read(tmp_path, monkeypatch):
    pq.write_table(timed(range(100)), tmp_path / "a.parquet", row_group_size=10)
    log = open_log(tmp_path, TIMED, layout="flat")
    scanned = []
    scan = type(log).scan_keys
    monkeypatch.setattr(type(log), "scan_keys", lambda self, blocks: scanned.extend(blocks) or scan(self, blocks))
    assert count_requests(log, TimeSplit.at(35, 50, 90)).sum(axis=0).tolist() == [35, 15, 40, 10]
    assert [block.start for block in scanned] == [30]


def test_a_whole_log_is_one_part():
    log = log_from_table(timed([1, 2, 3]), TIMED)
    assert count_requests(log, WholeLog("calibrate")).sum(axis=0).tolist() == [0, 0, 3, 0]
    with pytest.raises(LogError, match="no split is called 'valid'"):
        WholeLog("valid")


def test_a_log_without_time_must_declare_a_hash_split():
    log = log_from_table(timed([1, 2]), UNTIMED)
    for split in (TimeSplit(), TimeSplit.at(1, 2, 3)):
        with pytest.raises(LogError, match="use a HashSplit"):
            split.resolve(log)
    with pytest.raises(LogError, match="use a HashSplit"):
        TimeSplit.at(1, 2, 3).assign(None, np.arange(2))


def test_boundaries_that_go_backwards():
    with pytest.raises(LogError, match=r"go backwards; found: \[5, 4, 9\]"):
        TimeBoundaries(5, 4, 9)


@pytest.mark.parametrize("kind", [TimeSplit, HashSplit])
@pytest.mark.parametrize("fractions", [(0.7, 0.1, 0.1, 0.2), (1.2, -0.2, 0.0, 0.0), (float("nan"), 0.5, 0.5, 0.0)])
def test_fractions_that_are_none(kind, fractions):
    with pytest.raises(LogError, match="don't add up to 1"):
        kind(*fractions)


def test_time_going_backwards_across_splits():
    train, tune, test = (log_from_table(timed(times), TIMED) for times in ([10, 30], [30, 40], [35, 50]))
    check_time_order(train=train, tune=tune)
    check_time_order(train=train, test=test)
    with pytest.raises(LeakError) as caught:
        check_time_order(train=train, tune=tune, test=test)
    text = str(caught.value)
    assert "time goes backwards from 'tune' to 'test': column 'time_us' of 'the table in memory'" in text
    assert "found: 'test' begins at 35 µs, 5e-06 s before 'tune' ends" in text
    assert "allowed: each split begins when the one before it has ended" in text
    assert "what to do: split one log with TimeSplit" in text
    check_time_order(train=log_from_table(timed([9]), UNTIMED), tune=train)


def test_parts_are_called_as_everywhere():
    assert PARTS == ("train", "tune", "calibrate", "test")
