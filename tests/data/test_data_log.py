"""Opening logs: where they may lie, what is refused before a value is read, and how they are dealt to readers."""

from __future__ import annotations

import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_example import BIG, SCHEMA, flat_table, plain_requests, request_table

from rankwell.data import blocks as blocks_module
from rankwell.data.blocks import cut_at_requests, cut_rows
from rankwell.data.log import log_from_table, open_log
from rankwell.data.string_ids import hash_strings
from rankwell.errors import LogError
from rankwell.schema import Action, Bag, Categorical, Schema

JOBS = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), member_id=None, time=None)
REQUESTS = plain_requests(12, seed=5)


def jobs(request_ids, **columns):
    n = len(request_ids)
    return pa.table({"request_id": request_ids, "job": list(range(n)), "click": [0] * n} | columns)


def read(log):
    with log.reader() as reader:
        return [reader.read(block) for block in log.blocks]


def request_ids(log):
    return [i for chunk in read(log) for i in chunk.whole.audit.request_ids_R.tolist()]


def job_lists(log):
    found = {}
    for chunk in read(log):
        features = chunk.whole.features
        for r, request_id in enumerate(chunk.whole.audit.request_ids_R.tolist()):
            assert request_id not in found
            found[request_id] = features.candidates["job"][features.offsets[r] : features.offsets[r + 1]].tolist()
    return found


def test_a_file_a_folder_a_glob_and_a_list(tmp_path):
    for i in range(3):
        pq.write_table(request_table(REQUESTS[4 * i : 4 * i + 4]), tmp_path / f"day{i}.parquet")
    (tmp_path / "notes.txt").write_text("not a log")
    all_ids = [BIG + i for i in range(12)]
    assert request_ids(open_log(tmp_path, SCHEMA)) == all_ids
    assert request_ids(open_log(str(tmp_path / "day*.parquet"), SCHEMA)) == all_ids
    assert request_ids(open_log(tmp_path / "day1.parquet", SCHEMA)) == all_ids[4:8]
    assert request_ids(open_log([tmp_path / f"day{i}.parquet" for i in (2, 0)], SCHEMA)) == all_ids[8:] + all_ids[:4]


def test_a_log_in_object_storage():
    with fsspec.open("memory://bucket/logs/day.parquet", "wb") as file:
        pq.write_table(request_table(REQUESTS), file, row_group_size=5)
    for path in ("memory://bucket/logs/day.parquet", "memory://bucket/logs", "memory://bucket/logs/*.parquet"):
        assert request_ids(open_log(path, SCHEMA)) == [BIG + i for i in range(12)]


def test_missing_column_names_column_file_and_remedy(tmp_path):
    pq.write_table(jobs([1]).drop_columns("job"), tmp_path / "a.parquet")
    with pytest.raises(LogError) as caught:
        open_log(tmp_path, JOBS, layout="flat")
    text = str(caught.value)
    assert "column 'job' is in the schema (categorical 'job') but not in file" in text
    assert "a.parquet" in text
    assert "found: ['request_id', 'click']" in text
    assert "allowed: a column of that name: integer or bool" in text
    assert "what to do: add the column, correct its name in the schema, or drop it from there" in text
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_missing_key_says_how_to_do_without(tmp_path):
    pq.write_table(jobs([1]).drop_columns("request_id"), tmp_path / "a.parquet")
    with pytest.raises(LogError, match="declare request_id=None"):
        open_log(tmp_path, JOBS, layout="flat")


@pytest.mark.parametrize(
    ("column", "found", "remedy"),
    [
        (pa.array(["a"]), "string", "rankwell's writer, which hashes strings"),
        (pa.array([1.5]), "double", "floats lose ids beyond 2\\^53"),
        (pa.array([[1]]), "list", "open the log with the layout that it has"),
    ],
)
def test_wrong_type_names_what_was_found_and_what_is_allowed(tmp_path, column, found, remedy):
    pq.write_table(jobs([1], job=column), tmp_path / "a.parquet")
    with pytest.raises(
        LogError, match=rf"(?s)column 'job'.*a.parquet.*found: {found}.*allowed: integer or bool.*{remedy}"
    ):
        open_log(tmp_path, JOBS, layout="flat")


def test_a_flat_log_opened_as_requests(tmp_path):
    pq.write_table(jobs([1]), tmp_path / "a.parquet")
    with pytest.raises(LogError, match=r"(?s)column 'job'.*found: int64.*list<integer or bool> \(layout 'requests'\)"):
        open_log(tmp_path, JOBS)


def test_files_that_differ(tmp_path):
    pq.write_table(jobs([1]), tmp_path / "a.parquet")
    pq.write_table(jobs([2], job=pa.array([1], pa.int32())), tmp_path / "b.parquet")
    with pytest.raises(LogError, match=r"(?s)column 'job' differs.*a.parquet.*b.parquet.*int64 and int32"):
        open_log(tmp_path, JOBS, layout="flat")
    pq.write_table(jobs([2], click_observed=[True]), tmp_path / "b.parquet")
    with pytest.raises(LogError, match=r"column 'click_observed' differs.*no such column and bool"):
        open_log(tmp_path, JOBS, layout="flat")


