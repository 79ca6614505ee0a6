"""Each bad value is refused with its column, file, row, what was found, what is allowed and what to do."""

from __future__ import annotations

import copy
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from log_example import BIG, SCHEMA, flat_table, plain_requests, request_table

from rankwell.data.log import log_from_table, open_log
from rankwell.errors import LeakError, LogError, PrivacyError
from rankwell.schema import Action, Categorical, Schema, Sequence

REQUESTS = plain_requests(6, seed=4)
REQUESTS[2]["candidates"] = [dict(REQUESTS[2]["candidates"][0]) for _ in range(2)]  # the second will be spoilt
ROW_OF_SPOILT = {"requests": 2, "flat": sum(len(request["candidates"]) for request in REQUESTS[:2]) + 1}


def read(log):
    with log.reader() as reader:
        for block in log.blocks:
            reader.read(block)


def message(tmp_path, table, layout, error=LogError):
    pq.write_table(table, tmp_path / "day.parquet")
    with pytest.raises(error) as caught:
        read(open_log(tmp_path / "day.parquet", SCHEMA, layout=layout))
    assert caught.type is error
    assert "day.parquet" in caught.value.what
    assert caught.value.allowed
    assert caught.value.do
    assert [path.name for path in tmp_path.iterdir()] == ["day.parquet"]
    return str(caught.value)


def spoilt(layout, **values):
    """The log with values of the second candidate of the third request replaced."""
    requests = copy.deepcopy(REQUESTS)
    requests[2]["candidates"][1] |= values
    return request_table(requests) if layout == "requests" else flat_table(requests)


@pytest.mark.parametrize("layout", ["requests", "flat"])
@pytest.mark.parametrize(
    ("name", "value", "what", "found", "allowed"),
    [
        ("click", 2, "label", "2", "0 or 1"),
        ("click", -1, "label", "-1", "0 or 1"),
        ("click", 127, "label", "127", "0 or 1"),
        ("stars", -1, "label", "-1", "grades 0, 1, 2"),
        ("salary", math.inf, "infinite", "inf", "finite numbers"),
        ("salary", 1e39, "infinite", "inf", "3.4e38"),
        ("title", [0.5, math.nan], "NaN or null", "nan", "finite numbers"),
        ("title", [0.5, None], "NaN or null", "nan", "finite numbers"),
        ("job", None, "null id", None, "0 to 2^63 - 1"),
        ("job", 2**63, "2^63 or more", str(2**63), "0 to 2^63 - 1"),
        ("skills", [3, -4], "negative id", "-4", "0 to 2^63 - 1"),
        ("skills", [3, None], "null id", None, "0 to 2^63 - 1"),
        ("skills", None, "null list", None, "a list in every row"),
        ("propensity", 0.0, "propensity outside (0, 1]", "0.0", "greater than 0 and at most 1"),
        ("propensity", 1.5, "propensity outside (0, 1]", "1.5", "greater than 0 and at most 1"),
        ("propensity", None, "no propensity where the candidate was shown", None, "a probability in (0, 1]"),
        ("retrieval", 2.0, "retrieval outside (0, 1]", "2.0", "greater than 0 and at most 1"),
        ("retrieval", None, "no retrieval where the candidate was shown", None, "a probability in (0, 1]"),
        ("position", -1, "negative position", "-1", "0 or more"),
        ("weight", -0.5, "negative weight", "-0.5", "0 or more"),
        ("weight", None, "NaN or null", "nan", "finite numbers"),
        ("bid_micros", -7, "negative bid", "-7", "0 or more"),
        ("bid_micros", None, "null bid", None, "micros"),
    ],
)
def test_bad_value_on_a_candidate(tmp_path, layout, name, value, what, found, allowed):
    column = {"job": "job_id"}.get(name, name)
    text = message(tmp_path, spoilt(layout, **{name: value}), layout)
    assert f"column {column!r}" in text
    assert "day.parquet'" in text
    assert f"row {ROW_OF_SPOILT[layout]} (from 0), request {BIG + 2}" in text
    assert what in text
    assert allowed in text
    assert found is None or f"found: {found}" in text


