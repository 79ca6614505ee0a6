"""A log's lists as single rows: repeated, shown, missing, chunked, sliced."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rankwell.data.served_columns import served_fields
from rankwell.errors import MonitoringError
from rankwell.monitoring.flat_rows import FlatRows, RowsOf
from rankwell.schema import Action, Bag, Categorical, Exposure, Numeric, Schema

SCHEMA = Schema(
    features=(
        Categorical(name="country", on="request", missing="row"),
        Numeric(name="hour", on="request"),
        Numeric(name="years", on="candidate"),
        Categorical(name="is_ai", on="candidate"),
        Bag(name="skills", on="request"),
    ),
    actions=(Action(name="click"),),
    exposure=Exposure(position="position"),
)
TABLE = pa.table(
    {
        "request_id": [1, 2, 3],
        "time_us": [10, 20, 30],
        "country": [4, None, 6],
        "hour": pa.array([1.5, None, 3.5], pa.float32()),
        "years": [[1, 2, None], [], [5]],
        "is_ai": [[True, False, True], [], [True]],
        "skills": [[1, 2], [], [3]],
        "position": [[1, 0, 2], [], [0]],
        "click": [[1, None, 0], [], [None]],
        "served_bundle_id": ["a", "a", "b"],
        "served_price_micros": [[10, None, 30], [], [40]],
        "served_logit_click": [[0.5, -1.0, 2.0], [], [3.0]],
    }
)
NAMES = ["country", "hour", "years", "is_ai", "click", "served_price_micros", "served_logit_click"]


def taken(table: pa.Table, rows: RowsOf, names: list[str]) -> dict[str, list[float]]:
    flat = FlatRows.of_table(table, SCHEMA, names, rows=rows)
    return {"time": flat.times_us_C.tolist()} | {name: column_C.tolist() for name, column_C in flat.columns.items()}


def test_the_served_columns_are_those_of_a_served_log() -> None:
    written = {field.name for field in served_fields(SCHEMA)}
    assert {name for name in TABLE.column_names if name.startswith("served_")} <= written


@pytest.mark.parametrize("form", ["whole", "chunks", "slices", "batch"])
def test_all_that_was_scored(form: str) -> None:
    table = TABLE
    if form == "chunks":
        table = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)])
    elif form == "slices":
        table = pa.concat_tables([TABLE, TABLE]).combine_chunks().slice(3)
    elif form == "batch":
        table = TABLE.to_batches()[0]
    expected = {
        "time": [10, 10, 10, 30],
        "country": [4, 4, 4, 6],
        "hour": [1.5, 1.5, 1.5, 3.5],
        "years": [1, 2, np.nan, 5],
        "is_ai": [True, False, True, True],
        "click": [1, -1, 0, -1],
        "served_price_micros": [10, np.nan, 30, 40],
        "served_logit_click": [0.5, -1.0, 2.0, 3.0],
    }
    found = taken(table, "scored", NAMES)
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_what_was_shown() -> None:
    found = taken(TABLE, "shown", ["country", "served_logit_click"])
    assert found == {"time": [10, 10], "country": [4, 4], "served_logit_click": [0.5, 2.0]}
    assert taken(TABLE, "shown", ["country"]) == {"time": [10, 10], "country": [4, 4]}


def test_requests() -> None:
    found = taken(TABLE, "requests", ["country", "hour"])
    assert found["time"] == [10, 20, 30]
    assert found["country"] == [4, -1, 6]
    np.testing.assert_array_equal(found["hour"], [1.5, np.nan, 3.5])


def test_columns_of_requests_alone_are_repeated_for_candidates() -> None:
    assert taken(TABLE, "scored", ["country"]) == {"time": [10, 10, 10, 30], "country": [4, 4, 4, 6]}


@pytest.mark.parametrize("rows", ["requests", "scored", "shown"])
def test_no_requests(rows: RowsOf) -> None:
    empty = TABLE.schema.empty_table()
    assert taken(empty, rows, ["country"]) == {"time": [], "country": []}


def test_what_is_no_single_value_is_refused() -> None:
    with pytest.raises(MonitoringError, match="several values"):
        taken(TABLE, "requests", ["skills"])
    with pytest.raises(MonitoringError, match="stands on candidates"):
        taken(TABLE, "requests", ["years"])
    with pytest.raises(MonitoringError, match="no column 'age'"):
        taken(TABLE, "scored", ["age"])
    with pytest.raises(MonitoringError, match="times"):
        FlatRows.of_table(TABLE, Schema(features=SCHEMA.features, actions=SCHEMA.actions, time=None), [], rows="scored")
