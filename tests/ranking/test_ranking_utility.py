"""Utilities: sums of expectations, over any number of actions, with a bid or without.

Letters: C candidates · A actions.
"""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rankwell.errors import RequestError, SchemaError
from rankwell.ranking.policies import greedy
from rankwell.ranking.utility import Utility
from rankwell.schema import Action, Categorical, Schema
from rankwell.simulation.settings import ACTIONS, MarketplaceSettings
from rankwell.simulation.simulate import simulate_tables
from rankwell.simulation.truth import truth_of

SCHEMA = Schema(
    features=(Categorical(name="job"),),
    actions=(Action(name="click"), Action(name="like"), Action(name="share")),
    item="job",
    bid="bid_micros",
)
P_CA = torch.tensor([[0.5, 0.25, 0.125], [0.75, 0.0, 0.0625], [0.5, 0.25, 0.125]], dtype=torch.float64)
VALUES = st.dictionaries(st.sampled_from(["click", "like", "share"]), st.floats(0.0, 1e6), min_size=1).filter(
    lambda values: any(value > 1e-6 for value in values.values())
)
PROBABILITIES = st.lists(
    st.tuples(*[st.sampled_from([1e-9, 1e-4, 0.02, 0.25, 0.3, 0.75, 0.999])] * 3), min_size=1, max_size=12
)


def order_of(utilities_C: torch.Tensor, probabilities_CA: torch.Tensor) -> list[int]:
    ids = torch.arange(len(utilities_C))
    p_C = probabilities_CA[:, 0]
    ranked = greedy(ids, utilities_C, logits_K=p_C.logit(), probabilities_K=p_C, length=99, seed=0)
    return ranked.item_ids.tolist()


def test_arithmetic() -> None:
    some = Utility(values={"share": 8.0, "click": 2.0})
    assert some.utilities_C(P_CA, schema=SCHEMA).tolist() == [2 * 0.5 + 8 / 8, 2 * 0.75 + 8 / 16, 2.0]
    assert some.utilities_C(P_CA.float(), schema=SCHEMA).dtype == torch.float64
    bid = Utility(values={"like": 100.0}, bid_on="click")
    bids_C = torch.tensor([1_000, 10**12, 0])
    assert bid.utilities_C(P_CA, bids_C, schema=SCHEMA).tolist() == [525.0, 0.75e12, 25.0]
    assert Utility(bid_on="share").utilities_C(P_CA, bids_C, schema=SCHEMA).tolist() == [125.0, 0.0625e12, 0.0]
    assert some.utilities_C(P_CA[:0], schema=SCHEMA).shape == (0,)
    assert some.utilities_C(P_CA, bids_C, schema=SCHEMA).tolist() == [2.0, 2.0, 2.0]  # there, but not asked for


