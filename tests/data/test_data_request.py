from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from log_example import BIG, SCHEMA, expected_of, plain_requests, requests_of

from rankwell.data.pseudonyms import PseudonymKey, pseudonymise
from rankwell.data.request import batch_from_request
from rankwell.data.string_ids import hash_strings
from rankwell.errors import RequestError
from rankwell.schema import Action, Categorical, Numeric, Schema

NOT_ASKED = ("labels", "observed", "weights", "position", "propensity", "audit.retrieval", "audit.examination")
SMALL = Schema(
    features=(Categorical(name="job"), Numeric(name="pay"), Numeric(name="years", on="request")),
    actions=(Action(name="click"), Action(name="apply")),
    item="job",
)


def asked(plain):
    """The request as a server would send it."""
    names = ("job", "salary", "skills", "title", "office", "bid_micros", "vendor_kind")
    events = plain["history"]
    return {
        **{name: plain[name] for name in ("request_id", "member_id", "time_us")},
        "context": {name: plain[name] for name in ("country", "years", "interests", "home", "gender")},
        "history": {"history": {name: [e[name] for e in events] for name in ("item", "dwell", "time_us")}},
        "candidates": {name: [candidate[name] for candidate in plain["candidates"]] for name in names},
    }


def small(**changes):
    request = {"request_id": 1, "context": {"years": 3}, "candidates": {"job": [4, 5], "pay": [1.5, 2.5]}}
    return request | changes


@pytest.mark.parametrize("plain", plain_requests(12, seed=7), ids=lambda plain: str(plain["request_id"] - BIG))
def test_a_request_becomes_what_the_log_would_hold_of_it(plain):
    (found,) = requests_of(batch_from_request(asked(plain), SCHEMA))
    expected = expected_of(plain)
    assert found.keys() == expected.keys() - {"audit.retrieval", "audit.examination"}
    for name in found.keys() - set(NOT_ASKED):
        assert repr(found[name]) == repr(expected[name]) or found[name] == expected[name], name


def test_nothing_is_known_of_what_will_happen():
    targets = batch_from_request(small(), SMALL).targets
    assert targets.labels_CA.shape == (2, 2)
    assert targets.labels_CA.isnan().all()
    assert not targets.observed_CA.any()
    assert targets.position_C.tolist() == [0, 0]


def test_no_candidates_make_a_batch_of_none():
    batch = batch_from_request(small(candidates={"job": [], "pay": []}), SMALL)
    assert (batch.features.num_requests, batch.features.num_candidates) == (1, 0)
    assert batch.features.candidates["job"].dtype == batch.audit.item_ids_C.dtype


def test_keys_may_be_left_out():
    audit = batch_from_request({"context": {"years": 3}, "candidates": {"job": [4], "pay": [1]}}, SMALL).audit
    assert (audit.request_ids_R.tolist(), audit.member_ids_R.tolist(), audit.times_us_R.tolist()) == ([0], [-1], [0])


def test_strings_are_hashed_as_in_a_log():
    batch = batch_from_request(small(request_id="r", candidates={"job": ["cook", "clerk"], "pay": [1, 2]}), SMALL)
    assert batch.features.candidates["job"].tolist() == hash_strings(pa.array(["cook", "clerk"])).to_pylist()
    assert batch.audit.request_ids_R.tolist() == hash_strings(pa.array(["r"])).to_pylist()


@pytest.mark.parametrize("wrong", [["5", "6"], [5, None], [5, -6], [5.0, 6.0], [True, False], [5, 2**63], [[5], [6]]])
def test_what_is_no_bid(wrong):
    """A string least of all: an id's hash would be money."""
    schema = SMALL.model_copy(update={"bid": "bid_micros"})
    candidates = {"job": [4, 5], "pay": [1.5, 2.5]}
    bids = batch_from_request(small(candidates=candidates | {"bid_micros": [5, 0]}), schema).audit.columns["bid_micros"]
    assert bids.tolist() == [5, 0]
    with pytest.raises(RequestError, match=r"candidates\['bid_micros'\] is no bid.*micros, 0 or more"):
        batch_from_request(small(candidates=candidates | {"bid_micros": wrong}), schema)


