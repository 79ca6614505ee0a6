"""Letters: K candidates of one request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_example import (
    DEFAULTS,
    NOW_US,
    SCHEMA,
    STORED,
    assert_equal_features,
    items_table,
    members_table,
    plain_features,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.data.request import batch_from_request
from rankwell.errors import RequestError
from rankwell.serving.feature_table import FeatureTable, write_feature_table
from rankwell.serving.request_reader import RequestReader
from rankwell.types import MISSING_ID

ITEMS, MEMBERS = items_table(50, seed=1).to_pylist(), members_table(20, seed=2).to_pylist()
ON_CANDIDATES = ("job", "job_title", "wanted", "salary", "age", "given", "office")
ON_REQUEST = ("title", "years", "skills", "home")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureTable:
    folder = tmp_path_factory.mktemp("features")
    write_feature_table(folder, STORED, items=items_table(50, seed=1), members=members_table(20, seed=2))
    return FeatureTable(folder, STORED, DEFAULTS)


def request(member: dict[str, Any], items: list[dict[str, Any]], names: set[str]) -> dict[str, Any]:
    """A request that carries the features of these names, and leaves the others to the store."""
    values = {**member, "home": [member["home_lat"], member["home_lon"]]}
    limit_us = NOW_US - round(SCHEMA.ingest_delay_s * 1e6)
    kept = [i for i, time_us in enumerate(member["history_time_us"]) if time_us < limit_us]
    history: dict[str, Any] = {}
    if "history" in names:
        fields = ("item", "kind", "dwell", "time_us")
        history["history"] = {name: [member[f"history_{name}"][i] for i in kept] for name in fields}
    if "searches" in names:
        history["searches"] = {"word": member["searches_word"]}
    columns = {
        name: [[item["office_lat"], item["office_lon"]] if name == "office" else item[name] for item in items]
        for name in ON_CANDIDATES
        if name == "job" or name in names
    }
    return {
        "request_id": 1,
        "member_id": member["member_id"],
        "time_us": NOW_US,
        "context": {name: values[name] for name in ON_REQUEST if name in names},
        "history": history,
        "candidates": {**columns, "match": [float(place) for place in range(len(items))]},
    }


@given(
    st.integers(0, 19),
    st.lists(st.integers(0, 49), max_size=8),
    st.sets(st.sampled_from((*ON_CANDIDATES, *ON_REQUEST, "history", "searches"))),
)
@settings(deadline=None, derandomize=True, max_examples=150)
def test_what_a_request_leaves_out_is_as_if_it_had_been_given(
    store: FeatureTable, member: int, places: list[int], names: set[str]
) -> None:
    items = [ITEMS[place] for place in places]
    read = RequestReader(SCHEMA, store=store).read(request(MEMBERS[member], items, names))
    assert_equal_features(
        read.batch.features, plain_features(MEMBERS[member], items, [float(place) for place in range(len(items))])
    )
    assert (read.num_missing_items, read.is_member_missing) == (0, False)
    assert read.batch.audit.item_ids_C.tolist() == [item["job"] for item in items]
    assert read.batch.audit.member_ids_R.tolist() == [MEMBERS[member]["member_id"]]


def test_what_a_request_says_comes_before_what_is_stored(store: FeatureTable) -> None:
    asked = request(MEMBERS[0], ITEMS[:2], {"salary"})
    asked["candidates"]["salary"] = [1.5, None]
    features = RequestReader(SCHEMA, store=store).read(asked).batch.features
    assert np.array_equal(
        np.asarray(features.candidates["salary"]), np.array([1.5, np.nan], np.float32), equal_nan=True
    )


def test_unknown_members_and_items_read_defaults_and_are_counted(store: FeatureTable) -> None:
    asked = request({**MEMBERS[0], "member_id": 3}, [ITEMS[0], {**ITEMS[1], "job": 5}], set())
    read = RequestReader(SCHEMA, store=store).read(asked)
    assert (read.num_missing_items, read.is_member_missing) == (1, True)
    del asked["member_id"]  # no member is none that is missing
    read = RequestReader(SCHEMA, store=store).read(asked)
    assert (read.num_missing_items, read.is_member_missing) == (1, False)
    assert read.batch.audit.member_ids_R.tolist() == [MISSING_ID]


def test_a_request_with_all_features_asks_no_store(store: FeatureTable) -> None:
    before = store.counts.items.num_looked_up
    names = {*ON_CANDIDATES, *ON_REQUEST, "history", "searches"}
    RequestReader(SCHEMA, store=store).read(request(MEMBERS[0], ITEMS[:3], names))
    assert store.counts.items.num_looked_up == before


@pytest.mark.parametrize("store_is_there", [True, False])
@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        ("candidates", "match", ["high", "low"]),
        ("candidates", "match", [True, False]),
        ("candidates", "match", [None, 1.0]),
        ("candidates", "match", [float("nan"), 1.0]),
        ("candidates", "match", [1e39, 1.0]),
        ("candidates", "match", [10**400, 1.0]),
        ("candidates", "match", [1.0]),
        ("candidates", "match", 1.0),
        ("candidates", "job", [1.0, 2.0]),
        ("candidates", "job", [True, 2]),
        ("candidates", "job", [-1, 2]),
        ("candidates", "job", [2**63, 2]),
        ("candidates", "job", [None, 2]),
        ("candidates", "wanted", [[1], 2]),
        ("candidates", "wanted", [[1], [2.5]]),
        ("candidates", "given", [[1, 2, 3], [1, 2]]),
        ("candidates", "salry", [1, 2]),
        ("context", "years", [3]),
        ("context", "yaers", 3),
        ("history", "histroy", {}),
        ("history", "history", {"item": [1]}),
    ],
)
def test_what_no_log_could_hold_is_refused(
    store: FeatureTable, store_is_there: bool, where: str, name: str, value: Any
) -> None:
    names = {*ON_CANDIDATES, *ON_REQUEST, "history", "searches"}
    asked = request(MEMBERS[0], ITEMS[:2], names)
    batch_from_request(asked, SCHEMA)
    asked[where] = {**asked[where], name: value}
    with pytest.raises(RequestError, match=name):
        RequestReader(SCHEMA, store=store if store_is_there else None).read(asked)


def test_stored_events_need_the_time_of_the_request(store: FeatureTable) -> None:
    asked = request(MEMBERS[0], ITEMS[:2], set())
    del asked["time_us"]
    with pytest.raises(RequestError, match="'time_us' is missing"):
        RequestReader(SCHEMA, store=store).read(asked)


def test_what_neither_has_is_said(store: FeatureTable, tmp_path: Path) -> None:
    asked = request(MEMBERS[0], ITEMS[:2], set())
    del asked["candidates"]["match"]
    with pytest.raises(RequestError, match=r"candidates\['match'\] is missing"):
        RequestReader(SCHEMA, store=store).read(asked)
    with pytest.raises(RequestError, match="is missing"):
        RequestReader(SCHEMA).read(asked)
