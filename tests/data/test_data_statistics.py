from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_example import SCHEMA, plain_requests, request_table

from rankwell.data import statistics as statistics_module
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import NumericStatistics, measure_numerics
from rankwell.errors import LogError, SchemaError
from rankwell.schema import Action, Categorical, Numeric, Schema

PAY = Schema(
    features=(Numeric(name="pay", missing="indicator"),),
    actions=(Action(name="click"),),
    request_id=None, member_id=None, time=None,
)  # fmt: skip


def measured(values, num_requests=3, schema=PAY):
    table = pa.table({"pay": pa.array(values, pa.float32()), "click": [0] * len(values)})
    batches = Batches(log_from_table(table, schema), WholeLog("train"), "train", num_requests=num_requests, seed=None)
    return measure_numerics((batch for _, batch in batches.epoch(0)), schema)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.one_of(st.none(), st.floats(-(2.0**100), 2.0**100, width=32)), min_size=1, max_size=30),
    st.integers(1, 9),
)
def test_against_the_definitions(values, num_requests):
    pay = measured(values, num_requests).columns["pay"]
    known = [float(value) for value in values if value is not None]
    assert pay.num_values == len(known)
    assert pay.missing_rate == (len(values) - len(known)) / len(values)
    if not known:
        assert (pay.mean, pay.sd, set(pay.quantiles)) == (0.0, 0.0, {0.0})
        return
    scale = max(map(abs, known))
    assert pay.mean == pytest.approx(math.fsum(known) / len(known), rel=1e-9, abs=1e-12 * scale)
    assert pay.sd == pytest.approx(float(np.std(known)), rel=1e-6, abs=1e-7 * scale)
    logs = [math.copysign(math.log1p(abs(value)), value) for value in known]
    assert pay.log_mean == pytest.approx(math.fsum(logs) / len(logs), abs=1e-9)
    assert pay.log_sd == pytest.approx(float(np.std(logs)), abs=1e-6)
    assert pay.quantiles == pytest.approx(
        np.quantile(known, np.arange(257) / 256).tolist(), rel=1e-12, abs=1e-12 * scale
    )


def test_variance_does_not_cancel_far_from_zero():
    pay = measured([16_777_210.0, 16_777_212.0, 16_777_214.0] * 50, num_requests=7).columns["pay"]
    assert pay.mean == 16_777_212.0
    assert pay.sd == pytest.approx(math.sqrt(8 / 3), rel=1e-9)


def test_a_long_column_is_sampled_evenly_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(statistics_module, "_SAMPLE_SIZE", 4096)
    values = np.arange(100_000, dtype=np.float32)  # in order, so a sample of the head would show at once
    pay = measured(values, num_requests=1000).columns["pay"]
    assert (pay.quantiles[0], pay.quantiles[-1]) == (0.0, 99_999.0)
    assert pay.mean == pytest.approx(49_999.5, rel=1e-12)
    # a quantile of 4,096 samples has a standard deviation of at most .5 / √4096 = .8 % of the range
    error = np.abs(np.array(pay.quantiles) / 99_999 - np.arange(257) / 256)
    assert error.max() < 0.03
    assert pay == measured(values, num_requests=1000).columns["pay"]


def test_every_numeric_of_a_schema_is_measured():
    requests = plain_requests(30, seed=9)
    batches = Batches(
        log_from_table(request_table(requests), SCHEMA, layout="requests"), WholeLog("train"), "train",
        num_requests=7, seed=1,
    )  # fmt: skip
    columns = measure_numerics((batch for _, batch in batches.epoch(0)), SCHEMA).columns
    assert set(columns) == {"years", "salary", "history.dwell", "history.age_s"}
    assert columns["years"].num_values == 30  # on the request: counted once, not once a candidate
    assert columns["years"].mean == pytest.approx(np.mean([request["years"] for request in requests]))
    ages = [(r["time_us"] - event["time_us"]) / 1e6 for r in requests for event in r["history"][-3:]]
    assert columns["history.age_s"].num_values == len(ages)
    assert columns["history.age_s"].mean == pytest.approx(np.mean(ages), rel=1e-6)
    salaries = [candidate["salary"] for request in requests for candidate in request["candidates"]]
    assert columns["salary"].missing_rate == pytest.approx(salaries.count(None) / len(salaries))


def test_without_numerics_nothing_is_read():
    def never():
        raise AssertionError("read")
        yield

    schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),))
    assert measure_numerics(never(), schema) == NumericStatistics()


def test_no_batches():
    with pytest.raises(LogError, match="on no batches"):
        measure_numerics([], PAY)


def test_json_keeps_every_bit():
    statistics = measured([0.1, 1 / 3, None, 7e-20])
    assert NumericStatistics.from_json(statistics.to_json()) == statistics
    with pytest.raises(SchemaError):
        NumericStatistics.from_json('{"columns": {"pay": {"mean": 1}}}')
