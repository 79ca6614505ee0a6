from __future__ import annotations

import pyarrow as pa
import pytest

from rankwell.data.layout import LogLayout
from rankwell.errors import SchemaError
from rankwell.schema import Action, Bag, Categorical, Exposure, Numeric, Place, Schema, Sequence, Vector

WHOLE = Schema(
    features=(
        Categorical(name="job", column="job_id"),
        Bag(name="skills"),
        Numeric(name="salary", missing="indicator"),
        Vector(name="title", width=3),
        Place(name="home", on="request"),
        Bag(name="interests", on="request"),
    ),
    sequences=(
        Sequence(name="history", fields=(Categorical(name="item", on="event"), Numeric(name="dwell", on="event"))),
    ),
    actions=(Action(name="click"), Action(name="rating", kind="graded", threshold=1, column="stars")),
    item="job",
    exposure=Exposure(position="position", propensity="propensity"),
    bid="bid_micros",
    weight="weight",
    protected=(Categorical(name="gender", on="request", missing="row"),),
)


def shape(layout: LogLayout) -> dict[str, str]:
    return {column.name: str(column.written_as).replace("item: ", "") for column in layout.columns}


def test_request_layout_puts_candidates_into_lists():
    assert shape(LogLayout.of(WHOLE, "requests")) == {
        "request_id": "int64",
        "member_id": "int64",
        "time_us": "int64",
        "job_id": "list<int64>",
        "skills": "list<list<int64>>",
        "salary": "list<float>",
        "title": "list<fixed_size_list<float>[3]>",
        "home_lat": "float",
        "home_lon": "float",
        "interests": "list<int64>",
        "gender": "int64",
        "history_item": "list<int64>",
        "history_dwell": "list<float>",
        "history_time_us": "list<int64>",
        "click": "list<int8>",
        "click_observed": "list<bool>",
        "stars": "list<int32>",
        "rating_observed": "list<bool>",
        "position": "list<int32>",
        "propensity": "list<float>",
        "bid_micros": "list<int64>",
        "weight": "list<float>",
    }


def test_flat_layout_keeps_lists_only_where_an_entry_is_one():
    lists = {name: text for name, text in shape(LogLayout.of(WHOLE, "flat")).items() if "list" in text}
    assert lists == {
        "skills": "list<int64>",
        "title": "fixed_size_list<float>[3]",
        "interests": "list<int64>",
        "history_item": "list<int64>",
        "history_dwell": "list<float>",
        "history_time_us": "list<int64>",
    }


@pytest.mark.parametrize("kind", ["requests", "flat"])
def test_a_reader_takes_what_a_writer_writes(kind):
    layout = LogLayout.of(WHOLE, kind)
    assert [column.name for column in layout.columns if not column.allows(column.written_as)] == []
    assert layout.arrow_schema(optional=True).names == list(layout.names)
    optional = {column.name for column in layout.columns if not column.required}
    assert optional == {"click_observed", "rating_observed"} == set(layout.names) - set(layout.arrow_schema().names)


def test_null_is_allowed_only_where_it_is_declared():
    nullable = {column.name for column in LogLayout.of(WHOLE, "flat").columns if column.nullable}
    assert nullable == {"member_id", "salary", "gender", "click", "stars", "position", "propensity"}


def test_types_that_carry_ids_without_loss():
    job = next(column for column in LogLayout.of(WHOLE, "flat").columns if column.name == "job_id")
    assert [t for t in (pa.uint8(), pa.int32(), pa.uint64(), pa.bool_()) if not job.allows(t)] == []
    assert [t for t in (pa.float64(), pa.string(), pa.list_(pa.int64())) if job.allows(t)] == []


def test_one_column_cannot_stand_on_two_sides():
    schema = Schema(
        features=(Numeric(name="a", column="x"), Numeric(name="b", column="x", on="request")),
        actions=(Action(name="click"),),
    )
    with pytest.raises(SchemaError, match="column 'x' is declared twice"):
        LogLayout.of(schema, "requests")


def test_a_bid_may_also_be_a_feature():
    schema = Schema(
        features=(Numeric(name="bid", column="bid_micros"),), actions=(Action(name="click"),), bid="bid_micros"
    )
    assert LogLayout.of(schema, "flat").arrow_schema().field("bid_micros").type == pa.int64()