@pytest.mark.parametrize("layout", ["requests", "flat"])
@pytest.mark.parametrize(
    ("name", "value", "column", "what"),
    [
        ("years", None, "years", "NaN or null; found: nan; allowed: finite numbers"),
        ("member_id", -3, "member_id", "negative id; found: -3; allowed: 0 to 2^63 - 1"),
        ("country", -2, "country", "negative id; found: -2; allowed: 0 to 2^63 - 1"),
        ("time_us", None, "time_us", "null time"),
        ("request_id", None, "request_id", "null id"),
        ("home", (math.nan, 1.0), "home_lat", "NaN or null"),
        ("interests", None, "interests", "null list"),
    ],
)
def test_bad_value_on_a_request(tmp_path, layout, name, value, column, what):
    requests = copy.deepcopy(REQUESTS)
    requests[3][name] = value
    table = request_table(requests) if layout == "requests" else flat_table(requests)
    text = message(tmp_path, table, layout)
    row = 3 if layout == "requests" else ROW_OF_SPOILT["flat"] + 1
    assert f"column {column!r}" in text
    assert f"row {row} (from 0)" in text
    assert what in text


def test_several_offenders_are_counted(tmp_path):
    requests = copy.deepcopy(REQUESTS)
    for request in requests:
        request["candidates"][0]["weight"] = -1.0
    text = message(tmp_path, flat_table(requests), "flat")
    assert "row 0 (from 0)" in text
    assert "(and 5 more in this block)" in text


def test_a_fraction_is_no_grade():
    schema = Schema(
        features=(Categorical(name="job"),),
        actions=(Action(name="stars", kind="graded", threshold=1),),
        request_id=None, member_id=None, time=None,
    )  # fmt: skip
    with pytest.raises(LogError, match=r"column 'stars'.*row 1 .*label; found: 2.5; allowed: grades 0, 1, 2"):
        read(log_from_table(pa.table({"job": [1, 2], "stars": [3.0, 2.5]}), schema))
    read(log_from_table(pa.table({"job": [1, 2], "stars": [3.0, math.nan]}), schema))


def replaced(table, name, values):
    index = table.schema.get_field_index(name)
    return table.set_column(index, name, pa.array(values, table.schema.field(name).type))


def test_candidate_lists_of_unequal_length(tmp_path):
    table = request_table(REQUESTS)
    bids = table["bid_micros"].to_pylist()
    bids[2] = bids[2][:1]
    text = message(tmp_path, replaced(table, "bid_micros", bids), "requests")
    assert "column 'bid_micros'" in text
    assert f"row 2 (from 0), request {BIG + 2}: lists of unequal length" in text
    assert "found: 1 entries, but 2 in 'job_id'; allowed: lists of one length within a request" in text
    assert "what to do: write one entry for each candidate" in text


def test_a_request_without_candidates(tmp_path):
    requests = copy.deepcopy(REQUESTS)
    requests[4]["candidates"] = []
    text = message(tmp_path, request_table(requests), "requests")
    assert f"row 4 (from 0), request {BIG + 4}: empty candidate list; found: 0; allowed: at least one" in text


def test_history_lists_of_unequal_length(tmp_path):
    table = request_table(REQUESTS)
    items = table["history_item"].to_pylist()
    items[1] = [*items[1], 5]
    text = message(tmp_path, replaced(table, "history_item", items), "requests")
    assert "row 1 (from 0)" in text
    assert "lists of unequal length" in text
    assert "'history_item'" in text


def with_event(request, age_us):
    request["history"] = [{"item": 5, "dwell": None, "time_us": request["time_us"] - age_us}]


