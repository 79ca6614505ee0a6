"""A difference in AUC and its interval: pair by pair, against the spread of fresh samples, and at the ends."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rankwell.errors import UndefinedMetricWarning
from rankwell.evaluation.auc_difference import auc_difference
from rankwell.evaluation.sample import Floats, Ints


def drawn(rng: np.random.Generator, num_requests: int, size: int) -> tuple[Floats, Floats, Ints, Ints]:
    """Two predictions, the second worse, of labels that depend on a request's mood and on each candidate."""
    request_C = np.repeat(np.arange(num_requests), size)
    logit_C = 3 * rng.standard_normal(num_requests)[request_C] + 0.3 * rng.standard_normal(num_requests * size)
    labels_C = (rng.random(len(logit_C)) < 1 / (1 + np.exp(-logit_C))).astype(np.int64)
    better_C = logit_C + 1.0 * rng.standard_normal(num_requests)[request_C]
    worse_C = logit_C + 2.0 * rng.standard_normal(num_requests)[request_C]
    return 1 / (1 + np.exp(-better_C)), 1 / (1 + np.exp(-worse_C)), labels_C, request_C


def pairwise_auc(p_C: Floats, labels_C: Ints, weights_C: Floats) -> float:
    won = total = 0.0
    for i in np.flatnonzero(labels_C == 1):
        for j in np.flatnonzero(labels_C == 0):
            total += weights_C[i] * weights_C[j]
            won += weights_C[i] * weights_C[j] * ((p_C[i] > p_C[j]) + 0.5 * (p_C[i] == p_C[j]))
    return won / total


def test_value_and_error_are_those_of_single_rows_taken_a_little_heavier() -> None:
    """The error comes from the derivative of AUC by each row's weight, here taken by differences, pair by pair."""
    rng = np.random.default_rng(3)
    p_C, q_C, labels_C, request_C = drawn(rng, 8, 3)
    p_C, weights_C = p_C.round(1), rng.uniform(0.5, 2, 24)  # with ties
    found = auc_difference(p_C, q_C, labels_C, weights_C, cluster_C=request_C)

    def difference(weights_C: Floats) -> float:
        return pairwise_auc(p_C, labels_C, weights_C) - pairwise_auc(q_C, labels_C, weights_C)

    assert found.value == pytest.approx(difference(weights_C), abs=1e-12)
    moves_G = np.zeros(8)
    for row in range(24):
        heavier_C, lighter_C = weights_C.copy(), weights_C.copy()
        heavier_C[row] += 1e-5 * weights_C[row]
        lighter_C[row] -= 1e-5 * weights_C[row]
        moves_G[request_C[row]] += (difference(heavier_C) - difference(lighter_C)) / 2e-5
    error = math.sqrt((moves_G**2).sum() * 8 / 7)
    assert found.interval.high - found.value == pytest.approx(1.959964 * error, rel=1e-4)
    assert found.value - found.interval.low == pytest.approx(1.959964 * error, rel=1e-4)


def test_the_interval_is_as_wide_as_fresh_samples_lie_apart() -> None:
    rng = np.random.default_rng(0)
    samples = [drawn(rng, 120, 5) for _ in range(200)]
    found = [auc_difference(p, q, y, np.ones(len(y)), cluster_C=r) for p, q, y, r in samples]
    spread = float(np.std([f.value for f in found]))
    told = float(np.mean([f.interval.width / 2 / 1.959964 for f in found]))
    assert told == pytest.approx(spread, rel=0.15)
    alone = auc_difference(*samples[0][:3], np.ones(600), cluster_C=np.arange(600))  # as if rows were independent
    assert alone.interval.width < 0.8 * found[0].interval.width


def test_ends() -> None:
    ones, labels = [1.0] * 4, [0, 1, 0, 1]
    same = auc_difference([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], labels, ones, cluster_C=[0, 0, 1, 1])
    assert (same.value, same.interval.low, same.interval.high) == (0, 0, 0)
    with pytest.warns(UndefinedMetricWarning, match="two clusters"):
        one = auc_difference([0.1, 0.2, 0.3, 0.4], [0.5] * 4, labels, ones, cluster_C=[7] * 4)
    assert one.value == 0.25
    assert math.isnan(one.interval.low)
    with pytest.warns(UndefinedMetricWarning, match="AUC"):
        none = auc_difference([0.1, 0.2], [0.2, 0.1], [1, 1], [1, 1], cluster_C=[0, 1])
    assert math.isnan(none.value)
    assert math.isnan(none.interval.high)
    absent = auc_difference([*[0.1, 0.2, 0.3, 0.4], 0.9], [0.5] * 5, [*labels, 0], [*ones, 0.0],
                            cluster_C=[0, 0, 1, 1, 2])  # fmt: skip
    assert absent.value == 0.25