def test_the_member_may_be_a_feature():
    schema = SMALL.model_copy(
        update={"features": (*SMALL.features, Categorical(name="member", column="member_id", on="request"))}
    )
    assert batch_from_request(small(member_id=BIG), schema).features.context["member"].tolist() == [BIG]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context": {}}, r"context\['years'\] is missing; found: \[\]"),
        ({"candidates": {"job": [1]}}, r"candidates\['pay'\] is missing; found: \['job'\]"),
        (
            {"candidates": {"job": [1, 2], "pay": [1.0]}},
            r"'pay'\]: lists of unequal length; found: 1 entries, but 2",
        ),
        ({"candidates": {"job": [1, None], "pay": [1, 2]}}, r"'job'\] has a missing value.*\n.*missing='row'"),
        (
            {"candidates": {"job": [1, -2], "pay": [1, 2]}},
            r"'job'\] is no id; found: \[1, -2\]; allowed: integers",
        ),
        ({"candidates": {"job": [1.0, 2.0], "pay": [1, 2]}}, r"'job'\] is no id"),
        ({"candidates": {"job": [2**63, 1], "pay": [1, 2]}}, r"'job'\] is no id"),
        ({"candidates": {"job": [2**70, 1], "pay": [1, 2]}}, r"'job'\] is no id"),
        ({"candidates": {"job": ["a", 1], "pay": [1, 2]}}, r"'job'\] is no id"),
        ({"candidates": {"job": [[1], [2]], "pay": [1, 2]}}, r"'job'\] is no id"),
        ({"candidates": {"job": [[1], [2, 3]], "pay": [1, 2]}}, r"'job'\] is no id"),
        ({"candidates": {"job": "ab", "pay": [1, 2]}}, r"'job'\] is not a list; found: ab"),
        ({"candidates": {"job": 7, "pay": [1, 2]}}, r"'job'\] is not a list"),
        ({"candidates": {"job": [1, 2], "pay": [1, math.inf]}}, r"'pay'\] is infinite"),
        ({"candidates": {"job": [1, 2], "pay": [1, 1e39]}}, r"'pay'\] is infinite, or beyond float32"),
        ({"candidates": {"job": [1, 2], "pay": [1, None]}}, r"'pay'\] has a missing value.*\n.*missing='indicator'"),
        ({"candidates": {"job": [1, 2], "pay": ["1", "2"]}}, r"'pay'\] is no number"),
        ({"candidates": [1, 2]}, r"'candidates' in the request is not a mapping; found: list"),
        ({"request_id": -1}, r"'request_id' is no id"),
        ({"request_id": True}, r"'request_id' is no id"),
        ({"time_us": -1}, r"'time_us' lies before 1970; found: -1; allowed: UTC microseconds"),
        ({"time_us": "yesterday"}, r"'time_us' is no time; found: \['yesterday'\]; allowed: integers"),
        ({"time_us": 1.5}, r"'time_us' is no time"),
        ({"time_us": True}, r"'time_us' is no time"),
        ({"time_us": 2**63}, r"'time_us' is no time"),
        ({"candidates": {"job": [True, 2], "pay": [1, 2]}}, r"'job'\] is no id; found: \[True, 2\]"),
        ({"candidates": {"job": np.array([True, False]), "pay": [1, 2]}}, r"'job'\] is no id"),
        ({"candidates": {"job": [1, 2], "pay": [1.5, True]}}, r"'pay'\] is no number; found: \[1.5, True\]"),
        ({"candidates": {"job": [1, 2], "pay": [True, False]}}, r"'pay'\] is no number"),
        ({"context": {"years": False}}, r"context\['years'\] is no number"),
        (
            {"contxt": {"years": 3}},
            r"unknown key, 'contxt'; found: \['contxt'\]; allowed: .*'request_id', .*'candidates'",
        ),
    ],
)
def test_what_is_not_as_the_schema_says(changes, words):
    with pytest.raises(RequestError, match=words) as caught:
        batch_from_request(small(**changes), SMALL)
    assert caught.value.do


@pytest.mark.parametrize("request_", [[], [small()], None, 7, "ann"], ids=repr)
def test_a_request_is_a_mapping(request_):
    kind = type(request_).__name__
    with pytest.raises(RequestError, match=f"the request is not a mapping; found: {kind}; allowed: .*candidates"):
        batch_from_request(request_, SMALL)


