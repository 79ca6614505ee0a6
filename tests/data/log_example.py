"""Logs to test with: as plain Python requests, as Arrow tables in both layouts, and what batches must hold of them."""

from __future__ import annotations

import math
import random
from typing import Any

import pyarrow as pa
import torch

from rankwell.schema import Action, Bag, Categorical, Exposure, Numeric, Place, Schema, Sequence, Vector
from rankwell.types import Batch, Ragged

MAX_EVENTS = 3
SCHEMA = Schema(
    features=(
        Categorical(name="country", on="request", missing="row"),
        Numeric(name="years", on="request"),
        Bag(name="interests", on="request"),
        Place(name="home", on="request"),
        Categorical(name="job", column="job_id"),
        Numeric(name="salary", missing="indicator"),
        Bag(name="skills"),
        Vector(name="title", width=2),
        Place(name="office"),
    ),
    sequences=(
        Sequence(
            name="history",
            fields=(Categorical(name="item", on="event"), Numeric(name="dwell", on="event", missing="indicator")),
            max_length=MAX_EVENTS,
        ),
    ),
    actions=(Action(name="click"), Action(name="stars", kind="graded", threshold=1)),
    item="job",
    exposure=Exposure(position="position", propensity="propensity", retrieval="retrieval", examination="examination"),
    bid="bid_micros",
    weight="weight",
    protected=(Categorical(name="gender", on="request"), Categorical(name="vendor_kind", missing="row")),
    visible_protected=("gender",),
    pii=("E_Mail",),
    ingest_delay_s=2.0,
)
BIG = 2**62 + 1  # an id that no float holds


def plain_requests(num: int, seed: int, *, first_id: int = 0) -> list[dict[str, Any]]:
    """Requests as one would write them by hand, missing values as None."""
    draw = random.Random(seed)
    requests = []
    for i in range(num):
        time_us = 1_700_000_000_000_000 + 1_000_000 * (first_id + i)
        event_times = sorted(time_us - 2_000_001 - draw.randrange(10**9) for _ in range(draw.randrange(6)))
        requests.append(
            {
                "request_id": BIG + first_id + i,
                "member_id": draw.randrange(2**63),
                "time_us": time_us,
                "country": draw.choice([None, 0, 1, 2]),
                "years": draw.randrange(40),
                "interests": [draw.randrange(2**63) for _ in range(draw.randrange(3))],
                "home": (draw.uniform(-90, 90), draw.uniform(-180, 180)),
                "gender": draw.randrange(2),
                "history": [
                    {"item": draw.randrange(2**63), "dwell": draw.choice([None, draw.random()]), "time_us": t}
                    for t in event_times
                ],
                "candidates": [
                    {
                        "job": BIG + draw.randrange(1000),
                        "salary": draw.choice([None, 1e5 * draw.random()]),
                        "skills": [draw.randrange(50) for _ in range(draw.randrange(4))],
                        "title": [draw.random(), draw.random()],
                        "office": (draw.uniform(-90, 90), draw.uniform(-180, 180)),
                        "click": draw.choice([None, 0, 1]),
                        "stars": draw.choice([None, 0, 1, 2, 3]),
                        "position": k + 1 if k < 3 else None,
                        "propensity": draw.uniform(0.01, 1) if k < 3 else None,
                        "retrieval": draw.uniform(0.01, 1),
                        "examination": draw.uniform(0.01, 1) if k < 3 else None,
                        "bid_micros": draw.randrange(10**7),
                        "weight": draw.choice([0.0, 1.0, 2.5]),
                        "vendor_kind": draw.choice([None, 4]),
                    }
                    for k in range(draw.choice([1, 1, 2, 5]))
                ],
            }
        )
    return requests


def _request_columns(request: dict[str, Any]) -> dict[str, Any]:
    keys = ("request_id", "member_id", "time_us", "country", "years", "interests", "gender")
    row = {name: request[name] for name in keys}
    row["gender"] = bool(request["gender"])
    row["home_lat"], row["home_lon"] = request["home"]
    for field in ("item", "dwell", "time_us"):
        row[f"history_{field}"] = [event[field] for event in request["history"]]
    return row


def _candidate_columns(candidate: dict[str, Any]) -> dict[str, Any]:
    row = {name: value for name, value in candidate.items() if name not in ("job", "office")}
    row["job_id"] = candidate["job"]
    row["office_lat"], row["office_lon"] = candidate["office"]
    return row


_TYPES = {
    "request_id": pa.int64(), "member_id": pa.int64(), "time_us": pa.timestamp("us", "UTC"), "country": pa.int16(),
    "years": pa.int32(), "interests": pa.list_(pa.uint64()), "gender": pa.bool_(), "home_lat": pa.float64(),
    "home_lon": pa.float32(), "history_item": pa.list_(pa.int64()), "history_dwell": pa.list_(pa.float64()),
    "history_time_us": pa.list_(pa.int64()),
}  # fmt: skip
_CANDIDATE_TYPES = {
    "job_id": pa.uint64(), "salary": pa.float64(), "skills": pa.list_(pa.int8()), "title": pa.list_(pa.float32(), 2),
    "office_lat": pa.float32(), "office_lon": pa.float64(), "click": pa.int8(), "stars": pa.int64(),
    "position": pa.int16(), "propensity": pa.float64(), "retrieval": pa.float32(), "examination": pa.float32(),
    "bid_micros": pa.int64(), "weight": pa.float64(), "vendor_kind": pa.uint8(),
}  # fmt: skip


