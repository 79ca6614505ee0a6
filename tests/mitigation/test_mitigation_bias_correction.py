"""Letters: G segments · C candidates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.calibration.pane import LogitPane
from rankwell.errors import MitigationError
from rankwell.evaluation.calibration_sums import CalibrationSums
from rankwell.mitigation.bias_correction import (
    BiasCorrection,
    NeededOffsets,
    ServedSpan,
    needed_offsets,
    root_offset,
    with_roots,
)

NUMBERS = st.floats(-8, 8)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def span(logits_C: np.ndarray, clicks_C: np.ndarray, offset: float) -> ServedSpan:
    """One segment; each candidate a request."""
    served_C = sigmoid(logits_C + offset)
    sums = CalibrationSums.of(served_C, clicks_C, np.ones(len(logits_C)), request_C=range(len(logits_C)))
    return ServedSpan(np.array([offset]), sums, np.array([(served_C**2).sum()]))


@pytest.mark.parametrize("centre", [-5.0, -2.0, 0.0, 1.5])
@pytest.mark.parametrize("error", [math.log(3), -0.7, 0.0])
def test_what_is_needed_is_found_from_spans_of_several_offsets(centre: float, error: float) -> None:
    rng = np.random.default_rng(0)
    spans, pane = [], None
    for offset in (0.0, -0.4, -error):
        logits_C = rng.normal(centre, 0.5, 40_000) + error  # the bundle's, off by the error
        clicks_C = (rng.random(len(logits_C)) < sigmoid(logits_C - error)).astype(np.float64)
        spans.append(span(logits_C, clicks_C, offset))
        no_segments_CS = torch.zeros(len(logits_C), 0, dtype=torch.int64)
        columns = (torch.from_numpy(logits_C), torch.from_numpy(clicks_C), torch.ones(len(logits_C)))
        part = LogitPane.of(*columns, no_segments_CS)
        pane = part if pane is None else pane + part
    found = needed_offsets(spans)
    assert abs(found.needed_G[0] + error) < 4 * found.noise_G[0] + 0.03
    assert pane is not None
    exact = with_roots(found, [pane])
    assert abs(exact.needed_G[0] + error) < 4 * exact.noise_G[0]


@given(st.lists(st.floats(-4, 3), min_size=1, max_size=20), st.floats(-2, 2))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_the_logarithm_never_shoots_over_the_root(logits: list[float], root: float) -> None:
    logits_C = np.array(logits)
    ratio = math.log(sigmoid(logits_C + root).sum() / sigmoid(logits_C).sum())
    assert abs(ratio) <= abs(root) + 1e-12
    assert ratio * root >= 0


def test_the_root_is_that_of_the_definition() -> None:
    logits_C = torch.tensor([-1.0, 0.5, 2.0, 0.1], dtype=torch.float64)
    pane = LogitPane.of(logits_C, torch.tensor([1.0, 1, 0, 1]), torch.full((4,), 50.0), torch.zeros(4, 0).long())
    delta, slope = root_offset(pane)
    p_C = torch.sigmoid(logits_C + delta)
    assert 50 * float(p_C.sum()) == pytest.approx(150 * (1 - 1 / 200) + 0.5)
    assert slope == pytest.approx(50 * float((p_C * (1 - p_C)).sum()))


def test_where_nothing_is_known_nothing_is_needed() -> None:
    found = needed_offsets([ServedSpan(np.zeros(2), CalibrationSums.nothing(2))])
    assert found.needed_G.tolist() == [0, 0]
    assert np.isinf(found.noise_G).all()
    assert found.z_G.tolist() == [0, 0]
    assert BiasCorrection().next_offsets(found, np.array([-1.5, 0.0]), np.ones(2, bool)).tolist() == [-0.5, 0.0]
    with pytest.raises(MitigationError, match="no spans"):
        needed_offsets([])


def test_no_click_of_many_expected_is_off_without_doubt() -> None:
    none = CalibrationSums.of([0.05] * 2000, [0] * 2000, [1] * 2000, request_C=range(2000))
    found = needed_offsets([ServedSpan(np.zeros(1), none)])
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


@pytest.mark.parametrize(
    "wrong", [{"largest_offset": 2.1}, {"largest_step": 0.0}, {"gate": 1.0}, {"smallest": 3.0}, {"gate_held": 0.0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(MitigationError):
        BiasCorrection(**wrong)
