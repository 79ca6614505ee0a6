"""Letters: G segments · C candidates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.errors import MitigationError
from rankwell.evaluation.calibration_sums import CalibrationSums
from rankwell.mitigation.bias_correction import (
    BiasCorrection,
    NeededOffsets,
    ServedSpan,
    needed_offsets,
)
from rankwell.monitoring.probability_grid import ProbabilityGrid

NUMBERS = st.floats(-8, 8)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def span(logits_C: np.ndarray, clicks_C: np.ndarray, offset: float) -> ServedSpan:
    """One segment; each candidate a request; logits without a correction."""
    served_C = sigmoid(logits_C + offset)
    num = len(logits_C)
    sums = CalibrationSums.of(served_C, clicks_C, np.ones(num), request_C=range(num))
    return ServedSpan(np.array([offset]), sums, ProbabilityGrid.of(served_C, segment_C=[0] * num, num_segments=1))


def root_of(logits_C: np.ndarray, clicks_C: np.ndarray) -> tuple[float, float]:
    """The offset by its definition, row by row, and its standard error if clicks are independent."""
    low, high = -30.0, 30.0
    share = 1 + 0.5 / sigmoid(logits_C).sum()
    for _ in range(100):
        middle = (low + high) / 2
        is_short = share * sigmoid(logits_C + middle).sum() < clicks_C.sum() + 0.5
        low, high = (middle, high) if is_short else (low, middle)
    p_C = sigmoid(logits_C + low)
    return low, 1 / math.sqrt(share * float((p_C * (1 - p_C)).sum()))


@pytest.mark.parametrize("centre", [-8.0, -5.0, -2.0, 0.0, 1.5, 5.0])
@pytest.mark.parametrize("error", [math.log(3), -0.7, 0.0])
def test_what_is_needed_is_the_root_over_all_rows_of_spans_of_several_offsets(centre: float, error: float) -> None:
    rng = np.random.default_rng(0)
    spans, columns = [], []
    for offset in (0.0, -0.4, -error):
        logits_C = rng.normal(centre, 1.5, 20_000) + error  # the bundle's, off by the error
        clicks_C = (rng.random(len(logits_C)) < sigmoid(logits_C - error)).astype(np.float64)
        spans.append(span(logits_C, clicks_C, offset))
        columns.append((logits_C, clicks_C))
    found = needed_offsets(spans)
    root, noise = root_of(*map(np.concatenate, zip(*columns, strict=True)))
    farthest = max(abs(root - offset) for offset in (0.0, -0.4, -error))  # from where rows were served
    assert abs(found.needed_G[0] - root) < 0.005 * farthest
    assert found.noise_G[0] == pytest.approx(noise, rel=0.1)
    assert abs(found.needed_G[0] + error) < 4 * found.noise_G[0]


@given(
    st.lists(
        st.tuples(st.lists(st.tuples(st.floats(-12, 12), st.booleans()), max_size=12), st.floats(-2, 2)), min_size=1
    )
)
@settings(max_examples=150, derandomize=True, deadline=None)
def test_few_rows_of_any_probability_give_the_root_and_nothing_that_is_no_number(
    drawn: list[tuple[list[tuple[float, bool]], float]],
) -> None:
    rows = [(logit, float(label)) for pairs, _ in drawn for logit, label in pairs]
    spans = []
    for pairs, offset in drawn:
        logits_C, clicks_C = np.array(pairs, np.float64).reshape(-1, 2).T
        spans.append(span(logits_C, clicks_C, offset))
    found = needed_offsets(spans)
    assert np.isfinite([found.needed_G[0], found.z_G[0]]).all()
    if not rows:
        assert (found.needed_G[0], np.isinf(found.noise_G[0])) == (0, True)
        return
    root, _ = root_of(*np.array(rows).T)
    farthest = max(abs(root - offset) for _, offset in drawn)
    if farthest < 4:  # an offset is ±2 at most
        assert found.needed_G[0] == pytest.approx(root, abs=0.05 * farthest + 1e-6)
    assert found.noise_G[0] > 0


def test_spans_in_any_order_and_of_no_rows_change_nothing() -> None:
    rng = np.random.default_rng(3)
    logits_C = rng.normal(-1, 1, 3000)
    clicks_C = (rng.random(3000) < sigmoid(logits_C - 0.8)).astype(np.float64)
    spans = [span(logits_C[part::3], clicks_C[part::3], offset) for part, offset in enumerate((0.0, -0.5, -1.5))]
    nothing = span(np.zeros(0), np.zeros(0), -2.0)
    one, other = needed_offsets(spans), needed_offsets([nothing, *reversed(spans), nothing])
    for name in ("needed_G", "noise_G", "z_G"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9)


def test_clicks_of_one_request_that_depend_on_each_other_make_it_less_sure() -> None:
    rng = np.random.default_rng(4)
    clicks_Q = (rng.random(500) < 0.1).astype(np.float64)
    p_C, clicks_C = np.full(2000, 0.1), np.repeat(clicks_Q, 4)  # all four of a request, or none
    grid = ProbabilityGrid.of(p_C, segment_C=[0] * 2000, num_segments=1)
    noise = []
    for request_C in (np.arange(2000), np.repeat(np.arange(500), 4)):
        sums = CalibrationSums.of(p_C, clicks_C, np.ones(2000), request_C=request_C)
        noise.append(needed_offsets([ServedSpan(np.zeros(1), sums, grid)]).noise_G[0])
    assert noise[1] / noise[0] == pytest.approx(2, rel=0.1)  # √4


def test_where_nothing_is_known_nothing_is_needed() -> None:
    found = needed_offsets([ServedSpan(np.zeros(2), CalibrationSums.nothing(2), ProbabilityGrid.nothing(2))])
    assert found.needed_G.tolist() == [0, 0]
    assert np.isinf(found.noise_G).all()
    assert found.z_G.tolist() == [0, 0]
    assert BiasCorrection().next_offsets(found, np.array([-1.8, 0.0]), np.ones(2, bool)).tolist() == [
        pytest.approx(-0.3),
        0.0,
    ]
    with pytest.raises(MitigationError, match="no spans"):
        needed_offsets([])


@pytest.mark.parametrize("certain", [0.0, 1.0])
def test_probabilities_that_no_offset_moves_ask_for_none(certain: float) -> None:
    sums = CalibrationSums.of([certain] * 40, [1, 0] * 20, [1] * 40, request_C=range(40))
    grid = ProbabilityGrid.of([certain] * 40, segment_C=[0] * 40, num_segments=1)
    found = needed_offsets([ServedSpan(np.zeros(1), sums, grid)])
    assert (found.needed_G[0], np.isinf(found.noise_G[0])) == (0, True)
    assert BiasCorrection().targets(found, np.zeros(1), np.ones(1, bool)).tolist() == [0]


def test_no_click_of_many_expected_is_off_without_doubt() -> None:
    found = needed_offsets([span(np.full(2000, math.log(0.05 / 0.95)), np.zeros(2000), 0.0)])
    assert found.z_G[0] < -9
    assert np.isfinite(found.needed_G[0])


@given(
    st.lists(st.tuples(NUMBERS, st.floats(0.001, 10), st.floats(-20, 20), st.floats(-2, 2), st.booleans()), min_size=1),
    st.floats(0.06, 2), st.floats(0.06, 2),
)  # fmt: skip
@settings(max_examples=100, derandomize=True, deadline=None)
def test_bounds_and_steps_hold_whatever_is_seen(
    segments: list[tuple[float, float, float, float, bool]], largest: float, step: float
) -> None:
    needed_G, noise_G, z_G, before_G, accused_G = (np.array(column) for column in zip(*segments, strict=True))
    correction = BiasCorrection(largest_offset=largest, largest_step=step)
    before_G = np.clip(before_G, -largest, largest)
    after_G = correction.next_offsets(NeededOffsets(needed_G, noise_G, z_G), before_G, accused_G)
    assert (np.abs(after_G) <= largest).all()
    assert (np.abs(after_G - before_G) <= step + correction.smallest).all()
    assert ((after_G == 0) | (np.abs(after_G) >= correction.smallest)).all()


def test_two_thirds_that_agree_move_all_and_one_does_not() -> None:
    noise_G = np.full(8, 0.05)
    world_G = np.array([-0.3, -0.28, -0.33, -0.31, -0.29, -0.3, -0.32, 0.01])
    moved_G = BiasCorrection().targets(NeededOffsets(world_G, noise_G, world_G / 0.05), np.zeros(8), np.zeros(8, bool))
    assert (np.abs(moved_G[:7] + 0.3) < 0.05).all()
    assert moved_G[7] == 0
    one_G = np.array([-1.1, 0.04, -0.06, 0.02, 0.05, -0.03, 0.0, 0.01])
    moved_G = BiasCorrection().targets(NeededOffsets(one_G, noise_G, one_G / 0.05), np.zeros(8), np.zeros(8, bool))
    assert moved_G[0] == pytest.approx(-1.1, abs=0.01)
    assert (moved_G[1:] == 0).all()


def test_an_offset_is_held_to_its_own_side_alone() -> None:
    needed_G = np.array([0.14, 0.14])
    needed = NeededOffsets(needed_G, np.full(2, 0.07), needed_G / 0.07)  # z 2: held is from 1.5 on, new from 3 on
    target_G = BiasCorrection().targets(needed, np.array([0.5, -0.5]), np.ones(2, bool))
    # τ² = .14² − .07² of segment 0 alone: .14 · .0147 / (.0147 + .0049)
    assert target_G.tolist() == [pytest.approx(0.105), 0.0]


def test_two_that_are_far_off_and_one_that_is_a_little_are_not_the_world() -> None:
    # Hurt segments have more clicks, and weigh more: the weighted median is .12, and .67 of the weight is on its side.
    needed_G = np.array([0.83, 0.74, 0.12, -0.07, 0.01])
    noise_G = np.array([0.035, 0.035, 0.04, 0.05, 0.05])
    assert (1 / noise_G)[:3].sum() / (1 / noise_G).sum() > 2 / 3
    assert 4 * math.sqrt(math.pi / 2 / float((noise_G**-2.0).sum())) < 0.12  # it is no chance by itself
    moved_G = BiasCorrection().targets(
        NeededOffsets(needed_G, noise_G, needed_G / noise_G), np.zeros(5), np.zeros(5, bool)
    )
    assert (moved_G[:2] > 0.7).all()
    assert moved_G[2:].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "wrong", [{"largest_offset": 2.1}, {"largest_step": 0.0}, {"gate": 1.0}, {"smallest": 3.0}, {"gate_held": 0.0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(MitigationError):
        BiasCorrection(**wrong)
