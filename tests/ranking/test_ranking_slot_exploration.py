"""Letters in names: K candidates of one request."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
import torch

from rankwell.errors import RequestError
from rankwell.ranking.policies import greedy
from rankwell.ranking.slot_exploration import SlotExploration
from rankwell.types import RankedList


def ranked(policy: SlotExploration, num: int, *, length: int, seed: int = 0) -> RankedList:
    """Item 0 is the best, item num - 1 the worst."""
    p = 0.9 - 0.8 * torch.arange(num, dtype=torch.float64) / max(num, 1)
    return policy(torch.arange(num), p, logits_K=p.logit(), probabilities_K=p, length=length, seed=seed)


def lists_by_hand(num: int, length: int, slots: tuple[int, ...], pool: int) -> list[tuple[int, ...]]:
    """Every list that the rule allows, each as likely as any other, written out without the policy."""
    shown = min(num, length)
    exploring = [slot for slot in range(1, shown + 1) if slot in slots]
    fixed = list(range(shown - len(exploring)))
    rest = list(range(len(fixed), num))[: max(pool, len(exploring))]
    lists = []
    for draw in permutations(rest, len(exploring)):
        drawn, best = iter(draw), iter(fixed)
        lists.append(tuple(next(drawn) if slot in exploring else next(best) for slot in range(1, shown + 1)))
    return lists


CASES = [
    (6, 4, (2,), 20),
    (6, 6, (3, 5), 20),
    (6, 4, (1, 2), 3),
    (7, 5, (2, 4, 5), 2),
    (4, 10, (3, 7), 20),
    (3, 3, (1, 2, 3), 1),
    (5, 1, (1,), 20),
    (5, 3, (), 20),
    (1, 1, (1,), 20),
]


@pytest.mark.parametrize(("num", "length", "slots", "pool"), CASES)
def test_propensities_are_those_of_all_draws_counted(num: int, length: int, slots: tuple[int, ...], pool: int) -> None:
    lists = lists_by_hand(num, length, slots, pool)
    counts = Counter((item, position) for one in lists for position, item in enumerate(one, 1))
    for seed in range(30):
        given = ranked(SlotExploration(slots=slots, pool=pool), num, length=length, seed=seed)
        assert tuple(given.item_ids.tolist()) in lists
        for position, (item, propensity) in enumerate(
            zip(given.item_ids.tolist(), given.propensities.tolist(), strict=True), 1
        ):
            assert propensity == pytest.approx(counts[item, position] / len(lists), abs=1e-15)


def test_every_list_is_drawn_equally_often() -> None:
    lists = lists_by_hand(6, 4, (2, 4), 4)
    assert len(lists) == 12
    num_draws = 6_000
    drawn = Counter(
        tuple(ranked(SlotExploration(slots=(2, 4), pool=4), 6, length=4, seed=seed).item_ids.tolist())
        for seed in range(num_draws)
    )
    assert set(drawn) == set(lists)
    expected = num_draws / len(lists)
    chi_square = sum((drawn[one] - expected) ** 2 / expected for one in lists)
    assert chi_square < 31.3  # the 99.9 % point of chi-square with 11 degrees of freedom


def test_a_slot_that_does_not_explore_is_certain_whatever_was_drawn_before_it() -> None:
    for seed in range(50):
        given = ranked(SlotExploration(slots=(1,)), 5, length=3, seed=seed)
        assert given.item_ids[1:].tolist() == [0, 1]
        assert given.propensities[1:].tolist() == [1.0, 1.0]


def test_without_slots_it_is_greedy() -> None:
    p = torch.tensor([0.2, 0.4, 0.2, 0.1], dtype=torch.float64)
    ids = torch.tensor([9, 3, 5, 1])
    mine = SlotExploration(slots=())(ids, p, logits_K=p.logit(), probabilities_K=p, length=3, seed=5)
    best = greedy(ids, p, logits_K=p.logit(), probabilities_K=p, length=3, seed=5)
    assert torch.equal(mine.item_ids, best.item_ids)
    assert torch.equal(mine.propensities, best.propensities)


@pytest.mark.parametrize(("slots", "pool"), [((0,), 5), ((-1, 2), 5), ((2, 2), 5), ((2,), 0)])
def test_what_is_no_slot_or_no_pool_is_refused(slots: tuple[int, ...], pool: int) -> None:
    with pytest.raises(RequestError):
        SlotExploration(slots=slots, pool=pool)