def request_table(requests: list[dict[str, Any]]) -> pa.Table:
    """One row a request."""
    rows = []
    for request in requests:
        row = _request_columns(request)
        candidates = [_candidate_columns(candidate) for candidate in request["candidates"]]
        rows.append(row | {name: [candidate[name] for candidate in candidates] for name in _CANDIDATE_TYPES})
    types = _TYPES | {name: pa.list_(kind) for name, kind in _CANDIDATE_TYPES.items()}
    return pa.Table.from_pylist(rows, pa.schema(list(types.items())))


def flat_table(requests: list[dict[str, Any]]) -> pa.Table:
    """One row a candidate."""
    rows = [
        _request_columns(request) | _candidate_columns(candidate)
        for request in requests
        for candidate in request["candidates"]
    ]
    return pa.Table.from_pylist(rows, pa.schema(list((_TYPES | _CANDIDATE_TYPES).items())))


def _id(value: int | None) -> int:
    return -1 if value is None else int(value)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _float32(value: Any) -> Any:
    return torch.tensor(value, dtype=torch.float32).tolist()


def expected_of(request: dict[str, Any]) -> dict[str, Any]:
    """What a batch must hold of this request, column by column."""
    candidates = request["candidates"]
    events = request["history"][-MAX_EVENTS:]
    ages = [(request["time_us"] - event["time_us"]) / 1e6 for event in events]
    return {
        "request_id": request["request_id"],
        "member_id": request["member_id"],
        "time_us": request["time_us"],
        "context.country": _id(request["country"]),
        "context.years": float(request["years"]),
        "context.interests": request["interests"],
        "context.home": _float32(request["home"]),
        "context.gender": request["gender"],
        "audit.gender": request["gender"],
        "history.item": [event["item"] for event in events],
        "history.dwell": _float32([_number(event["dwell"]) for event in events]),
        "history.age_s": _float32(ages),
        "candidates.job": [candidate["job"] for candidate in candidates],
        "candidates.salary": _float32([_number(candidate["salary"]) for candidate in candidates]),
        "candidates.skills": [candidate["skills"] for candidate in candidates],
        "candidates.title": _float32([candidate["title"] for candidate in candidates]),
        "candidates.office": _float32([candidate["office"] for candidate in candidates]),
        "item_ids": [candidate["job"] for candidate in candidates],
        "labels": _float32([[_number(c["click"]), _number(c["stars"])] for c in candidates]),
        "observed": [[c["click"] is not None, c["stars"] is not None] for c in candidates],
        "weights": [candidate["weight"] for candidate in candidates],
        "position": [candidate["position"] or 0 for candidate in candidates],
        "propensity": _float32([candidate["propensity"] or 1.0 for candidate in candidates]),
        "audit.retrieval": _float32([candidate["retrieval"] for candidate in candidates]),
        "audit.examination": _float32([_number(candidate["examination"]) for candidate in candidates]),
        "audit.bid_micros": [candidate["bid_micros"] for candidate in candidates],
        "audit.vendor_kind": [_id(candidate["vendor_kind"]) for candidate in candidates],
    }


def _entry(column: Any, i: int) -> Any:
    if isinstance(column, Ragged):
        return column.values[column.offsets[i] : column.offsets[i + 1]].tolist()
    return column[i].tolist()


def requests_of(batch: Batch) -> list[dict[str, Any]]:
    """A batch, request by request, in the words of `expected_of`."""
    features, targets, audit = batch.features, batch.targets, batch.audit
    found = []
    for r in range(features.num_requests):
        span = range(int(features.offsets[r]), int(features.offsets[r + 1]))
        assert features.request_C[span.start : span.stop].tolist() == [r] * len(span)
        one: dict[str, Any] = {
            "request_id": int(audit.request_ids_R[r]),
            "member_id": int(audit.member_ids_R[r]),
            "time_us": int(audit.times_us_R[r]),
        }
        one |= {f"context.{name}": _entry(column, r) for name, column in features.context.items()}
        for name, events in features.history.items():
            first, after = int(events.offsets[r]), int(events.offsets[r + 1])
            one |= {f"{name}.{field}": column[first:after].tolist() for field, column in events.columns.items()}
        one |= {f"candidates.{n}": [_entry(column, c) for c in span] for n, column in features.candidates.items()}
        one |= {
            "item_ids": [int(audit.item_ids_C[c]) for c in span],
            "labels": [targets.labels_CA[c].tolist() for c in span],
            "observed": [targets.observed_CA[c].tolist() for c in span],
            "weights": [float(targets.weights_C[c]) for c in span],
            "position": [int(targets.position_C[c]) for c in span],
            "propensity": [float(targets.propensity_C[c]) for c in span],
        }
        for name, column in audit.columns.items():
            one[f"audit.{name}"] = column[r].item() if name == "gender" else [column[c].item() for c in span]
        found.append(one)
    return found
