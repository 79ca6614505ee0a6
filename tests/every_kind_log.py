"""A small log with every kind of column, for tests that need a batch of everything."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rankwell.schema import (
    Action,
    Bag,
    Categorical,
    Cross,
    Log,
    Numeric,
    PiecewiseLinear,
    Place,
    Quantiles,
    Schema,
    Sequence,
    TableSpec,
    Vector,
)

EVERY_KIND = Schema(
    features=(
        Categorical(name="member", on="request", column="member_id", num_rows=500),
        Categorical(name="title", on="request", num_ids=6, missing="row"),
        Numeric(name="years", on="request", transform=Quantiles(num_buckets=4), missing="indicator"),
        Bag(name="skills", on="request", num_ids=30),
        Place(name="home", on="request"),
        Categorical(name="job", table="job"),
        Categorical(name="job_title", num_ids=6),
        Bag(name="wanted", table="skills"),
        Numeric(name="salary", transform=Log(), missing="indicator"),
        Numeric(name="match", transform=PiecewiseLinear(num_pieces=4)),
        Numeric(name="age"),
        Vector(name="given", width=3),
        Place(name="office"),
    ),
    tables=(TableSpec(name="job", num_ids=40),),
    sequences=(
        Sequence(
            name="history",
            fields=(
                Categorical(name="item", on="event", table="job"),
                Categorical(name="kind", on="event", table="kind", num_ids=3),
            ),
            max_length=5,
        ),
    ),
    crosses=(Cross(of=("title", "job_title"), num_rows=64), Cross(of=("years", "job_title"), num_rows=64)),
    actions=(Action(name="click"), Action(name="stars", kind="graded", threshold=3)),
    item="job",
)
"""One feature of each kind on each side."""


def every_kind_table(num_requests: int, seed: int, *, longest: int = 6) -> pa.Table:
    """A log of `EVERY_KIND` in the request layout: 1 … longest candidates a request, 0 … 7 events."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, num_requests)
    num_candidates = int(lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    events = rng.integers(0, 8, num_requests)
    event_offsets = np.concatenate([[0], np.cumsum(events)]).astype(np.int32)
    times = 1_700_000_000_000_000 + np.sort(rng.integers(0, 10**12, num_requests))
    event_request = np.repeat(np.arange(num_requests), events)
    event_times = times[event_request] - rng.integers(1, 10**9, len(event_request))
    event_times = event_times[np.lexsort((event_times, event_request))]

    def per_candidate(values: object) -> pa.ListArray:
        return pa.ListArray.from_arrays(pa.array(offsets), values if isinstance(values, pa.Array) else pa.array(values))

    def per_event(values: np.ndarray) -> pa.ListArray:
        return pa.ListArray.from_arrays(pa.array(event_offsets), pa.array(values))

    def bag(num: int) -> pa.ListArray:
        sizes = rng.integers(0, 4, num)
        ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(ends), pa.array(rng.integers(0, 30, int(sizes.sum()))))

    title = rng.integers(0, 6, num_requests)
    job_title = rng.integers(0, 6, num_candidates)
    clicked = rng.random(num_candidates) < np.where(np.repeat(title, lengths) == job_title, 0.8, 0.2)
    return pa.table(
        {
            "request_id": np.arange(num_requests) + 1000 * seed,
            "member_id": rng.integers(0, 2**60, num_requests),
            "time_us": times,
            "title": pa.array(title, mask=rng.random(num_requests) < 0.1),
            "years": pa.array(rng.normal(10, 4, num_requests), mask=rng.random(num_requests) < 0.1),
            "skills": bag(num_requests),
            "home_lat": rng.uniform(-60, 60, num_requests),
            "home_lon": rng.uniform(-180, 180, num_requests),
            "history_item": per_event(rng.integers(0, 40, len(event_request))),
            "history_kind": per_event(rng.integers(0, 3, len(event_request))),
            "history_time_us": per_event(event_times),
            "job": per_candidate(rng.integers(0, 40, num_candidates)),
            "job_title": per_candidate(job_title),
            "wanted": per_candidate(bag(num_candidates)),
            "salary": per_candidate(
                pa.array(rng.lognormal(10, 1, num_candidates), mask=rng.random(num_candidates) < 0.1)
            ),
            "match": per_candidate(rng.random(num_candidates)),
            "age": per_candidate(rng.exponential(3, num_candidates)),
            "given": per_candidate(pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=3 * num_candidates)), 3)),
            "office_lat": per_candidate(rng.uniform(-60, 60, num_candidates)),
            "office_lon": per_candidate(rng.uniform(-180, 180, num_candidates)),
            "click": per_candidate(clicked.astype(np.int8)),
            "stars": per_candidate(rng.integers(0, 6, num_candidates).astype(np.int8)),
        }
    )