@pytest.mark.parametrize("layout", ["requests", "flat"])
def test_an_event_newer_than_the_ingest_delay_is_a_leak(tmp_path, layout):
    requests = copy.deepcopy(REQUESTS)
    with_event(requests[1], 2_000_001)
    with_event(requests[3], 500_000)
    table = request_table(requests) if layout == "requests" else flat_table(requests)
    text = message(tmp_path, table, layout, LeakError)
    assert "column 'history_time_us'" in text
    assert f"request {BIG + 3}: the history holds an event" in text
    assert "found: an event 0.5 s before the request" in text
    assert "allowed: events more than 2 s (ingest_delay_s) before it" in text
    with_event(requests[3], 2_000_000)  # exactly the delay
    table = request_table(requests) if layout == "requests" else flat_table(requests)
    assert "found: an event 2 s before the request" in message(tmp_path, table, layout, LeakError)


@pytest.mark.parametrize("layout", ["requests", "flat"])
def test_without_a_delay_the_requests_own_microsecond_is_no_past(layout):
    schema = Schema(
        features=(Categorical(name="job"),),
        sequences=(Sequence(name="h", fields=(Categorical(name="item", on="event"),)),),
        actions=(Action(name="click"),),
        member_id=None,
    )
    row = {"request_id": 1, "time_us": 1000, "job": 7, "click": 0, "h_item": [5], "h_time_us": [999]}
    if layout == "requests":
        row |= {"job": [7], "click": [0]}
    read(log_from_table(pa.Table.from_pylist([row]), schema, layout=layout))
    row["h_time_us"] = [1000]
    with pytest.raises(LeakError, match=r"column 'h_time_us'.*found: an event 0 s before the request; allowed: .* 0 s"):
        read(log_from_table(pa.Table.from_pylist([row]), schema, layout=layout))


def test_the_label_planted_in_the_history_is_a_leak(tmp_path):
    requests = copy.deepcopy(REQUESTS)
    clicked = requests[0]["candidates"][0]["job"]
    requests[0]["history"].append({"item": clicked, "dwell": None, "time_us": requests[0]["time_us"] + 30_000_000})
    assert "an event 30 s after the request" in message(tmp_path, request_table(requests), "requests", LeakError)


def test_events_out_of_order(tmp_path):
    requests = copy.deepcopy(REQUESTS)
    old = requests[2]["time_us"] - 10**9
    requests[2]["history"] = [{"item": 1, "dwell": None, "time_us": t} for t in (old, old - 1)]
    text = message(tmp_path, request_table(requests), "requests")
    assert f"row 2 (from 0), request {BIG + 2}: events out of order" in text


def test_a_positive_that_is_not_observed():
    schema = Schema(
        features=(Categorical(name="job"),), actions=(Action(name="click"),), request_id=None, member_id=None, time=None
    )
    table = pa.table({"job": [1, 2], "click": [0, 1], "click_observed": [False, False]})
    with pytest.raises(LogError, match=r"column 'click_observed'.*row 1 .*not observed, though the action happened"):
        read(log_from_table(table, schema))


def test_request_id_that_comes_again(tmp_path):
    requests = [REQUESTS[0], REQUESTS[1], REQUESTS[0]]
    text = message(tmp_path, flat_table(requests), "flat")
    assert "column 'request_id'" in text
    assert "comes again after other requests" in text
    assert f"found: {BIG}" in text


def test_request_id_that_stands_twice_in_a_log_of_requests(tmp_path):
    text = message(tmp_path, request_table([REQUESTS[0], REQUESTS[1], REQUESTS[0]]), "requests")
    assert "column 'request_id'" in text
    assert f"row 2 (from 0): the request id stands twice; found: {BIG}" in text
    assert "allowed: one row a request" in text
    assert "what to do: drop the repeated rows" in text
    table = request_table([REQUESTS[0], REQUESTS[1]])
    with pytest.raises(LogError, match="the request id stands twice"):
        read(log_from_table(pa.concat_tables([table, table]), SCHEMA, layout="requests"))


def test_personal_columns_are_refused_however_they_are_written(tmp_path):
    table = request_table(REQUESTS).append_column("E_MAIL", pa.array(["a@b.c"] * len(REQUESTS)))
    text = message(tmp_path, table, "requests", PrivacyError)
    assert "day.parquet" in text
    assert "found: ['E_MAIL']" in text
    with pytest.raises(PrivacyError, match="the table in memory"):
        log_from_table(table, SCHEMA, layout="requests")