@settings(max_examples=60, deadline=None, derandomize=True)
@given(VALUES, PROBABILITIES, st.integers(-30, 30), st.floats(1e-3, 1e3), st.none() | st.just("click"))
def test_another_currency_keeps_the_order(
    values: dict[str, float], probabilities: list[tuple[float, ...]], power: int, c: float, bid_on: str | None
) -> None:
    p_CA = torch.tensor(probabilities, dtype=torch.float64)
    bids_C = torch.arange(len(p_CA)) * 2**30
    before_C = Utility(values=values, bid_on=bid_on).utilities_C(p_CA, bids_C, schema=SCHEMA)

    def scaled(factor: float) -> torch.Tensor:
        bids = (bids_C.double() * factor).round().long()
        of_values = {action: value * factor for action, value in values.items()}
        return Utility(values=of_values, bid_on=bid_on).utilities_C(p_CA, bids, schema=SCHEMA)

    exactly_C = scaled(2.0**power)  # a power of two rounds nothing, so ties stay ties
    assert torch.equal(exactly_C, before_C * 2.0**power)
    assert order_of(exactly_C, p_CA) == order_of(before_C, p_CA)
    about_C = scaled(c) if bid_on is None else before_C * c
    torch.testing.assert_close(about_C, before_C * c, rtol=1e-12, atol=0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(PROBABILITIES, st.sampled_from(["click", "like", "share"]))
def test_the_value_of_one_action_orders_by_its_probability(probabilities: list[tuple[float, ...]], action: str) -> None:
    p_CA = torch.tensor(probabilities, dtype=torch.float64)
    utilities_C = Utility(values={action: 1.0}).utilities_C(p_CA, schema=SCHEMA)
    assert torch.equal(utilities_C, p_CA[:, SCHEMA.action_index(action)])


def test_expectations_add_up_though_shares_follow_clicks() -> None:
    """By the truth of a simulated log, where members share only what they clicked: Σ v·p is what showing was worth.

    Multiplying p(share | shown) with p(click | shown) would count the click twice.
    """
    log, secret = simulate_tables(MarketplaceSettings(num_members=300, num_jobs=150), 5, 4_000)
    truth = truth_of(secret)
    p_CA = torch.from_numpy(np.stack([truth.probabilities[action] for action in ACTIONS], axis=1))
    labels_CA = np.stack([_flat(log, action) for action in ACTIONS], axis=1)
    known_C = _flat(log, "position") > 0
    clicked_C, shared_C = (labels_CA[:, ACTIONS.index(action)] == 1 for action in ("click", "share"))
    assert not (shared_C & ~clicked_C)[known_C].any()
    assert shared_C[known_C].sum() > 50
    schema = SCHEMA.model_copy(update={"actions": tuple(Action(name=action) for action in ACTIONS)})
    utility = Utility(values={"share": 1.0})
    expected_C = utility.utilities_C(p_CA, schema=schema).numpy()[known_C]
    happened_C = labels_CA[:, ACTIONS.index("share")][known_C]
    sd = math.sqrt(float((expected_C * (1 - expected_C)).sum()))
    assert abs(expected_C.sum() - happened_C.sum()) < 4 * sd
    twice_C = expected_C * p_CA[:, 0].numpy()[known_C]
    assert abs(twice_C.sum() - happened_C.sum()) > 4 * sd


def _flat(log: object, column: str) -> np.ndarray:
    return log[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)  # type: ignore[index]


def test_it_travels_as_json_and_is_frozen() -> None:
    utility = Utility(values={"share": 50_000, "like": 0.5}, bid_on="click")
    assert json.loads(utility.to_json()) == {"values": {"share": 50_000.0, "like": 0.5}, "bid_on": "click"}
    assert Utility.from_json(utility.to_json()) == utility
    assert Utility.from_json('{"bid_on": "click"}') == Utility(bid_on="click")
    with pytest.raises(ValidationError):
        utility.bid_on = None  # type: ignore[misc]
    assert copy.deepcopy(utility) == utility
    with pytest.raises(SchemaError):
        Utility.from_json("shares count double")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"values": {"click": -1.0}}, r"Utility.values.click.*found: -1.0.*greater than or equal to 0"),
        ({"values": {"click": math.nan}}, r"Utility.values.click.*finite"),
        ({"values": {"click": math.inf}}, r"Utility.values.click.*finite"),
        ({"values": {"click": "much"}}, r"Utility.values.click"),
        ({}, "nothing is worth anything"),
        ({"values": {"click": 0.0}}, r"nothing is worth anything.*found: .'click': 0.0"),
        ({"weights": {"click": 1.0}}, "weights"),
    ],
)
def test_declarations_that_make_no_sense(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        Utility(**wrong)  # type: ignore[arg-type]


def test_it_fits_its_schema() -> None:
    for utility in (Utility(values={"buy": 1.0}), Utility(bid_on="buy")):
        with pytest.raises(SchemaError, match=r"no action 'buy' in the schema; found: \['click', 'like', 'share'\]"):
            utility.check(SCHEMA)
    unpaid = SCHEMA.model_copy(update={"bid": None})
    Utility(values={"click": 1.0}).check(unpaid)
    with pytest.raises(SchemaError, match="names no column of bids"):
        Utility(bid_on="click").check(unpaid)
    with pytest.raises(SchemaError, match="names no column of bids"):
        Utility(bid_on="click").utilities_C(P_CA, torch.ones(3), schema=unpaid)


def test_bids_that_are_not_there() -> None:
    for bids_C, words in ((None, "without a bid have no utility"), (torch.tensor([1, -2, 3]), "negative; found: -2")):
        with pytest.raises(RequestError, match=words) as caught:
            Utility(bid_on="click").utilities_C(P_CA, bids_C, schema=SCHEMA)
        assert "candidates['bid_micros']" in str(caught.value)
