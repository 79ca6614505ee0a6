"""Isotonic calibration against a slow plain reference, scikit-learn, and arithmetic that can be checked by eye.

Letters in names: C candidates, flat over the sample · B blocks.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from rankwell.calibration.adjacent_violators import Blocks, pool_adjacent_violators
from rankwell.calibration.isotonic import Isotonic, fit_isotonic
from rankwell.calibration.radix_sort import sorted_with
from rankwell.calibration.sorted_labels import sorted_labels
from rankwell.errors import CalibrationError

Rows = list[tuple[float, int, int]]  # logit, label, weight
ROWS = st.lists(
    st.tuples(st.sampled_from([-2.5, -1.0, -0.0, 0.0, 0.25, 1.0, 3.0, 7.5]), st.integers(0, 1), st.integers(1, 4)),
    min_size=1,
    max_size=40,
)


def _plain_fit(rows: Rows) -> dict[float, Fraction]:
    """The value at each logit, by the min–max formula: the greatest, over starts, of the least mean over ends."""
    logits = sorted({logit for logit, _, _ in rows})

    def mean(first: float, last: float) -> Fraction:
        inside = [(label, weight) for logit, label, weight in rows if first <= logit <= last]
        return Fraction(sum(label * weight for label, weight in inside), sum(weight for _, weight in inside))

    return {
        logit: max(min(mean(first, last) for last in logits if last >= logit) for first in logits if first <= logit)
        for logit in logits
    }


def _columns(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    logits_C, labels_C, weights_C = np.array(rows, dtype=np.float64).T
    return logits_C, labels_C, weights_C


def _values_at(blocks: Blocks, logits_C: NDArray[np.float64]) -> NDArray[np.float64]:
    block_C = np.searchsorted(blocks.first_logits_B, logits_C, side="right") - 1
    assert (logits_C <= blocks.last_logits_B[block_C]).all()
    shares_C: NDArray[np.float64] = (blocks.positives_B / blocks.weights_B)[block_C]
    return shares_C


@settings(max_examples=100, deadline=None, derandomize=True)
@given(ROWS)
def test_blocks_equal_the_min_max_formula(rows: Rows) -> None:
    plain = _plain_fit(rows)
    logits_C = np.array(list(plain))
    blocks = pool_adjacent_violators(*_columns(rows))
    assert _values_at(blocks, logits_C).tolist() == [float(value) for value in plain.values()]
    assert len(blocks.weights_B) == len(set(plain.values()))  # blocks are as long as can be
    assert blocks.weights_B.sum() == sum(weight for _, _, weight in rows)
    mean = sum(logit * weight for logit, _, weight in rows)
    assert np.dot(blocks.mean_logits_B, blocks.weights_B) == pytest.approx(mean, abs=1e-9)


@pytest.mark.parametrize("num", [1, 2, 50, 3000])
@pytest.mark.parametrize("decimals", [0, 1, 12])
def test_blocks_equal_scikit_learn(num: int, decimals: int) -> None:
    numbers = np.random.default_rng(num + decimals)
    logits_C = numbers.normal(0.0, 2.0, num).round(decimals)
    labels_C = (numbers.random(num) < 1 / (1 + np.exp(-logits_C))).astype(float)
    weights_C = numbers.gamma(1.0, 2.0, num) + 1e-3
    reference = IsotonicRegression().fit(logits_C, labels_C, sample_weight=weights_C)
    values_C = _values_at(pool_adjacent_violators(logits_C, labels_C, weights_C), logits_C)
    np.testing.assert_allclose(values_C, reference.predict(logits_C), rtol=0.0, atol=1e-9)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(allow_nan=False), max_size=50))
def test_radix_sort_is_a_stable_sort(numbers: list[float]) -> None:
    numbers_C, places_C = np.array(numbers, dtype=np.float64), np.arange(len(numbers), dtype=np.float64)
    sorted_C, companions_C = sorted_with(numbers_C, places_C)
    expected = sorted(range(len(numbers)), key=lambda row: (numbers[row], math.copysign(1.0, numbers[row])))
    assert companions_C.tolist() == expected
    assert sorted_C.tobytes() == numbers_C[expected].tobytes()  # -0.0 stays -0.0
    assert numbers_C.tolist() == numbers  # untouched


def test_radix_sort_of_many() -> None:
    numbers_C = np.random.default_rng(0).normal(0.0, 1e3, 100_000)
    for column_C in (
        numbers_C,
        numbers_C.astype(np.float32).astype(np.float64),
        numbers_C.round() + 0.0,
    ):  # without -0.0
        order_C = np.argsort(column_C, kind="stable")
        sorted_C, companions_C = sorted_with(column_C, np.arange(100_000.0))
        assert np.array_equal(sorted_C, column_C[order_C])
        assert np.array_equal(companions_C, order_C)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(allow_nan=False, allow_infinity=False, width=32), st.booleans()), min_size=1))
def test_labels_in_the_lowest_bit_are_sorted_like_any_others(rows: list[tuple[float, bool]]) -> None:
    logits_C, labels_C = np.array(rows, dtype=np.float64).T
    equal, unequal = np.full(len(rows), 3.0), np.full(len(rows), 3.0)
    unequal[0] = 3.0 + 1e-9  # sorted by the other way
    for weights_C in (equal, unequal):
        sorted_C, signed_C = sorted_labels(logits_C, labels_C, weights_C)
        found = sorted(zip(sorted_C.tolist(), (signed_C > 0).tolist(), strict=True))
        assert (np.diff(sorted_C) >= 0).all()
        assert found == sorted(zip(logits_C.tolist(), (labels_C == 1).tolist(), strict=True))
        assert np.abs(np.abs(signed_C) - 3.0).max() < 1e-8


def _fitted(rows: Rows) -> Isotonic:
    logits_C, labels_C, weights_C = (torch.from_numpy(column) for column in np.array(rows, dtype=np.float64).T.copy())
    return fit_isotonic(logits_C, labels_C, weights_C, torch.zeros(len(rows), 0))


def _knots(calibrator: Isotonic) -> tuple[list[float], list[float]]:
    return calibrator.knot_logits_B.tolist(), torch.sigmoid(calibrator.knot_log_odds_B).tolist()


def test_end_blocks_without_one_label_get_half_a_row_of_each() -> None:
    logits, shares = _knots(_fitted([(-2.0, 0, 1), (-1.0, 0, 2), (0.0, 1, 1), (0.0, 0, 3), (1.0, 1, 4), (3.0, 1, 1)]))
    assert logits == [(-2.0 * 1 + -1.0 * 2) / 3, 0.0, (1.0 * 4 + 3.0 * 1) / 5]
    assert shares == pytest.approx([0.5 / (3 + 1), 1 / 4, (5 + 0.5) / (5 + 1)], rel=1e-12)


def test_end_blocks_with_both_labels_are_left_alone() -> None:
    logits, shares = _knots(_fitted([(-1.0, 0, 9), (-1.0, 1, 1), (2.0, 1, 9), (2.0, 0, 1)]))
    assert logits == [-1.0, 2.0]
    assert shares == pytest.approx([0.1, 0.9], rel=1e-12)


def test_an_end_block_too_poor_to_be_told_from_its_neighbour_is_pooled_with_it() -> None:
    # One row without a click would get 0.5 / 2 = 0.25, above the 0.1 of the next block; and mirrored at the top.
    low = [(-1.0, 0, 1), (0.0, 0, 9), (0.0, 1, 1)]
    logits, shares = _knots(_fitted([*low, (5.0, 1, 9), (5.0, 0, 1), (7.0, 1, 1)]))
    assert logits == pytest.approx([-1.0 / 11, (5.0 * 10 + 7.0) / 11], rel=1e-12)
    assert shares == pytest.approx([1 / 11, 10 / 11], rel=1e-12)


def test_separated_labels() -> None:
    logits, shares = _knots(_fitted([(-1.0, 0, 3), (1.0, 1, 7)]))
    assert logits == [-1.0, 1.0]
    assert shares == pytest.approx([0.5 / 4, 7.5 / 8], rel=1e-12)


def test_one_block_is_a_constant() -> None:
    calibrator = _fitted([(-1.0, 1, 1), (1.0, 0, 3)])
    assert calibrator.knot_logits_B.tolist() == [0.5]
    probabilities_C = calibrator(torch.tensor([-1e6, 0.5, 1e6]), torch.zeros(3, 0))
    assert probabilities_C.tolist() == pytest.approx([0.25] * 3, rel=1e-12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(ROWS.filter(lambda rows: len({label for _, label, _ in rows}) == 2))
def test_knots_ascend_and_stay_between_the_labels(rows: Rows) -> None:
    logits, shares = _knots(_fitted(rows))
    assert all(low < high for low, high in itertools.pairwise(logits))
    assert all(low < high for low, high in itertools.pairwise(shares))
    total = sum(weight for _, _, weight in rows)
    assert 0.5 / (total + 1) <= min(shares) * (1 + 1e-12)
    assert max(shares) * (1 - 1e-12) <= (total + 0.5) / (total + 1)


def test_interpolation_equals_numpy() -> None:
    numbers = np.random.default_rng(3)
    knots_B, values_B = np.sort(numbers.normal(size=30)), np.sort(numbers.normal(size=30))
    logits_C = np.concatenate([numbers.normal(0.0, 2.0, 500), knots_B])
    calibrator = Isotonic(torch.from_numpy(knots_B), torch.from_numpy(values_B))
    interpolated_C = calibrator.calibrated_logits(torch.from_numpy(logits_C), torch.zeros(530, 0)).numpy()
    np.testing.assert_allclose(interpolated_C, np.interp(logits_C, knots_B, values_B), rtol=1e-12, atol=1e-14)
    assert np.array_equal(interpolated_C[500:], values_B)  # at a knot, its value to the bit


def test_neighbouring_floats_as_knots() -> None:
    low = 1.0
    high = math.nextafter(low, 2.0)
    logits, shares = _knots(_fitted([(low, 0, 9), (low, 1, 1), (high, 1, 9), (high, 0, 1)]))
    assert logits == [low, high]
    assert shares == pytest.approx([0.1, 0.9], rel=1e-12)


def test_the_mean_of_one_logit_is_that_logit() -> None:
    numbers = np.random.default_rng(4)
    for low, first, second in zip(numbers.normal(size=100), *numbers.gamma(2.0, 1.0, (2, 100)), strict=True):
        logits_B = np.array([low, np.nextafter(low, np.inf)])  # (w z) / w often is a neighbour of z
        blocks = pool_adjacent_violators(logits_B, np.array([0.0, 1.0]), np.array([first, second]))
        assert np.array_equal(blocks.mean_logits_B, logits_B)


def test_shares_a_rounding_apart_whose_log_odds_round_the_other_way() -> None:
    positives_B, negatives_B = [1.8300691903320592, 5.490207570996177], [2.7032622788986567, 8.109786836695971]
    logits_C, labels_C = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([1, 1, 0, 0])
    weights_C = torch.tensor([*positives_B, *negatives_B], dtype=torch.float64)
    calibrator = fit_isotonic(logits_C, labels_C, weights_C, torch.zeros(4, 0))
    assert len(calibrator.knot_logits_B) == 2
    assert (calibrator.knot_log_odds_B.diff() >= 0).all()


@pytest.mark.parametrize(
    ("logits", "log_odds"),
    [
        ([], []),
        ([0.0, 1.0], [0.0]),
        ([1.0, 0.0], [0.0, 1.0]),
        ([0.0, 0.0], [0.0, 1.0]),
        ([0.0, 1.0], [1.0, 0.0]),
        ([0.0, math.inf], [0.0, 1.0]),
        ([0.0, 1.0], [0.0, math.nan]),
    ],
)
def test_knots_that_no_fit_gives_are_refused(logits: list[float], log_odds: list[float]) -> None:
    with pytest.raises(CalibrationError, match="knots"):
        Isotonic(torch.tensor(logits), torch.tensor(log_odds))