def test_empty_truncated_foreign_and_absent_files(tmp_path):
    whole = tmp_path / "whole.parquet"
    pq.write_table(jobs([1]), whole)
    for name, content, words in (
        ("empty.parquet", b"", "is empty; found: 0 bytes"),
        ("cut.parquet", whole.read_bytes()[:-20], "truncated or not Parquet"),
        ("text.parquet", b"job,click\n1,0\n" * 9, "truncated or not Parquet"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LogError, match=f"{name}.*{words}") as caught:
            open_log(tmp_path / name, JOBS, layout="flat")
        assert name in caught.value.what
        assert caught.value.found
        assert "Parquet file" in str(caught.value.allowed)
        assert caught.value.do == "write or fetch the file again"
    assert len(list(tmp_path.iterdir())) == 4
    with pytest.raises(LogError, match=r"no file or folder .*absent.parquet"):
        open_log(tmp_path / "absent.parquet", JOBS, layout="flat")
    with pytest.raises(LogError, match="no file fits the pattern"):
        open_log(str(tmp_path / "x*.parquet"), JOBS, layout="flat")


def test_a_page_damaged_in_the_middle(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(jobs(list(range(50_000))), path, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[1000:3000] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(LogError, match=r"(?s)a.parquet' is truncated or not Parquet; found: .*allowed: a whole.*do: "):
        read(open_log(path, JOBS, layout="flat"))


def test_empty_folder_and_no_rows(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(LogError, match=r"(?s)holds no Parquet file.*notes.txt"):
        open_log(tmp_path, JOBS, layout="flat")
    pq.write_table(jobs([1]).slice(0, 0), tmp_path / "a.parquet")
    with pytest.raises(LogError, match=r"(?s)a.parquet' has no rows; found: 0 rows; allowed: at least one.*do: give"):
        open_log(tmp_path, JOBS, layout="flat")
    with pytest.raises(LogError, match="the table in memory has no rows"):
        log_from_table(jobs([1]).slice(0, 0), JOBS)
    with pytest.raises(LogError, match="given twice"):
        open_log([tmp_path / "a.parquet"] * 2, JOBS, layout="flat")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 10), st.integers(2, 12))
def test_no_request_is_cut_whatever_the_row_groups(tmp_path_factory, lengths, row_group_size, longest_block):
    path = tmp_path_factory.mktemp("log") / "a.parquet"
    ids = np.repeat([1000 - 7 * i for i in range(len(lengths))], lengths)
    pq.write_table(jobs(ids.tolist()), path, row_group_size=row_group_size)
    usual = blocks_module._LONGEST_BLOCK
    blocks_module._LONGEST_BLOCK = longest_block
    try:
        log = open_log(path, JOBS, layout="flat")
        expected = {}
        for row, request_id in enumerate(ids.tolist()):
            expected.setdefault(request_id, []).append(row)
        assert job_lists(log) == expected
        assert [block.num_requests for block in log.blocks] == [chunk.num_requests for chunk in read(log)]
        assert (log.num_requests, log.num_candidates) == (len(lengths), len(ids))
    finally:
        blocks_module._LONGEST_BLOCK = usual


def test_a_request_over_two_files(tmp_path):
    pq.write_table(jobs([1, 2]), tmp_path / "a.parquet")
    pq.write_table(jobs([2, 3]), tmp_path / "b.parquet")
    with pytest.raises(LogError, match=r"request 2 begins in file .*a.parquet' and goes on in .*b.parquet"):
        open_log(tmp_path, JOBS, layout="flat")


def test_a_long_row_group_is_read_in_pieces_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks_module, "_LONGEST_BLOCK", 10)
    monkeypatch.setattr(blocks_module, "_STREAM_ROWS", 7)
    pq.write_table(jobs(list(range(95))), tmp_path / "a.parquet", row_group_size=60)
    log = open_log(tmp_path, JOBS, layout="flat")
    assert max(block.num_rows for block in log.blocks) <= 10
    assert request_ids(log) == list(range(95))
    with log.reader() as reader:
        backwards = [reader.read(block).whole.audit.request_ids_R.tolist() for block in reversed(log.blocks)]
    assert [i for ids in reversed(backwards) for i in ids] == list(range(95))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.integers(1, 5), st.data())
def test_cuts_move_to_the_next_request(lengths, part, data):
    ids = np.repeat(np.arange(len(lengths)), lengths)
    cuts = sorted({0, len(ids), *data.draw(st.lists(st.integers(0, len(ids)), max_size=4))})
    moved, before = cut_at_requests(cuts, [ids[i : i + part] for i in range(0, len(ids), part)])
    starts = [i for i in range(len(ids)) if i == 0 or ids[i] != ids[i - 1]] + [len(ids)]
    assert moved == [next(start for start in starts if start >= cut) for cut in cuts]
    assert before == [len(set(ids[:cut].tolist())) for cut in moved]


