"""Places of targets, against arithmetic that one can see and against plain loops.

Letters: R requests · I items · N negatives of a request.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from rankwell.errors import MetricError, UndefinedMetricWarning
from rankwell.evaluation.next_item import TargetPlaces, draw_negatives, places_among_all, places_among_sampled
from rankwell.types import Ragged


def ragged(*lists: list[int]) -> Ragged:
    ends = torch.tensor([0, *(len(one) for one in lists)]).cumsum(0)
    return Ragged(torch.tensor([value for one in lists for value in one], dtype=torch.int64), ends)


def test_three_targets_by_hand() -> None:
    places = TargetPlaces(np.array([0, 2, 10]), np.array([0, 0, 0]))  # 1st, 3rd and 11th
    assert places.hit_rate(10) == pytest.approx(2 / 3)
    assert places.ndcg(10) == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert places.hit_rate(1) == places.ndcg(1) == pytest.approx(1 / 3)


def test_two_that_share_the_tenth_place_are_half_a_hit() -> None:
    places = TargetPlaces(np.array([9]), np.array([1]))
    assert places.hit_rate(10) == pytest.approx(0.5)
    assert places.ndcg(10) == pytest.approx(0.5 / math.log2(11))


def test_a_model_that_scores_all_alike_has_the_figures_of_chance() -> None:
    places = places_among_sampled(torch.zeros(3, 100), torch.zeros(3))
    assert places.hit_rate(10) == pytest.approx(10 / 101)
    assert places.ndcg(10) == pytest.approx(sum(1 / math.log2(place + 1) for place in range(1, 11)) / 101)


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_ties_are_the_mean_over_their_orders(k: int) -> None:
    scores = [2.0, 1.0, 1.0, 1.0, 0.0]  # the target is the first of three that are level
    hits, gains = [], []
    for order in itertools.permutations(range(5)):
        ranked = sorted(order, key=lambda item: -scores[item])  # stable, so equal scores stand as `order` has them
        place = ranked.index(1) + 1
        hits.append(place <= k)
        gains.append(1 / math.log2(place + 1) if place <= k else 0.0)
    places = places_among_all(torch.tensor([scores]), torch.tensor([1]), ragged([]))
    assert places.hit_rate(k) == pytest.approx(np.mean(hits))
    assert places.ndcg(k) == pytest.approx(np.mean(gains))


def test_known_items_are_not_held_against_the_target_and_the_target_stays() -> None:
    scores_RI = torch.tensor([[5.0, 4.0, 3.0, 3.0], [5.0, 4.0, 3.0, 3.0]])
    places = places_among_all(scores_RI, torch.tensor([2, 2]), ragged([0, 0], [1, 2, 3]))
    assert places.above_R.tolist() == [1, 1]
    assert places.level_R.tolist() == [1, 0]


def test_all_items_against_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    scores_RI = torch.randint(0, 6, (20, 15), generator=generator).float()  # many ties
    targets_R = torch.randint(0, 15, (20,), generator=generator)
    known = [torch.randint(0, 15, (int(n),), generator=generator).tolist() for n in torch.arange(20) % 7]
    places = places_among_all(scores_RI, targets_R, ragged(*known))
    for r, target in enumerate(targets_R.tolist()):
        others = [i for i in range(15) if i != target and i not in known[r]]
        mine = scores_RI[r, target]
        assert places.above_R[r] == sum(bool(scores_RI[r, i] > mine) for i in others)
        assert places.level_R[r] == sum(bool(scores_RI[r, i] == mine) for i in others)


def test_batches_concatenate() -> None:
    one, two = TargetPlaces(np.array([0]), np.array([0])), TargetPlaces(np.array([20, 1]), np.array([3, 0]))
    both = TargetPlaces.concatenated([one, two])
    assert len(both) == 3
    assert both.hit_rate(10) == pytest.approx((1 * one.hit_rate(10) + 2 * two.hit_rate(10)) / 3)
    assert len(TargetPlaces.concatenated([])) == 0


def test_no_targets_are_undefined() -> None:
    nothing = TargetPlaces.concatenated([])
    with pytest.warns(UndefinedMetricWarning):
        assert math.isnan(nothing.hit_rate(10))
    with pytest.warns(UndefinedMetricWarning):
        assert math.isnan(nothing.ndcg(10))


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(MetricError, match="cannot be ranked"):
        places_among_all(torch.tensor([[math.nan, 1.0]]), torch.tensor([1]), ragged([]))
    with pytest.raises(MetricError, match="cannot be ranked"):
        places_among_sampled(torch.tensor([[math.inf]]), torch.tensor([1.0]))
    with pytest.raises(MetricError, match="target"):
        places_among_all(torch.zeros(1, 3), torch.tensor([3]), ragged([]))
    with pytest.raises(MetricError, match="known"):
        places_among_all(torch.zeros(1, 3), torch.tensor([2]), ragged([-1]))
    with pytest.raises(MetricError, match="`k`"):
        TargetPlaces(np.array([0]), np.array([0])).hit_rate(0)


def test_negatives_are_uniform_over_what_a_request_does_not_know() -> None:
    known = ragged([1, 2, 2, 9], [], [3])
    drawn_RN = draw_negatives(known, 10, 6000, seed=3, first_item=1)
    for row, one in zip(drawn_RN, ([1, 2, 9], [], [3]), strict=True):
        counts = torch.bincount(row, minlength=10)
        free = [i for i in range(1, 10) if i not in one]
        assert counts.sum() == counts[free].sum() == 6000
        expected = 6000 / len(free)
        assert (counts[free] - expected).abs().max() < 5 * math.sqrt(expected)  # 5 standard deviations


def test_negatives_are_the_seeds() -> None:
    known = ragged([0], [1])
    assert torch.equal(draw_negatives(known, 50, 20, seed=1), draw_negatives(known, 50, 20, seed=1))
    assert not torch.equal(draw_negatives(known, 50, 20, seed=1), draw_negatives(known, 50, 20, seed=2))
    assert draw_negatives(ragged(), 5, 3, seed=0).shape == (0, 3)


def test_a_request_that_knows_all_items_has_no_negatives() -> None:
    with pytest.raises(MetricError, match="knows all items"):
        draw_negatives(ragged([0, 1, 2, 2]), 3, 1, seed=0)
