"""nDCG and MRR against scikit-learn and the mean over all orders of the ties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from rankwell.errors import MetricError, UndefinedMetricWarning
from rankwell.evaluation.ranking_quality import mrr, ndcg_at_k


def orders_of(p_K: list[float]) -> list[tuple[int, ...]]:
    """All orders, best first, that the probabilities allow."""
    return [
        order
        for order in itertools.permutations(range(len(p_K)))
        if all(p_K[i] >= p_K[j] for i, j in itertools.pairwise(order))
    ]


def slow_ndcg(p_K: list[float], gains_K: list[float], k: int) -> float:
    def dcg(order: tuple[int, ...]) -> float:
        return sum(gains_K[i] / math.log2(place + 2) for place, i in enumerate(order[:k]))

    orders = orders_of(p_K)
    return sum(map(dcg, orders)) / len(orders) / dcg(orders_of(gains_K)[0])


def slow_reciprocal(p_K: list[float], labels_K: list[int], k: int) -> float:
    orders = orders_of(p_K)
    total = 0.0
    for order in orders:
        first = next(place for place, i in enumerate(order, start=1) if labels_K[i])
        total += 1 / first if first <= k else 0.0
    return total / len(orders)


def drawn_requests(seed: int, lengths: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities with ties, grades 0..3, one weight a request, ids with gaps, rows shuffled."""
    generator = np.random.default_rng(seed)
    request_C = np.repeat(generator.permutation(len(lengths)) * 7 - 20, lengths)
    p_C = generator.integers(0, 4, len(request_C)) / 4
    grade_C = generator.choice([0, 0, 0, 1, 2, 3], len(request_C)).astype(float)
    weight_C = np.repeat(generator.choice([0.5, 1.0, 4.0], len(lengths)), lengths)
    order = generator.permutation(len(request_C))
    return p_C[order], grade_C[order], weight_C[order], request_C[order]


@pytest.mark.parametrize("k", [1, 2, 3, 5, 100])
def test_both_equal_the_mean_over_all_orders_of_the_ties(k: int) -> None:
    p_C, grade_C, w_C, r_C = drawn_requests(k, [1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 6, 5, 5])
    ndcgs, reciprocals, weights = [], [], []
    for request in np.unique(r_C):
        inside = r_C == request
        if grade_C[inside].any():
            ndcgs.append(slow_ndcg(p_C[inside].tolist(), grade_C[inside].tolist(), k))
            reciprocals.append(slow_reciprocal(p_C[inside].tolist(), (grade_C[inside] > 0).tolist(), k))
            weights.append(w_C[inside][0])
    assert 3 < len(weights) < 13  # some requests have nothing to find
    assert ndcg_at_k(p_C, grade_C, w_C, request_C=r_C, k=k) == pytest.approx(
        np.average(ndcgs, weights=weights), abs=1e-12
    )
    labels_C = (grade_C > 0).astype(int)
    expected = np.average(reciprocals, weights=weights)
    assert mrr(p_C, labels_C, w_C, request_C=r_C, k=k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [1, 4, 10, 40])
def test_ndcg_equals_scikit_learn_on_ties(k: int) -> None:
    generator = np.random.default_rng(k)
    p_RK = generator.integers(0, 5, (30, 20)) / 5
    gains_RK = generator.integers(0, 4, (30, 20)).astype(float)
    r_C = np.repeat(np.arange(30), 20)
    ours = ndcg_at_k(p_RK.ravel(), gains_RK.ravel(), np.ones(600), request_C=r_C, k=k)
    assert ours == pytest.approx(ndcg_score(gains_RK, p_RK, k=k), abs=1e-12)


