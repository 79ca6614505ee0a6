"""Distances to the truth: each against its sum over both labels, and the identity that ties them together."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rankwell.errors import MetricError, UndefinedMetricWarning
from rankwell.evaluation.discrimination import log_loss
from rankwell.evaluation.truth import (
    bayes_log_loss,
    excess_log_loss,
    mean_absolute_error_to_truth,
    realised_log_loss,
)


def expected_log_loss(p_C: np.ndarray, q_C: np.ndarray, w_C: np.ndarray) -> float:
    """Each row once as a positive with weight w·q and once as a negative with weight w·(1 − q)."""
    both_C = np.concatenate([p_C, p_C])
    labels_C = np.repeat([1, 0], len(p_C))
    return log_loss(both_C, labels_C, np.concatenate([w_C * q_C, w_C * (1 - q_C)]))


def test_cross_entropy_is_bayes_plus_excess() -> None:
    generator = np.random.default_rng(0)
    q_C, p_C, w_C = generator.beta(1, 5, 300), generator.beta(1, 5, 300), generator.choice([0.0, 1.0, 3.0], 300)
    assert bayes_log_loss(q_C, w_C) == pytest.approx(expected_log_loss(q_C, q_C, w_C), abs=1e-13)
    assert bayes_log_loss(q_C, w_C) + excess_log_loss(p_C, q_C, w_C) == pytest.approx(
        expected_log_loss(p_C, q_C, w_C), abs=1e-12
    )
    by_hand = sum(w * abs(p - q) for p, q, w in zip(p_C, q_C, w_C, strict=True)) / w_C.sum()
    assert mean_absolute_error_to_truth(p_C, q_C, w_C) == pytest.approx(by_hand)


def test_the_realised_loss_of_the_truth_nears_its_expectation() -> None:
    generator = np.random.default_rng(1)
    q_C = generator.beta(1, 5, 200_000)
    y_C = (generator.random(200_000) < q_C).astype(int)
    assert realised_log_loss(q_C, y_C, np.ones(200_000)) == pytest.approx(
        bayes_log_loss(q_C, np.ones(200_000)), rel=0.01
    )


def test_the_truth_is_at_no_distance_from_itself() -> None:
    q_C, w_C = np.array([0.0, 1e-300, 0.3, 1 - 1e-16, 1.0]), np.ones(5)
    assert mean_absolute_error_to_truth(q_C, q_C, w_C) == 0
    assert excess_log_loss(q_C, q_C, w_C) == pytest.approx(0, abs=1e-15)
    assert bayes_log_loss([0.0, 1.0], [1, 1]) == 0


def test_small_differences_are_not_lost_in_rounding() -> None:
    d = 1e-6  # KL of q + d to q is d² / (2·q·(1 − q)) to first order
    assert excess_log_loss([0.5 + d], [0.5], [1]) == pytest.approx(2 * d**2, rel=1e-3)


def test_certain_and_wrong_is_finite() -> None:
    assert excess_log_loss([0.0], [1.0], [1]) == pytest.approx(1074 * math.log(2))
    assert excess_log_loss([1.0], [0.0], [1]) == pytest.approx(53 * math.log(2))


def test_nothing_is_undefined_and_bad_truths_are_named() -> None:
    for number in (mean_absolute_error_to_truth, excess_log_loss):
        with pytest.warns(UndefinedMetricWarning):
            assert math.isnan(number([], [], []))
        with pytest.raises(MetricError, match="true_probabilities_C"):
            number([0.5], [1.5], [1])
        with pytest.raises(MetricError, match="true_probabilities_C.*2 entries"):
            number([0.5], [0.5, 0.5], [1])
    with pytest.warns(UndefinedMetricWarning):
        assert math.isnan(bayes_log_loss([0.5], [0]))
    with pytest.raises(MetricError, match="true_probabilities_C"):
        bayes_log_loss([math.nan], [1])
    with pytest.raises(MetricError, match="true_probabilities_C"):
        realised_log_loss([math.nan], [1], [1])
