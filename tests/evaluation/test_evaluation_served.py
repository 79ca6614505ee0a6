"""The best of each request, and their calibration beside that of all."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankwell.errors import MetricError
from rankwell.evaluation.served import best_of_each, served_and_scored


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=30), st.integers(1, 5))
def test_the_best_are_those_of_a_plain_loop(rows: list[tuple[int, int]], k: int) -> None:
    request_C, utility_C = np.array([r for r, _ in rows]), np.array([float(u) for _, u in rows])
    expected = np.zeros(len(rows), dtype=bool)
    for request in set(request_C.tolist()):
        own = sorted((-utility_C[i], i) for i in range(len(rows)) if request_C[i] == request)
        expected[[i for _, i in own[:k]]] = True
    assert best_of_each(utility_C, request_C, k=k).tolist() == expected.tolist()


def test_a_choice_by_luck_is_over_rated_and_the_rest_under_rated() -> None:
    rng = np.random.default_rng(0)
    true_C = np.full(60_000, 0.2)
    thought_C = np.clip(true_C + 0.05 * rng.standard_normal(60_000), 0.01, 1)
    labels_C = rng.random(60_000) < true_C
    request_C = np.arange(60_000) // 20
    both = served_and_scored(thought_C, labels_C, np.ones(60_000), utilities_C=thought_C, request_C=request_C, k=1)
    assert both.scored_interval.contains(1.0)
    assert 1.4 < both.served < 1.55  # the best of 20 errors of .05 is .093 above 0
    assert both.served_interval.low > 1.3
    assert both.curse == both.served / both.scored


def test_exploration_traffic_stands_for_all_by_its_propensity() -> None:
    rng = np.random.default_rng(1)
    num = 200_000
    p_C, request_C = rng.uniform(0.05, 0.5, num), np.arange(num) // 10
    labels_C = rng.random(num) < p_C * np.where(p_C > 0.3, 0.5, 1.0)  # wrong where it is confident
    chance_C = np.where(p_C > 0.3, 0.9, 0.2)
    shown_C = rng.random(num) < chance_C
    judged = partial(served_and_scored, k=10)
    all_rows = judged(p_C, labels_C, np.ones(num), utilities_C=p_C, request_C=request_C)
    shown = partial(
        judged,
        p_C[shown_C],
        labels_C[shown_C],
        np.ones(shown_C.sum()),
        utilities_C=p_C[shown_C],
        request_C=request_C[shown_C],
    )
    assert abs(shown(propensity_C=chance_C[shown_C]).scored - all_rows.scored) < 0.04
    assert shown().scored > all_rows.scored + 0.1


def test_rows_that_could_not_be_shown_are_refused_unless_they_weigh_nothing() -> None:
    columns = ([0.5, 0.5], [1, 0])
    with pytest.raises(MetricError, match="1 of 2 rows have no propensity"):
        served_and_scored(*columns, [1, 1], utilities_C=[1, 2], request_C=[0, 1], k=1, propensity_C=[0.0, 1.0])
    three = ([0.5, 0.5, 0.5], [1, 0, 1], [1, 1, 0])
    served_and_scored(*three, utilities_C=[1, 2, 3], request_C=[0, 1, 2], k=1, propensity_C=[0.5, 0.1, 0.0])
    with pytest.raises(MetricError):
        best_of_each([1.0], [0], k=0)
    assert best_of_each([], [], k=1).tolist() == []