def test_the_arithmetic_of_a_small_list() -> None:
    p_C, gains_C, ones, r_C = [0.9, 0.8, 0.7], [1, 0, 3], [1, 1, 1], [0, 0, 0]
    assert ndcg_at_k(p_C, gains_C, ones, request_C=r_C, k=1) == pytest.approx(1 / 3)
    assert ndcg_at_k(p_C, gains_C, ones, request_C=r_C, k=3) == pytest.approx((1 + 3 / 2) / (3 + 1 / math.log2(3)))
    assert mrr(p_C, [0, 0, 1], ones, request_C=r_C, k=3) == pytest.approx(1 / 3)
    assert mrr(p_C, [0, 0, 1], ones, request_C=r_C, k=2) == 0
    assert mrr([0.5] * 3, [0, 0, 1], ones, request_C=r_C, k=3) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert mrr([0.5] * 3, [0, 1, 1], ones, request_C=r_C, k=3) == pytest.approx((1 + 1 + 1 / 2) / 3)


def test_a_request_weighs_the_mean_of_its_candidates() -> None:
    p_C, y_C, r_C = [0.9, 0.1, 0.1, 0.9, 0.5], [1, 0, 1, 0, 0], [0, 0, 1, 1, 1]
    assert mrr(p_C, y_C, [1, 3, 1, 1, 4], request_C=r_C, k=9) == pytest.approx((2 * 1 + 2 / 3) / 4)
    second = 1 / math.log2(4)
    assert ndcg_at_k(p_C, y_C, [1, 3, 1, 1, 4], request_C=r_C, k=9) == pytest.approx((2 * 1 + 2 * second) / 4)


def test_a_candidate_of_weight_0_is_absent() -> None:
    assert mrr([0.9, 0.5, 0.1], [0, 1, 0], [0, 1, 1], request_C=[4, 4, 4], k=5) == 1


def test_long_ties_stay_exact() -> None:
    n = 100_000
    labels_C = np.zeros(n)
    labels_C[n // 2] = 1
    expected = float(np.sum(1 / np.arange(1, n + 1))) / n
    assert mrr(np.full(n, 0.5), labels_C, np.ones(n), request_C=np.zeros(n, dtype=int), k=n) == pytest.approx(
        expected, rel=1e-6
    )


def test_nothing_to_find_is_undefined() -> None:
    columns = ([0.1, 0.2], [0, 0], [1, 1])
    with pytest.warns(UndefinedMetricWarning, match="nDCG@5"):
        assert math.isnan(ndcg_at_k(*columns, request_C=[0, 0], k=5))
    with pytest.warns(UndefinedMetricWarning, match="MRR"):
        assert math.isnan(mrr(*columns, request_C=[0, 0], k=5))


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(MetricError, match="`k`"):
        ndcg_at_k([0.1], [1], [1], request_C=[0], k=0)
    with pytest.raises(MetricError, match="`k`"):
        mrr([0.1], [1], [1], request_C=[0], k=2.5)  # type: ignore[arg-type]
    with pytest.raises(MetricError, match="gains_C.*-1"):
        ndcg_at_k([0.1], [-1], [1], request_C=[0], k=5)
    with pytest.raises(MetricError, match="labels_C.*3"):
        mrr([0.1], [3], [1], request_C=[0], k=5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=16),
    st.integers(1, 6),
)
def test_the_best_order_has_1_and_no_order_has_more(rows: list[tuple[int, int, int]], k: int) -> None:
    level_C, grade_C, r_C = (np.array(column) for column in zip(*rows, strict=True))
    ones_C = np.ones(len(rows))
    if not grade_C.any():
        return
    assert ndcg_at_k(grade_C / 2, grade_C, ones_C, request_C=r_C, k=k) == pytest.approx(1, abs=1e-12)
    assert 0 <= ndcg_at_k(level_C / 3, grade_C, ones_C, request_C=r_C, k=k) <= 1
    labels_C = (grade_C > 0).astype(int)
    shallow, deep = (mrr(level_C / 3, labels_C, ones_C, request_C=r_C, k=depth) for depth in (k, k + 3))
    assert 0 <= shallow <= deep + 1e-12
    assert deep <= 1 + 1e-12