def test_cuts_stand_at_row_groups():
    assert cut_rows([0, 5, 9]) == [0, 5, 9]
    assert cut_rows([0, 4], [5_000_000]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shards_are_disjoint_complete_and_even(tmp_path, count):
    pq.write_table(jobs(list(range(100))), tmp_path / "a.parquet", row_group_size=10)
    log = open_log(tmp_path, JOBS, layout="flat")
    shards = [request_ids(log.shard(index, count)) for index in range(count)]
    assert sorted(i for shard in shards for i in shard) == list(range(100))
    assert max(map(len, shards)) - min(map(len, shards)) <= 10


def test_more_readers_than_row_groups(tmp_path):
    pq.write_table(jobs(list(range(20))), tmp_path / "a.parquet", row_group_size=10)
    log = open_log(tmp_path, JOBS, layout="flat")
    with pytest.raises(LogError, match=r"cannot be read by 3 readers; found: 2 row groups"):
        log.shard(0, 3)
    with pytest.raises(LogError, match="no shard 2 of 2"):
        log.shard(2, 2)


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("unit", ["int64", "ms", "us", "ns"])
def test_time_range(tmp_path, statistics, unit):
    times = [5_000_000, 1_000_000, 9_000_000]
    column = pa.array(times) if unit == "int64" else pa.array(times, pa.timestamp("us")).cast(pa.timestamp(unit, "UTC"))
    schema = JOBS.model_copy(update={"time": "at"})
    pq.write_table(jobs([1, 2, 3], at=column), tmp_path / "a.parquet", row_group_size=2, write_statistics=statistics)
    log = open_log(tmp_path, schema, layout="flat")
    assert all((block.times_us is not None) == statistics for block in log.blocks)
    assert log.time_range_us() == (1_000_000, 9_000_000)
    with pytest.raises(LogError, match="the log has no time"):
        open_log(tmp_path, JOBS, layout="flat").time_range_us()


@pytest.mark.parametrize(
    "make", [lambda t: t, pl.from_arrow, lambda t: t.to_pandas()], ids=["arrow", "polars", "pandas"]
)
def test_tables_in_memory_are_grouped_by_request(make):
    table = jobs([7, BIG, 7, 9, BIG])
    assert job_lists(log_from_table(make(table), JOBS)) == {7: [0, 2], BIG: [1, 4], 9: [3]}


def test_adjacent_requests_keep_the_tables_order():
    assert request_ids(log_from_table(jobs([9, 9, 2, 7]), JOBS)) == [9, 2, 7]


def test_strings_in_memory_become_ids():
    schema = JOBS.model_copy(update={"features": (Categorical(name="job", missing="row"), Bag(name="skills"))})
    words = ["cook", "clerk", None]
    expected = [-1 if i is None else i for i in hash_strings(pa.array(words)).to_pylist()]
    skills = [["a", "b"], [], ["a"]]
    for table in (
        pl.DataFrame({"request_id": ["x", "y", "z"], "job": words, "click": [0, 1, 0], "skills": skills}),
        pl.DataFrame({"request_id": ["x", "y", "z"], "job": words, "click": [0, 1, 0], "skills": skills}).with_columns(
            pl.col("job").cast(pl.Categorical)
        ),
        pd.DataFrame(
            {"request_id": ["x", "y", "z"], "job": pd.Categorical(words), "click": [0, 1, 0], "skills": skills}
        ),
    ):
        (chunk,) = read(log_from_table(table, schema))
        assert chunk.whole.features.candidates["job"].tolist() == expected
        assert chunk.whole.audit.request_ids_R.tolist() == hash_strings(pa.array(["x", "y", "z"])).to_pylist()
        bag = chunk.whole.features.candidates["skills"]
        assert bag.offsets.tolist() == [0, 2, 2, 3]
        assert bag.values.tolist() == hash_strings(pa.array(["a", "b", "a"])).to_pylist()


def test_what_is_no_table():
    with pytest.raises(LogError, match=r"found: dict; allowed: a pyarrow.Table"):
        log_from_table({"job": [1]}, JOBS)
    mixed = pd.DataFrame({"request_id": [1, 2], "job": pd.Series([1, "a"], dtype=object), "click": [0, 1]})
    with pytest.raises(LogError, match="does not fit an Arrow type"):
        log_from_table(mixed, JOBS)


def test_missing_ids_that_pandas_made_floats():
    frame = pd.DataFrame({"request_id": [1, 2], "job": [4, None], "click": [0, 1]})
    with pytest.raises(LogError, match=r"(?s)column 'job'.*found: double.*floats lose ids"):
        log_from_table(frame, JOBS)


def test_flat_and_request_layouts_hold_the_same(tmp_path):
    as_requests = log_from_table(request_table(REQUESTS), SCHEMA, layout="requests")
    as_rows = log_from_table(flat_table(REQUESTS), SCHEMA)
    assert request_ids(as_requests) == request_ids(as_rows)
    assert as_requests.num_candidates is None
    assert as_rows.num_candidates == sum(len(request["candidates"]) for request in REQUESTS)
