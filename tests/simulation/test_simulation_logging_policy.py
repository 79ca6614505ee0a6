"""Propensities of the logging policy: closed form against a slow enumeration and against what was shown."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rankwell.simulation.logging_policy import SlotExploration


def enumerated(slots: tuple[int, ...], rate: float, num_retrieved: int, length: int) -> np.ndarray:
    """Propensities by going through every ordered draw that exploration could make."""
    slots = tuple(slot for slot in slots if slot <= length)
    drawable = [rank for rank in range(1, num_retrieved + 1) if rank in slots or rank > length]
    propensity_NL = (1 - rate) * np.eye(num_retrieved, length)
    draws = list(itertools.permutations(drawable, len(slots)))
    for draw in draws:
        page = list(range(1, length + 1))
        for slot, rank in zip(slots, draw, strict=True):
            page[slot - 1] = rank
        assert len(set(page)) == length, "no candidate stands twice"
        for position, rank in enumerate(page):
            propensity_NL[rank - 1, position] += rate / len(draws)
    return propensity_NL


@pytest.mark.parametrize(
    ("slots", "num_retrieved", "length"),
    [((1, 3), 6, 4), ((1, 3, 6), 6, 6), ((2, 9), 5, 3), ((), 4, 4), ((7,), 5, 5), ((1,), 1, 1)],
)
def test_marginals_are_those_of_the_enumeration(slots: tuple[int, ...], num_retrieved: int, length: int) -> None:
    marginals = SlotExploration(slots, 0.3).marginals(num_retrieved, length)
    np.testing.assert_allclose(marginals, enumerated(slots, 0.3, num_retrieved, length), atol=1e-12)


def test_each_position_is_filled_once_and_each_candidate_stands_at_most_once() -> None:
    for num_retrieved, length in [(1, 1), (12, 5), (20, 20), (35, 20)]:
        marginals = SlotExploration((1, 3, 6, 10), 0.25).marginals(num_retrieved, length)
        np.testing.assert_allclose(marginals.sum(axis=0), 1.0)
        assert (marginals.sum(axis=1) <= 1 + 1e-12).all()


def test_shown_pages_have_the_marginals_they_declare() -> None:
    policy, num_requests = SlotExploration((1, 3, 6), 0.4), 60_000
    # One request many times: 12 offers of which 9 passed, a page of 5.
    production_P = np.array([0.3, 9.0, 1.1, -2.0, 7.0, 5.0, 2.0, 8.0, -1.0, 4.0, 3.0, 6.0], dtype=np.float32)
    passed_P = np.array([1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 0, 1], dtype=bool)
    shown = policy.show(
        np.tile(production_P, (num_requests, 1)),
        np.tile(passed_P, (num_requests, 1)),
        np.full(num_requests, 5),
        np.random.default_rng(5),
    )
    assert (shown.length_R == 5).all()
    order = [place for place in np.argsort(-production_P) if passed_P[place]]
    marginals = policy.marginals(9, 5)
    for position in range(5):
        counts = np.bincount(shown.choice_RK[:, position], minlength=12)[order]
        expected = marginals[:, position]
        np.testing.assert_allclose(counts / num_requests, expected, atol=5 * np.sqrt(0.25 / num_requests))
        # And each row carries the marginal of what it shows, not of what happened to be drawn.
        rank_of_place = {place: rank for rank, place in enumerate(order)}
        shown_ranks = np.array([rank_of_place[place] for place in shown.choice_RK[:2_000, position].tolist()])
        np.testing.assert_allclose(shown.propensity_RK[:2_000, position], expected[shown_ranks], rtol=1e-6)


def test_pages_of_all_lengths_repeat_nothing_and_hold_only_what_passed() -> None:
    rng = np.random.default_rng(1)
    num_requests, num_offered = 500, 12
    passed_RP = rng.random((num_requests, num_offered)) < 0.4
    passed_RP[:, 0] = True
    production_RP = rng.standard_normal(passed_RP.shape).astype(np.float32)
    slots_R = rng.integers(1, 15, num_requests)
    shown = SlotExploration((1, 3, 6, 10), 0.5).show(production_RP, passed_RP, slots_R, rng)
    np.testing.assert_array_equal(shown.length_R, np.minimum(passed_RP.sum(axis=1), slots_R))
    for row in range(num_requests):
        page = shown.choice_RK[row, : shown.length_R[row]]
        assert len(set(page.tolist())) == len(page)
        assert passed_RP[row, page].all()
    propensity = shown.propensity_RK[shown.filled_RK]
    assert ((propensity > 0) & (propensity <= 1)).all()


def test_without_exploration_the_production_order_is_shown() -> None:
    production_RP = np.array([[1.0, 3.0, 2.0]], dtype=np.float32)
    shown = SlotExploration((), 0.5).show(
        production_RP, np.ones((1, 3), dtype=bool), np.array([3]), np.random.default_rng(0)
    )
    assert shown.choice_RK.tolist() == [[1, 2, 0]]
    assert shown.propensity_RK.tolist() == [[1.0, 1.0, 1.0]]
