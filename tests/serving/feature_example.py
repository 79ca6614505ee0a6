"""Items and members with a feature of every kind, and what a request that carries their features is.

Letters: K candidates of one request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

import every_kind_log
from rankwell.data.request import batch_from_request
from rankwell.data.statistics import ColumnStatistics, NumericStatistics
from rankwell.schema import Categorical, Numeric
from rankwell.schema import Sequence as EventSequence
from rankwell.serving.feature_defaults import FeatureDefaults
from rankwell.serving.feature_store import FeatureStore
from rankwell.serving.stored_columns import StoredColumns
from rankwell.types import Column, Events, Features, Ragged

NOW_US = 1_700_000_000_000_000
_HISTORY = every_kind_log.EVERY_KIND.sequences[0]
SCHEMA = every_kind_log.EVERY_KIND.model_copy(
    update={
        "ingest_delay_s": 2.5,
        "sequences": (
            _HISTORY.model_copy(
                update={"fields": (*_HISTORY.fields, Numeric(name="dwell", on="event", missing="indicator"))}
            ),
            EventSequence(name="searches", fields=(Categorical(name="word", on="event"),), time=None, max_length=3),
        ),
    }
)
STORED = StoredColumns(SCHEMA, not_stored=("match",))
STATISTICS = NumericStatistics(
    columns={
        "age": ColumnStatistics(
            num_values=9, missing_rate=0.0, mean=7.25, sd=1.0, log_mean=2.0, log_sd=0.5, quantiles=(1.0, 9.0)
        )
    }
)
DEFAULTS = FeatureDefaults(SCHEMA, STATISTICS, {"home": (52.5, 13.25), "office": (-1.5, 2.0)})


def _lists(rng: np.random.Generator, num_rows: int, most: int, make: Any) -> list[list[Any]]:
    return [make(int(size)).tolist() for size in rng.integers(0, most + 1, num_rows)]


def _with_nulls(rng: np.random.Generator, values: np.ndarray) -> pa.Array:
    return pa.array(values, mask=rng.random(len(values)) < 0.2)


def items_table(num_items: int, seed: int) -> pa.Table:
    """Items of ids far apart, in no order."""
    rng = np.random.default_rng(seed)
    given = rng.normal(size=(num_items, 3)).astype(np.float32)
    return pa.table(
        {
            "job": rng.choice(2**40, num_items, replace=False),
            "job_title": rng.integers(0, 6, num_items),
            "wanted": _lists(rng, num_items, 3, lambda n: rng.integers(0, 30, n)),
            "salary": _with_nulls(rng, rng.lognormal(10, 1, num_items)),
            "age": rng.exponential(3, num_items),
            "given": pa.FixedSizeListArray.from_arrays(pa.array(given.ravel()), 3),
            "office_lat": rng.uniform(-60, 60, num_items),
            "office_lon": rng.uniform(-180, 180, num_items),
        }
    )


def members_table(num_members: int, seed: int) -> pa.Table:
    """Members with 0 … 9 events each, one microsecond and up to 9 s old at `NOW_US`, and 0 … 5 searches."""
    rng = np.random.default_rng(seed)
    ages = [np.sort(rng.integers(1, 9_000_000, n))[::-1] for n in rng.integers(0, 10, num_members)]
    return pa.table(
        {
            "member_id": rng.choice(2**62, num_members, replace=False),
            "title": _with_nulls(rng, rng.integers(0, 6, num_members)),
            "years": _with_nulls(rng, rng.normal(10, 4, num_members)),
            "skills": _lists(rng, num_members, 3, lambda n: rng.integers(0, 30, n)),
            "home_lat": rng.uniform(-60, 60, num_members),
            "home_lon": rng.uniform(-180, 180, num_members),
            "history_item": [rng.integers(0, 2**40, len(a)).tolist() for a in ages],
            "history_kind": [rng.integers(0, 3, len(a)).tolist() for a in ages],
            "history_dwell": [[None if x < 0.3 else x for x in rng.random(len(a)).tolist()] for a in ages],
            "history_time_us": [(NOW_US - a).tolist() for a in ages],
            "searches_word": _lists(rng, num_members, 5, lambda n: rng.integers(0, 2**40, n)),
        }
    )


def plain_features(member: dict[str, Any], items: Sequence[dict[str, Any]], match: Sequence[float]) -> Features:
    """What `batch_from_request` makes of all features, given as plain data; the too new events left out."""
    limit_us = NOW_US - round(SCHEMA.ingest_delay_s * 1e6)
    kept = [i for i, time_us in enumerate(member["history_time_us"]) if time_us < limit_us]
    fields = ("item", "kind", "dwell", "time_us")
    request = {
        "request_id": 1,
        "member_id": member["member_id"],
        "time_us": NOW_US,
        "context": {name: member[name] for name in ("title", "years", "skills")}
        | {"home": [member["home_lat"], member["home_lon"]]},
        "history": {
            "history": {name: [member[f"history_{name}"][i] for i in kept] for name in fields},
            "searches": {"word": member["searches_word"]},
        },
        "candidates": {
            name: [item[name] for item in items] for name in ("job", "job_title", "wanted", "salary", "age", "given")
        }
        | {"office": [[item["office_lat"], item["office_lon"]] for item in items], "match": list(match)},
    }
    return batch_from_request(request, SCHEMA).features


def features_by_id(store: FeatureStore, member_id: int, item_ids_K: np.ndarray, match: Sequence[float]) -> Features:
    """The same by ids: what is not stored comes with the request."""
    member, candidates = store.features(member_id, item_ids_K)
    sequences = {sequence.name: sequence for sequence in SCHEMA.sequences}
    history = {
        name: events.at(NOW_US, sequences[name], ingest_delay_s=SCHEMA.ingest_delay_s)
        for name, events in member.history.items()
    }
    num = len(item_ids_K)
    return Features(
        member.context,
        history,
        {**candidates.columns, "match": torch.tensor(list(match), dtype=torch.float32)},
        torch.tensor([0, num]),
        torch.zeros(num, dtype=torch.int64),
    )


def assert_equal_features(found: Features, expected: Features) -> None:
    """Equal names, types, shapes and bits, NaN equal to NaN."""
    for found_columns, expected_columns in (
        (found.context, expected.context),
        (found.candidates, expected.candidates),
        *((_event_columns(found.history[name]), _event_columns(events)) for name, events in expected.history.items()),
        ({"offsets": found.offsets, "request_C": found.request_C},) * 2,
    ):
        assert found_columns.keys() == expected_columns.keys()
        for name, column in expected_columns.items():
            assert_equal_columns(found_columns[name], column, name)
    assert found.history.keys() == expected.history.keys()


def assert_equal_columns(found: Column, expected: Column, name: str = "") -> None:
    """Of one column."""
    if isinstance(expected, Ragged):
        assert isinstance(found, Ragged), name
        pairs = [(found.values, expected.values), (found.offsets, expected.offsets)]
    else:
        assert not isinstance(found, Ragged), name
        pairs = [(found, expected)]
    for one, other in pairs:
        assert (one.dtype, one.shape) == (other.dtype, other.shape), name
        assert one.is_contiguous(), name
        assert np.array_equal(one.numpy(), other.numpy(), equal_nan=one.dtype.is_floating_point), name


def _event_columns(events: Events) -> dict[str, Column]:
    assert events.num_cut_R is not None
    return {**events.columns, "offsets:": events.offsets, "num_cut:": events.num_cut_R}
