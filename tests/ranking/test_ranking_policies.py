"""Letters in names: K candidates of one request."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.errors import RequestError
from rankwell.ranking.policies import Policy, greedy
from rankwell.types import RankedList

# few distinct values, infinite ones among them, so that ties of every kind come up
UTILITIES = st.sampled_from([0.0, 0.25, 0.5, 1e-300, float("inf"), -1.0])
LOGITS = st.sampled_from([-1.0, 0.0, -0.0, 2.0, float("-inf")])
CANDIDATES = st.lists(
    st.tuples(st.integers(0, 2**63 - 1), UTILITIES, LOGITS), max_size=12, unique_by=lambda candidate: candidate[0]
)


def rank(candidates: list[tuple[int, float, float]], length: int = 100, policy: Policy = greedy) -> RankedList:
    utilities_K = torch.tensor([utility for _, utility, _ in candidates], dtype=torch.float64)
    return policy(
        torch.tensor([item_id for item_id, _, _ in candidates], dtype=torch.int64),
        utilities_K,
        logits_K=torch.tensor([logit for _, _, logit in candidates], dtype=torch.float64),
        probabilities_K=utilities_K.exp().neg().exp(),  # any function of the candidate will do
        length=length,
        seed=0,
    )


def reference(candidates: list[tuple[int, float, float]]) -> list[int]:
    def compare(a: tuple[int, float, float], b: tuple[int, float, float]) -> int:
        for mine, others in ((b[1], a[1]), (b[2], a[2]), (a[0], b[0])):
            if mine != others:
                return 1 if mine > others else -1
        return 0

    return [item_id for item_id, _, _ in sorted(candidates, key=functools.cmp_to_key(compare))]


@given(CANDIDATES)
@settings(deadline=None, derandomize=True, max_examples=100)
def test_the_order_is_utility_then_logit_then_item_id(candidates: list[tuple[int, float, float]]) -> None:
    assert rank(candidates).item_ids.tolist() == reference(candidates)


@given(CANDIDATES, st.randoms(use_true_random=False), st.integers(1, 15))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_the_order_of_the_candidates_means_nothing_and_a_short_list_is_the_head_of_the_long_one(
    candidates: list[tuple[int, float, float]], random: object, length: int
) -> None:
    shuffled = list(candidates)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    ranked, short = rank(candidates), rank(shuffled, length)
    assert short.item_ids.tolist() == ranked.item_ids.tolist()[:length]
    assert short.utilities.tolist() == ranked.utilities.tolist()[:length]
    assert short.probabilities.tolist() == ranked.probabilities.tolist()[:length]


def test_each_item_keeps_its_own_numbers() -> None:
    ranked = rank([(10, 0.1, 0.0), (11, 0.3, 0.0), (12, 0.2, 0.0)])
    assert ranked.item_ids.tolist() == [11, 12, 10]
    assert ranked.utilities.tolist() == [0.3, 0.2, 0.1]
    assert ranked.probabilities.tolist() == sorted(ranked.probabilities.tolist())  # exp(-exp(u)) falls with u
    assert ranked.propensities.tolist() == [1.0, 1.0, 1.0]
    assert ranked.propensities.dtype == torch.float64


def test_no_candidates_give_an_empty_list() -> None:
    assert len(rank([])) == 0


@pytest.mark.parametrize("length", [0, -3])
def test_a_length_below_one_is_refused(length: int) -> None:
    with pytest.raises(RequestError, match=rf"length; found: {length}; allowed: 1 or more"):
        rank([(1, 0.5, 0.0)], length)


@pytest.mark.parametrize("candidate", [(1, float("nan"), 0.0), (1, 0.0, float("nan"))])
def test_what_has_no_number_cannot_be_ranked(candidate: tuple[int, float, float]) -> None:
    with pytest.raises(RequestError, match="1 of 2 candidates have no number"):
        rank([(0, 0.5, 0.0), candidate])
