"""AUC, GAUC, log loss, normalized entropy and Brier against slow plain references and scikit-learn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.metrics import log_loss as sklearn_log_loss

from rankwell.errors import MetricError, UndefinedMetricWarning
from rankwell.evaluation.discrimination import (
    auc,
    brier,
    gauc,
    log_loss,
    log_loss_from_logits,
    normalized_entropy,
)

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def drawn_rows(seed: int, num_rows: int = 80, num_levels: int = 6) -> Rows:
    """Heavy ties, uneven weights, a third of them 0; the last column is a group."""
    generator = np.random.default_rng(seed)
    p_C = generator.integers(0, num_levels, num_rows) / num_levels * 0.9 + 0.05
    y_C = (generator.random(num_rows) < p_C).astype(np.int64)
    w_C = generator.choice([0.0, 0.5, 1.0, 3.7], num_rows)
    return p_C, y_C, w_C, generator.integers(0, 9, num_rows) * 10**15


def slow_auc(p_C: np.ndarray, y_C: np.ndarray, w_C: np.ndarray) -> float:
    won = weight = 0.0
    for (p, y, w), (q, z, v) in itertools.product(zip(p_C, y_C, w_C, strict=True), repeat=2):
        if y == 1 and z == 0:
            weight += w * v
            won += w * v * (1.0 if p > q else 0.5 if p == q else 0.0)
    return won / weight if weight else math.nan


def slow_gauc(p_C: np.ndarray, y_C: np.ndarray, w_C: np.ndarray, g_C: np.ndarray) -> float:
    total = weight = 0.0
    for group in set(g_C.tolist()):
        inside = g_C == group
        area = slow_auc(p_C[inside], y_C[inside], w_C[inside])
        if not math.isnan(area):
            total += area * w_C[inside].sum()
            weight += w_C[inside].sum()
    return total / weight


@pytest.mark.parametrize("seed", range(4))
def test_every_number_equals_the_slow_reference_and_scikit_learn(seed: int) -> None:
    p_C, y_C, w_C, g_C = drawn_rows(seed)
    assert auc(p_C, y_C, w_C) == pytest.approx(slow_auc(p_C, y_C, w_C), abs=1e-12)
    assert auc(p_C, y_C, w_C) == pytest.approx(roc_auc_score(y_C, p_C, sample_weight=w_C), abs=1e-12)
    assert gauc(p_C, y_C, w_C, request_C=g_C) == pytest.approx(slow_gauc(p_C, y_C, w_C, g_C), abs=1e-12)
    loss = sum(-w * math.log(p if y else 1 - p) for p, y, w in zip(p_C, y_C, w_C, strict=True)) / w_C.sum()
    assert log_loss(p_C, y_C, w_C) == pytest.approx(loss, abs=1e-12)
    assert log_loss(p_C, y_C, w_C) == pytest.approx(sklearn_log_loss(y_C, p_C, sample_weight=w_C), abs=1e-12)
    assert brier(p_C, y_C, w_C) == pytest.approx(brier_score_loss(y_C, p_C, sample_weight=w_C), abs=1e-12)
    logits_C = np.log(p_C / (1 - p_C))
    assert log_loss_from_logits(logits_C, y_C, w_C) == pytest.approx(loss, abs=1e-12)
    rate_C = np.full(len(p_C), (w_C * y_C).sum() / w_C.sum())
    of_the_rate = sklearn_log_loss(y_C, rate_C, sample_weight=w_C)
    assert normalized_entropy(p_C, y_C, w_C) == pytest.approx(loss / of_the_rate, abs=1e-12)


def test_auc_counts_pairs() -> None:
    ones = [1, 1, 1, 1]
    assert auc([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], ones) == 1
    assert auc([0.4, 0.3, 0.2, 0.1], [0, 0, 1, 1], ones) == 0
    assert auc([0.5] * 4, [0, 1, 0, 1], ones) == 0.5
    assert auc([0.1, 0.3, 0.2, 0.3], [0, 0, 1, 1], ones) == (1 + 0 + 1 + 0.5) / 4
    assert auc([0.1, 0.3, 0.2, 0.3], [0, 0, 1, 1], [3, 1, 2, 1]) == (3 * 2 + 0 + 3 * 1 + 0.5 * 1) / (4 * 3)


def test_auc_survives_weights_of_any_size_and_probabilities_that_float32_would_merge() -> None:
    assert auc([0.1, 0.2, 0.3], [0, 1, 1], [1e-200, 1e-200, 1e-200]) == 1
    assert auc([1e-300, 2e-300, 0.0], [0, 1, 0], [1, 1, 1]) == 1
    assert auc([0.3, np.nextafter(0.3, 1)], [1, 0], [1, 1]) == 0


def test_gauc_with_one_group_is_auc_and_skips_groups_of_one_class() -> None:
    p_C, y_C, w_C, _ = drawn_rows(3)
    zeros_C = np.zeros(len(p_C), dtype=np.int64)
    assert gauc(p_C, y_C, w_C, request_C=zeros_C) == pytest.approx(auc(p_C, y_C, w_C), abs=1e-14)
    assert gauc([0.9, 0.1, 0.5, 0.6], [1, 0, 1, 1], [1, 1, 9, 9], request_C=["a", "a", "b", "b"]) == 1


def test_groups_may_be_any_ids_in_any_order() -> None:
    p_C, y_C, w_C, g_C = drawn_rows(5)
    expected = gauc(p_C, y_C, w_C, request_C=g_C)
    codes_C = g_C // 10**15
    for renamed_C in (codes_C, -codes_C, codes_C.astype(np.int8), codes_C.astype(np.uint64), torch.tensor(codes_C)):
        assert gauc(p_C, y_C, w_C, request_C=renamed_C) == pytest.approx(expected, abs=1e-14)
    assert gauc(p_C, y_C, w_C, request_C=np.array([f"r{g}" for g in codes_C])) == pytest.approx(expected, abs=1e-14)
    order = np.argsort(codes_C)
    sorted_ids_C = np.sort(codes_C) * (2**60 // 9)
    assert gauc(p_C[order], y_C[order], w_C[order], request_C=sorted_ids_C) == pytest.approx(expected, abs=1e-14)


def test_ids_beyond_the_exact_floats_stay_apart() -> None:
    ids_C = np.array([2**53, 2**53, 2**53 + 1, 2**53 + 1])
    assert gauc([0.9, 0.1, 0.2, 0.3], [1, 0, 1, 0], [1] * 4, request_C=ids_C) == 0.5


def test_certain_and_wrong_costs_what_float64_can_hold() -> None:
    assert log_loss([0.0], [1], [1]) == pytest.approx(1074 * math.log(2))
    assert log_loss([1.0], [0], [1]) == pytest.approx(53 * math.log(2))
    assert log_loss([1e-300], [1], [1]) == pytest.approx(300 * math.log(10))
    assert log_loss([1e-300], [0], [1]) == pytest.approx(1e-300, rel=1e-12)  # log1p: 1 - p would be 0 here
    assert log_loss([0.0, 1.0], [0, 1], [1, 1]) == pytest.approx(0, abs=1e-15)


def test_log_loss_from_logits_is_exact_far_out() -> None:
    assert log_loss_from_logits([1e4, -1e4], [0, 1], [1, 1]) == 1e4
    assert log_loss_from_logits([-800.0], [0], [1]) == 0.0  # e^-800 is below the smallest float64
    assert log_loss_from_logits([-700.0], [0], [1]) == pytest.approx(math.exp(-700), rel=1e-12)
    with pytest.raises(MetricError, match="logits_C"):
        log_loss_from_logits([math.inf], [0], [1])


def test_normalized_entropy_is_1_for_the_mean_label() -> None:
    assert normalized_entropy([0.25] * 4, [1, 0, 0, 0], [1] * 4) == pytest.approx(1, abs=1e-15)
    assert normalized_entropy([0.4] * 2, [1, 0], [2, 3]) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_a_loss_but_no_auc(label: int) -> None:
    columns = ([0.25, 0.5], [label] * 2, [1, 1])
    with pytest.warns(UndefinedMetricWarning, match="AUC"):
        assert math.isnan(auc(*columns))
    with pytest.warns(UndefinedMetricWarning, match="GAUC"):
        assert math.isnan(gauc(*columns, request_C=[0, 0]))
    with pytest.warns(UndefinedMetricWarning, match="entropy"):
        assert math.isnan(normalized_entropy(*columns))
    assert log_loss(*columns) > 0
    assert brier(*columns) > 0


def test_requests_of_one_candidate_have_no_gauc() -> None:
    with pytest.warns(UndefinedMetricWarning, match="no group"):
        assert math.isnan(gauc([0.1, 0.9], [0, 1], [1, 1], request_C=[1, 2]))


def test_a_class_of_weight_0_is_absent() -> None:
    with pytest.warns(UndefinedMetricWarning):
        assert math.isnan(auc([0.1, 0.9], [0, 1], [0, 1]))


def test_tensors_of_every_float_and_with_gradients_are_taken() -> None:
    p_C = torch.tensor([0.125, 0.5, 0.75], requires_grad=True)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        assert (
            brier(p_C.to(dtype), torch.tensor([False, True, True]), torch.ones(3, dtype=dtype))
            == (0.125**2 + 0.5**2 + 0.25**2) / 3
        )


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (([0.1, math.nan], [0, 1], [1, 1]), "probabilities_C.*nan at row 1"),
        (([0.1, 1.5], [0, 1], [1, 1]), r"probabilities_C.*1\.5 at row 1"),
        (([-0.1, 0.5], [0, 1], [1, 1]), r"probabilities_C.*-0\.1 at row 0"),
        (([0.1, 0.5], [0, 2], [1, 1]), r"labels_C.*2\.0 at row 1"),
        (([0.1, 0.5], [0, 0.5], [1, 1]), r"labels_C.*0\.5 at row 1"),
        (([0.1, 0.5], [0, math.nan], [1, 0]), "labels_C.*nan at row 1"),
        (([0.1, 0.5], [0, 1], [1, -1]), r"weights_C.*-1\.0 at row 1"),
        (([0.1, 0.5], [0, 1], [1, math.inf]), "weights_C.*inf at row 1"),
        (([0.1, 0.5], [0, 1, 1], [1, 1]), "labels_C.*3 entries.*2 entries"),
        (([0.1, 0.5], [0, 1], [1]), "weights_C.*1 entries.*2 entries"),
        (([[0.1, 0.5]], [0, 1], [1, 1]), r"probabilities_C.*shape \(1, 2\)"),
        ((["a", "b"], [0, 1], [1, 1]), "probabilities_C.*numbers"),
    ],
)
def test_bad_columns_are_named(columns: tuple[list[float], list[float], list[float]], says: str) -> None:
    with pytest.raises(MetricError, match=says):
        auc(*columns)


def test_a_bad_group_column_is_named() -> None:
    with pytest.raises(MetricError, match="request_C.*1 entries"):
        gauc([0.1, 0.2], [0, 1], [1, 1], request_C=[1])
    with pytest.raises(MetricError, match="request_C.*float64"):
        gauc([0.1, 0.2], [0, 1], [1, 1], request_C=[0.5, 0.5])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 1), st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=25
    )
)
def test_any_small_sample_agrees_with_the_plain_loops(rows: list[tuple[float, int, int, int]]) -> None:
    p_C, y_C, w_C, g_C = (np.array(column) for column in zip(*rows, strict=True))
    expected = slow_auc(p_C, y_C, w_C)
    if math.isnan(expected):
        with pytest.warns(UndefinedMetricWarning):
            assert math.isnan(auc(p_C, y_C, w_C))
        return
    assert auc(p_C, y_C, w_C) == pytest.approx(expected, abs=1e-12)
    assert auc(p_C, 1 - y_C, w_C) == pytest.approx(1 - expected, abs=1e-12)
    areas = {g: slow_auc(p_C[g_C == g], y_C[g_C == g], w_C[g_C == g]) for g in set(g_C.tolist())}
    if not all(map(math.isnan, areas.values())):
        assert gauc(p_C, y_C, w_C, request_C=g_C) == pytest.approx(slow_gauc(p_C, y_C, w_C, g_C), abs=1e-12)
