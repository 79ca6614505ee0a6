"""Letters in names: K candidates of one request · C candidates, flat · A actions."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import serving_example as example
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from filled_table import fill
from rankwell.calibration.isotonic import Isotonic
from rankwell.calibration.segment_levels import halves_of
from rankwell.calibration.segment_tree import SegmentTree
from rankwell.calibration.uncalibrated import Uncalibrated
from rankwell.data.pseudonyms import PseudonymKey, pseudonymise
from rankwell.data.request import batch_from_request
from rankwell.errors import BundleError, RequestError, SchemaError
from rankwell.losses.label_smoothing import undo_label_smoothing
from rankwell.models.wide_deep import Logistic
from rankwell.ranking.policies import greedy
from rankwell.ranking.utility import Utility
from rankwell.serving.bundle import Bundle, write_bundle
from rankwell.serving.ranker import Ranker
from rankwell.serving.scorer import EagerScorer
from rankwell.types import Impression, RankedList

Candidate = tuple[int, int | None, list[int], float | None]

CANDIDATE = st.tuples(
    st.integers(0, 400) | st.integers(0, 2**63 - 1),
    st.none() | st.integers(0, 25),
    st.lists(st.integers(0, 60), max_size=3),
    st.none() | st.floats(0, 100, width=32),
)
CANDIDATES = st.lists(CANDIDATE, min_size=1, max_size=40, unique_by=lambda candidate: candidate[0])
FEW = settings(deadline=None, derandomize=True, max_examples=40)

BUNDLE = example.example_bundle(label_smoothing=0.1)
RANKER = Ranker(BUNDLE)
UNCALIBRATED = {"click": Uncalibrated(), "apply": Uncalibrated()}


def request(candidates: Sequence[Candidate], **changes: Any) -> dict[str, Any]:
    """A request as a caller has it: plain Python data."""
    columns = list(zip(*candidates, strict=True)) or [()] * 4
    names = ("job", "title", "skills", "pay")
    plain = {
        "request_id": 77,
        "member_id": 5,
        "time_us": 1_790_000_000_000_000,
        "context": {"years": 4.5},
        "history": {"history": {"item": [3, 9], "time_us": [1_780_000_000_000_000, 1_785_000_000_000_000]}},
        "candidates": {name: list(column) for name, column in zip(names, columns, strict=True)},
    }
    return plain | changes


def plain_candidates(num: int) -> list[Candidate]:
    return [(item, item % 20, [item % 50], float(item % 90)) for item in range(num)]


# --- calibrated by segment


def test_a_request_is_calibrated_by_its_segments(tmp_path: Path) -> None:
    by_title = SegmentTree(
        parents=torch.zeros(3),
        values=torch.from_numpy(halves_of(np.array([0, 4, 9]))),
        slopes=torch.tensor([1.0, 2.0, 0.5]),
        offsets=torch.tensor([0.0, -1.0, 1.0]),
        one_class=torch.zeros(3),
    )
    calibrators = {"click": by_title, "apply": Uncalibrated()}
    write_bundle(replace(BUNDLE, calibrators=calibrators, calibrate_by=("title",)), tmp_path / "bundle")
    ranker = Ranker(tmp_path / "bundle")
    assert ranker.scorer.calibrate_by == ("title",)
    asked = request([(60 - item, title, [1], 5.0) for item, title in enumerate([9, 4, 7, 4, 9])])
    scores = ranker.scorer.score(batch_from_request(asked, BUNDLE.schema))
    logits_CA, probabilities_CA = scores.logits_CA, scores.probabilities_CA
    slopes_C, offsets_C = torch.tensor([0.5, 2, 1, 2, 0.5]), torch.tensor([1.0, -1, 0, -1, 1])
    raw_CA = undo_label_smoothing(logits_CA.double(), BUNDLE.label_smoothing)
    expected_C = torch.sigmoid(slopes_C * raw_CA[:, 0] + offsets_C)
    torch.testing.assert_close(probabilities_CA[:, 0], expected_C, rtol=1e-6, atol=0.0)
    ranked = ranker.rank(asked).ranked
    of_item = dict(zip([60, 59, 58, 57, 56], expected_C.tolist(), strict=True))
    assert ranked.probabilities.tolist() == pytest.approx(
        [of_item[item] for item in ranked.item_ids.tolist()], rel=1e-6
    )


def test_a_bundle_that_calibrates_by_what_is_no_feature_is_refused() -> None:
    with pytest.raises(BundleError, match=r"calibrates by .*; found: \['skills', 'town'\]; allowed: .*'title'"):
        replace(BUNDLE, calibrate_by=("town", "skills"))


# --- the list


@given(CANDIDATES)
@FEW
def test_a_list_is_a_permutation_of_the_candidates_best_first(candidates: list[Candidate]) -> None:
    ranked = RANKER.rank(request(candidates)).ranked
    assert sorted(ranked.item_ids.tolist()) == sorted(candidate[0] for candidate in candidates)
    assert ranked.probabilities.tolist() == sorted(ranked.probabilities.tolist(), reverse=True)
    assert ranked.probabilities.dtype == torch.float64
    assert bool(((ranked.probabilities > 0) & (ranked.probabilities < 1)).all())
    assert torch.equal(ranked.utilities, ranked.probabilities)
    assert ranked.propensities.tolist() == [1.0] * len(candidates)


@given(CANDIDATES, st.randoms(use_true_random=False))
@FEW
def test_the_order_of_the_candidates_changes_no_bit(candidates: list[Candidate], random: Any) -> None:
    ranked = RANKER.rank(request(candidates)).ranked
    random.shuffle(candidates)
    again = RANKER.rank(request(candidates)).ranked
    assert torch.equal(again.item_ids, ranked.item_ids)
    assert torch.equal(again.probabilities, ranked.probabilities)


@given(CANDIDATES)
@FEW
def test_each_item_has_the_probability_of_its_own_features(candidates: list[Candidate]) -> None:
    ranked = RANKER.rank(request(candidates)).ranked
    of_item = dict(zip(ranked.item_ids.tolist(), ranked.probabilities.tolist(), strict=True))
    for candidate in candidates[:3]:
        alone = RANKER.rank(request([candidate])).ranked
        assert of_item[candidate[0]] == pytest.approx(float(alone.probabilities), rel=1e-5)


def test_the_lists_are_not_all_alike() -> None:
    ranked = RANKER.rank(request(plain_candidates(40))).ranked
    assert float(ranked.probabilities[0]) > 1.5 * float(ranked.probabilities[-1])
    assert ranked.item_ids.tolist() != sorted(ranked.item_ids.tolist())


def test_equal_probabilities_are_told_apart_by_logit_then_by_item_id() -> None:
    flat = Isotonic(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))  # every p is one half
    model = example.trained(Logistic(example.SCHEMA, example.STATISTICS, seed=1))
    ranker = Ranker(Bundle(model=model, calibrators={"click": flat, "apply": flat}, created_us=0))
    unknown = [10**9 + item for item in (5, 2, 9)]  # they read one default row, and all else is equal too
    candidates = [*plain_candidates(30), *((item, 1, [1], 1.0) for item in unknown)]
    ranked = ranker.rank(request(candidates)).ranked
    assert ranked.probabilities.unique().tolist() == [0.5]

    logits_CA = ranker.rank(request(candidates)).scores.logits_CA
    of_item = {candidate[0]: logit for candidate, logit in zip(candidates, logits_CA[:, 0].tolist(), strict=True)}
    assert len({of_item[item] for item in unknown}) == 1
    assert len(set(of_item.values())) > 25
    expected = sorted(of_item, key=lambda item: (-of_item[item], item))
    assert ranked.item_ids.tolist() == expected


def test_what_label_smoothing_cannot_explain_is_still_ranked_by_the_logit() -> None:
    model = Logistic(example.SCHEMA, example.STATISTICS, seed=1)
    with torch.no_grad():
        model.bias.fill_(5.0)  # beyond ln(1.9 / 0.1) = 2.94: every p is the largest there is
        fill(model.tables["wide"], seed=0, scale=0.1)
    ranker = Ranker(Bundle(model=model, calibrators=UNCALIBRATED, created_us=0, label_smoothing=0.1))
    plain = request(plain_candidates(30))
    ranked = ranker.rank(plain).ranked
    assert len(ranked.probabilities.unique()) == 1
    raw_C = model(batch_from_request(plain, example.SCHEMA).features)[:, 0]
    assert raw_C[ranked.item_ids].tolist() == sorted(raw_C.tolist(), reverse=True)


def test_a_short_list_is_the_head_of_the_long_one() -> None:
    plain = request(plain_candidates(40))
    whole, short = RANKER.rank(plain), RANKER.rank(plain, length=7)
    assert short.ranked.item_ids.tolist() == whole.ranked.item_ids.tolist()[:7]
    assert short.impressions == whole.impressions[:7]
    assert len(RANKER.rank(plain, length=1_000).ranked) == 40


def test_impressions_say_what_the_log_keeps() -> None:
    ranking = RANKER.rank(request(plain_candidates(3), request_id=2**62 + 1, member_id=2**61 + 1), length=2)
    first, second = ranking.ranked.item_ids.tolist()
    p, q = ranking.ranked.probabilities.tolist()
    assert ranking.impressions == (
        Impression(2**62 + 1, 2**61 + 1, 1_790_000_000_000_000, first, 1, p, 1.0),
        Impression(2**62 + 1, 2**61 + 1, 1_790_000_000_000_000, second, 2, q, 1.0),
    )


def test_raw_members_are_pseudonymised_before_anything_sees_them() -> None:
    key = PseudonymKey(bytes(range(50, 82)))
    (pseudonym,) = pseudonymise(pa.array(["ann@example.org"]), key).to_pylist()
    plain = request(plain_candidates(5), member_id="ann@example.org")
    expected = RANKER.rank(request(plain_candidates(5), member_id=pseudonym))
    assert Ranker(BUNDLE, key=key).rank(plain).impressions == expected.impressions
    assert {impression.member_id for impression in expected.impressions} == {pseudonym}
    with pytest.raises(RequestError, match=r"(?s)'member_id' is a string: a raw member id.*give the key") as caught:
        RANKER.rank(plain)
    assert "ann" not in str(caught.value)


def test_unknown_members_and_items_read_the_default_row() -> None:
    unknown = [(2**62 + item, 3, [7], 12.0) for item in range(4)]
    known = (3, 3, [7], 12.0)
    answers = [RANKER.rank(request([*unknown, known], member_id=member)) for member in (2**62 + 1, 2**50 + 3)]
    for answer in answers:
        of_item = dict(zip(answer.ranked.item_ids.tolist(), answer.ranked.probabilities.tolist(), strict=True))
        known_p = of_item.pop(3)
        assert max(of_item.values()) == pytest.approx(min(of_item.values()), rel=1e-6)
        assert abs(known_p - min(of_item.values())) > 1e-3
    assert torch.equal(answers[0].ranked.probabilities, answers[1].ranked.probabilities)
    member = int(example.batch(num_requests=9, seed=0).features.context["member"][0])  # one that training saw
    trained_member = RANKER.rank(request([known], member_id=member)).ranked.probabilities
    unknown_member = RANKER.rank(request([known], member_id=2**62 + 1)).ranked.probabilities
    assert float((trained_member - unknown_member).abs()) > 1e-3


# --- the probabilities


def test_label_smoothing_is_undone_before_the_calibrator() -> None:
    bundle = replace(BUNDLE, calibrators=UNCALIBRATED, label_smoothing=0.1)
    model = example.trained(Logistic(example.SCHEMA, example.STATISTICS, seed=1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.1)  # no logit beyond what smoothing allows
        for table in model.tables.values():
            for name in table.names:
                for rows in list(table.chunks(name)):
                    table.insert(name, replace(rows, rows_nW=rows.rows_nW * 0.1))
    batch = example.batch(num_requests=20, seed=3)
    raw_CA = model.eval()(batch.features).detach().double()
    q_CA = torch.sigmoid(raw_CA)
    assert float(q_CA.min()) > 0.05
    assert float(q_CA.max()) < 0.95
    scores = EagerScorer(replace(bundle, model=model)).score(batch)
    torch.testing.assert_close(scores.probabilities_CA, (q_CA - 0.05) / 0.9, rtol=1e-12, atol=0)
    assert torch.equal(scores.logits_CA.double(), raw_CA)  # the model's own


def test_whole_batches_get_the_probabilities_of_every_action() -> None:
    ranker = Ranker(replace(BUNDLE, label_smoothing=0.0))
    batch = example.batch(num_requests=20, seed=3)
    raw_CA = BUNDLE.model(batch.features).detach().double()
    scores = ranker.scorer.score(batch)
    logits_CA, probabilities_CA = scores.logits_CA, scores.probabilities_CA
    assert torch.equal(logits_CA.double(), raw_CA)
    expected_CA = torch.stack([torch.sigmoid(0.7 * raw_CA[:, 0] - 1 / 3), torch.sigmoid(raw_CA[:, 1] / 1.9)], dim=1)
    torch.testing.assert_close(probabilities_CA, expected_CA, rtol=1e-12, atol=0)
    for ours in (logits_CA, probabilities_CA, ranker.rank(request(plain_candidates(3))).ranked.probabilities):
        assert not ours.requires_grad
        assert not ours.is_inference()  # a caller may fit on it, and change it


def test_each_action_has_its_own_list() -> None:
    plain = request(plain_candidates(40))
    probabilities_CA = RANKER.rank(plain).scores.probabilities_CA
    for a, action in enumerate(("click", "apply")):
        ranker = Ranker(BUNDLE, action=action)
        assert ranker.action == action
        ranked = ranker.rank(plain).ranked
        torch.testing.assert_close(
            ranked.probabilities, probabilities_CA[:, a][ranked.item_ids], rtol=1e-5, atol=0
        )  # item i is candidate i here
    assert RANKER.action == "click"
    with pytest.raises(SchemaError, match=r"no action 'buy' in the schema; found: \['click', 'apply'\]"):
        Ranker(BUNDLE, action="buy")


# --- the utility


def test_the_probability_of_the_action_is_its_own_utility() -> None:
    plain = request(plain_candidates(40))
    for action in ("click", "apply"):
        by_default = Ranker(BUNDLE, action=action).rank(plain)
        declared = Ranker(BUNDLE, action=action, utility=Utility(values={action: 1.0})).rank(plain)
        assert torch.equal(declared.ranked.item_ids, by_default.ranked.item_ids)
        assert torch.equal(declared.ranked.utilities, by_default.ranked.utilities)
        assert declared.impressions == by_default.impressions


@given(CANDIDATES, st.randoms(use_true_random=False))
@FEW
def test_a_list_is_sorted_by_its_utility_and_carries_the_probability(candidates: list[Candidate], random: Any) -> None:
    ranker = Ranker(BUNDLE, utility=Utility(values={"click": 1.0, "apply": 20.0}))
    ranked = ranker.rank(request(candidates)).ranked
    assert ranked.utilities.tolist() == sorted(ranked.utilities.tolist(), reverse=True)
    probabilities_CA = ranker.rank(request(candidates)).scores.probabilities_CA
    row = {candidate[0]: c for c, candidate in enumerate(candidates)}
    p_KA = probabilities_CA[[row[item] for item in ranked.item_ids.tolist()]]
    torch.testing.assert_close(ranked.probabilities, p_KA[:, 0], rtol=1e-5, atol=0)
    torch.testing.assert_close(ranked.utilities, p_KA[:, 0] + 20 * p_KA[:, 1], rtol=1e-5, atol=0)
    random.shuffle(candidates)
    again = ranker.rank(request(candidates)).ranked
    assert torch.equal(again.item_ids, ranked.item_ids)
    assert torch.equal(again.utilities, ranked.utilities)


def test_bids_go_with_their_candidates() -> None:
    schema = example.SCHEMA.model_copy(update={"bid": "bid_micros"})
    model = example.trained(Logistic(schema, example.STATISTICS, seed=1))
    bundle = replace(BUNDLE, model=model)
    candidates = plain_candidates(30)[::-1]
    plain = request(candidates)
    bids = {item: (item * 7919) % 1000 * 1000 for item, *_ in candidates}
    plain["candidates"]["bid_micros"] = [bids[item] for item, *_ in candidates]
    by_bid = Ranker(bundle, action="apply", utility=Utility(values={"apply": 100_000}, bid_on="click"))
    ranked = by_bid.rank(plain).ranked
    of_click, of_apply = (
        dict(zip(one.item_ids.tolist(), one.probabilities.tolist(), strict=True))
        for one in (Ranker(bundle, action=action).rank(plain).ranked for action in ("click", "apply"))
    )
    worth = {item: bids[item] * of_click[item] + 100_000 * of_apply[item] for item in bids}
    assert ranked.item_ids.tolist() == sorted(worth, key=lambda item: -worth[item])
    assert ranked.utilities.tolist() == pytest.approx(sorted(worth.values(), reverse=True), rel=1e-12)
    assert ranked.probabilities.tolist() == [of_apply[item] for item in ranked.item_ids.tolist()]
    del plain["candidates"]["bid_micros"]
    with pytest.raises(RequestError, match="without a bid have no utility"):
        by_bid.rank(plain)


def test_equal_utilities_are_told_apart_by_the_logit_of_the_action() -> None:
    flat = Isotonic(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))  # every p is one half
    model = example.trained(Logistic(example.SCHEMA, example.STATISTICS, seed=1))
    bundle = Bundle(model=model, calibrators={"click": flat, "apply": flat}, created_us=0)
    plain = request(plain_candidates(30))
    for action in ("click", "apply"):
        ranked = Ranker(bundle, action=action, utility=Utility(values={"click": 2.0, "apply": 1.0})).rank(plain).ranked
        assert ranked.utilities.unique().tolist() == [1.5]
        assert torch.equal(ranked.item_ids, Ranker(bundle, action=action).rank(plain).ranked.item_ids)


def test_a_utility_that_does_not_fit_is_refused_before_any_request() -> None:
    with pytest.raises(SchemaError, match="no action 'buy'"):
        Ranker(BUNDLE, utility=Utility(values={"buy": 1.0}))
    with pytest.raises(SchemaError, match="names no column of bids"):
        Ranker(BUNDLE, utility=Utility(bid_on="click"))


# --- the ranker


def test_a_written_bundle_ranks_as_the_one_in_memory(tmp_path: Path) -> None:
    write_bundle(BUNDLE, tmp_path / "b")
    plain = request(plain_candidates(40))
    expected = RANKER.rank(plain)
    for path in (tmp_path / "b", str(tmp_path / "b")):
        answer = Ranker(path).rank(plain)
        assert torch.equal(answer.ranked.probabilities, expected.ranked.probabilities)
        assert answer.impressions == expected.impressions
    with pytest.raises(BundleError, match="no bundle"):
        Ranker(tmp_path / "nowhere")


def test_a_model_in_training_mode_is_put_into_eval_mode() -> None:
    BUNDLE.model.train()
    seen = {name: table.num_seen for name, table in BUNDLE.model.tables.items()}
    ranker = Ranker(BUNDLE)
    plain = request([(2**60 + item, 1, [], None) for item in range(50)])
    assert torch.equal(ranker.rank(plain).ranked.probabilities, ranker.rank(plain).ranked.probabilities)  # no dropout
    assert {name: table.num_seen for name, table in BUNDLE.model.tables.items()} == seen


def test_threads_get_the_answers_of_one_thread() -> None:
    requests = [request(plain_candidates(20 + i), request_id=i, member_id=i) for i in range(60)]
    expected = [RANKER.rank(plain).impressions for plain in requests]
    with ThreadPoolExecutor(8) as pool:
        assert [answer.impressions for answer in pool.map(RANKER.rank, requests)] == expected


def test_the_policy_makes_the_list_and_has_a_seed_for_each_request() -> None:
    seeds = []

    def backwards(item_ids_K: Tensor, utilities_K: Tensor, **rest: Any) -> RankedList:
        seeds.append(rest["seed"])
        return greedy(item_ids_K, -utilities_K, **(rest | {"logits_K": -rest["logits_K"]}))

    plain = request(plain_candidates(9))
    answer = Ranker(BUNDLE, policy=backwards, seed=1).rank(plain)
    assert answer.ranked.item_ids.tolist() == RANKER.rank(plain).ranked.item_ids.tolist()[::-1]
    Ranker(BUNDLE, policy=backwards, seed=1).rank(plain)
    Ranker(BUNDLE, policy=backwards, seed=1).rank(request(plain_candidates(9), request_id=78))
    Ranker(BUNDLE, policy=backwards, seed=2).rank(plain)
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**63 for seed in seeds)


# --- what cannot be ranked


@pytest.mark.parametrize("max_candidates", [0, -1])
def test_a_ranker_that_takes_no_request_is_refused(max_candidates: int) -> None:
    with pytest.raises(RequestError, match=f"found: {max_candidates}; allowed: 1 or more"):
        Ranker(BUNDLE, max_candidates=max_candidates)


@pytest.mark.parametrize(("num", "do"), [(0, "retrieve candidates before ranking"), (5_000, "max_candidates")])
def test_no_candidates_and_too_many_are_refused(num: int, do: str) -> None:
    with pytest.raises(RequestError, match=f"number of candidates; found: {num}; allowed: 1 … 2,000;") as refused:
        RANKER.rank(request(plain_candidates(num)))
    assert refused.value.do is not None
    assert do in refused.value.do


def test_the_bounds_themselves_are_ranked() -> None:
    ranker = Ranker(BUNDLE, max_candidates=3)
    assert len(ranker.rank(request(plain_candidates(1))).ranked) == 1
    assert len(ranker.rank(request(plain_candidates(3))).ranked) == 3
    with pytest.raises(RequestError, match="found: 4; allowed: 1 … 3;"):
        ranker.rank(request(plain_candidates(4)))


def test_an_item_that_stands_twice_is_refused() -> None:
    candidates = [*plain_candidates(5), (3, 1, [], 1.0), (1, 1, [], 1.0), (3, 2, [], 1.0)]
    with pytest.raises(RequestError, match=r"twice among the candidates; found: \[1, 3\]; allowed: each item once"):
        RANKER.rank(request(candidates))


def test_a_length_below_one_is_refused() -> None:
    with pytest.raises(RequestError, match="length; found: 0"):
        RANKER.rank(request(plain_candidates(3)), length=0)


def test_weights_that_are_no_numbers_are_noticed() -> None:
    model = Logistic(example.SCHEMA, example.STATISTICS, seed=1)
    with torch.no_grad():
        model.bias.fill_(float("nan"))
    ranker = Ranker(replace(BUNDLE, model=model))
    with pytest.raises(RequestError, match="3 of 3 candidates have no number"):
        ranker.rank(request(plain_candidates(3)))


def test_a_schema_without_an_item_cannot_name_what_it_ranks() -> None:
    schema = example.SCHEMA.model_copy(update={"item": None})
    ranker = Ranker(replace(BUNDLE, model=Logistic(schema, example.STATISTICS, seed=1)))
    with pytest.raises(SchemaError, match="names no item"):
        ranker.rank(request(plain_candidates(3)))
    assert ranker.scorer.score(example.batch(num_requests=2, seed=0)).logits_CA.shape[1] == 2


def test_events_beyond_the_limit_are_counted_in_the_answer() -> None:
    limit = next(s.max_length for s in example.SCHEMA.sequences if s.name == "history")
    start_us, num = 1_780_000_000_000_000, limit + 3
    events = {"item": list(range(num)), "time_us": [start_us + i for i in range(num)]}
    ranking = RANKER.rank(request(plain_candidates(3), history={"history": events}))
    assert ranking.num_cut_events == {"history": 3}
    newest = {name: values[3:] for name, values in events.items()}
    again = RANKER.rank(request(plain_candidates(3), history={"history": newest}))
    assert again.num_cut_events == {"history": 0}
    assert torch.equal(again.ranked.probabilities, ranking.ranked.probabilities)