MEMBER = SMALL.model_copy(
    update={"features": (*SMALL.features, Categorical(name="member", column="member_id", on="request"))}
)
KEY = PseudonymKey(bytes(range(50, 82)))


@pytest.mark.parametrize("raw", ["ann@example.org", b"ann@example.org", ["ann@example.org"], {"id": "ann@example.org"}])
@pytest.mark.parametrize("place", ["the request", "the context"])
def test_a_raw_member_id_never_enters(raw, place):
    plain = small(member_id=raw) if place == "the request" else small(context={"years": 3, "member": raw})
    with pytest.raises(RequestError) as caught:
        batch_from_request(plain, MEMBER)
    error = caught.value
    assert error.what.startswith("'member_id'" if place == "the request" else "context['member']")
    assert error.allowed
    assert error.do
    assert "ann" not in str(error)  # messages end up in logs
    if isinstance(raw, str):
        assert "is a string: a raw member id, not a pseudonym" in error.what
        assert "rankwell.data.pseudonyms.pseudonymise" in str(error.allowed)
        assert "pseudonymise it first, or give the key" in error.do


@pytest.mark.parametrize("raw", ["ann", 7, b"ann"])
def test_with_a_key_raw_members_become_the_pseudonyms_of_the_log(raw):
    expected = pseudonymise(pa.array([raw]), KEY).to_pylist()
    by_key = batch_from_request(small(member_id=raw), MEMBER, key=KEY)
    assert by_key.audit.member_ids_R.tolist() == by_key.features.context["member"].tolist() == expected
    given = batch_from_request(small(context={"years": 3, "member": raw}), MEMBER, key=KEY)
    assert given.features.context["member"].tolist() == expected
    assert given.audit.member_ids_R.tolist() == [-1]
    without = batch_from_request(small(member_id=expected[0]), MEMBER)
    assert without.features.context["member"].tolist() == expected


@pytest.mark.parametrize("wrong", [-3, 1.5, True, 2**63, 2**70, [1], {}])
def test_what_is_no_member_id(wrong):
    for key in (None, KEY):
        with pytest.raises(
            RequestError, match=r"(?s)'member_id' is no member id; found: a value of type .*leave it out"
        ):
            batch_from_request(small(member_id=wrong), SMALL, key=key)
    with pytest.raises(RequestError, match="is missing"):
        batch_from_request(small(), MEMBER)


def with_history(**fields):
    request = asked(plain_requests(1, seed=8)[0])
    now = request["time_us"]
    request["history"]["history"] = {
        "item": [1, 2],
        "dwell": [None, 1.0],
        "time_us": [now - 10**9, now - 10**8],
    } | fields
    return request


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"item": [1]}, r"history\['history'\]\['dwell'\]: lists of unequal length; found: 2 entries, but 1 in 'item'"),
        ({"time_us": [1]}, r"\['time_us'\]: lists of unequal length"),
        ({"time_us": [-1, 10**9]}, r"\['time_us'\] lies before 1970; found: -1"),
        ({"time_us": ["a", "b"]}, r"\['time_us'\] is no time"),
        ({"time_us": [10**9, 10**8]}, r"\['time_us'\] goes backwards"),
        (
            {"time_us": [10**9, 1_700_000_000 * 10**6 - 10**6]},
            r"that is too new; found: 1 s old; allowed: more than 2 s",
        ),
        (
            {"time_us": [10**9, 1_700_000_000 * 10**6 - 2 * 10**6]},
            r"that is too new; found: 2 s old; allowed: more than 2 s",
        ),
    ],
)
def test_histories_that_training_never_saw(fields, words):
    assert batch_from_request(with_history(), SCHEMA).features.history["history"].offsets.tolist() == [0, 2]
    with pytest.raises(RequestError, match=words):
        batch_from_request(with_history(**fields), SCHEMA)


def test_history_and_time_must_be_given():
    request = with_history()
    del request["history"]["history"]["dwell"]
    with pytest.raises(RequestError, match=r"\['dwell'\] is missing.*\n.*give an empty list"):
        batch_from_request(request, SCHEMA)
    request = with_history()
    del request["time_us"]
    with pytest.raises(RequestError, match="'time_us' is missing"):
        batch_from_request(request, SCHEMA)
