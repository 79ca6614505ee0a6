"""Values of the request in flat logs, which every row of the request repeats."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_example import BIG, SCHEMA, flat_table, plain_requests

from rankwell.data.check import Where
from rankwell.data.log import log_from_table
from rankwell.data.request_side import first_of_requests
from rankwell.errors import LogError

NAN = math.nan


def first(array, starts):
    ids_R = np.arange(len(starts)) + 70
    return first_of_requests(array, Where("title", "day.parquet", 100, np.array(starts), ids_R)).to_pylist()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([3, 3, 4], pa.int64()),
        ([None, None, 4], pa.int32()),
        ([NAN, NAN, 1.0], pa.float64()),
        ([None, None, 1.0], pa.float32()),
        ([True, True, None], pa.bool_()),
        ([5, 5, 6], pa.timestamp("us", "UTC")),
        ([[1, 2], [1, 2], []], pa.list_(pa.int64())),
        ([[], [], [1]], pa.large_list(pa.uint64())),
        ([[NAN, None], [NAN, None], [1.0]], pa.list_(pa.float64())),
        ([None, None, [1]], pa.list_(pa.int64())),
        ([[1.0, 2.0], [1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)),
    ],
    ids=str,
)
def test_repeated_values_are_read_once(values, kind):
    array = pa.array(values, kind)
    assert repr(first(array, [0, 2])) == repr([array[0].as_py(), array[2].as_py()])
    in_the_middle = pa.concat_arrays([array.take([2]), array])[1:]  # an array that does not begin at its memory's start
    assert repr(first(in_the_middle, [0, 2])) == repr([array[0].as_py(), array[2].as_py()])


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (3, 4, pa.int64()),
        (3, None, pa.int64()),
        (None, 0, pa.int64()),
        (1.0, NAN, pa.float64()),
        (None, 0.0, pa.float64()),
        (1.0, math.inf, pa.float32()),
        (2**62 + 1, 2**62, pa.uint64()),
        (True, False, pa.bool_()),
        ([1, 2], [1, 3], pa.list_(pa.int64())),
        ([1, 2], [1], pa.list_(pa.int64())),
        ([1], [None], pa.list_(pa.int64())),
        ([], None, pa.list_(pa.int64())),
        ([1.0, 2.0], [1.0, 3.0], pa.list_(pa.float32(), 2)),
    ],
    ids=str,
)
def test_values_that_differ_within_a_request_are_refused(one, other, kind):
    array = pa.array([one, one, one, other, other], kind)
    assert len(first(array, [0, 3])) == 2
    with pytest.raises(LogError, match=r"column 'title' differs within request 71, file 'day.parquet', row 103 ") as no:
        first(array, [0, 2])
    assert no.value.found == f"{pa.array([other], kind)[0].as_py()}, after {pa.array([one], kind)[0].as_py()}"
    assert no.value.do == "declare it on='candidate', or repeat the request's value on each of its rows"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.none() | st.lists(st.sampled_from([None, 0, 1]), max_size=2), min_size=1, max_size=9),
    st.sets(st.integers(1, 8)),
)
def test_lists_are_compared_as_python_compares_them(rows, cuts):
    starts = [0, *sorted(cut for cut in cuts if cut < len(rows))]
    spans = zip(starts, [*starts[1:], len(rows)], strict=True)
    array = pa.array(rows, pa.list_(pa.int64()))
    if all(row == rows[start] for start, stop in spans for row in rows[start:stop]):
        assert first(array, starts) == [rows[start] for start in starts]
    else:
        with pytest.raises(LogError, match="differs within request"):
            first(array, starts)


@pytest.mark.parametrize(
    ("column", "value"),
    [("country", 9), ("years", -1), ("interests", [1, 2, 3, 4]), ("home_lat", 1.0), ("gender", None), ("member_id", 5),
     ("time_us", 1), ("history_item", []), ("home_lon", math.nan)],
)  # fmt: skip
def test_a_flat_log_whose_request_changes_its_mind(column, value):
    requests = plain_requests(6, seed=4)
    requests[2]["history"] = [{"item": 1, "dwell": 0.5, "time_us": requests[2]["time_us"] - 10**9}]
    requests[2]["candidates"] *= 3
    last = sum(len(request["candidates"]) for request in requests[:3]) - 1
    rows = flat_table(requests).to_pylist()
    rows[last][column] = value
    log = log_from_table(pa.Table.from_pylist(rows, flat_table(requests).schema), SCHEMA)
    words = rf"column '{column}' differs within request {BIG + 2}, file .*, row {last} "
    with log.reader() as reader, pytest.raises(LogError, match=words):
        [reader.read(block) for block in log.blocks]
