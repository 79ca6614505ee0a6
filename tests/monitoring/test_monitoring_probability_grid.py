"""Against sums over raw rows. Letters: C rows · G segments · B bins."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.errors import MonitoringError
from rankwell.monitoring.probability_grid import NUM_BINS, ProbabilityGrid

PROBABILITIES = st.lists(st.floats(0, 1), max_size=60)


def moved(probabilities: list[float], offset: float) -> list[float]:
    return [p * math.exp(offset) / (1 - p + p * math.exp(offset)) for p in probabilities]


@given(PROBABILITIES, st.floats(-2, 2))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_a_grid_promises_what_its_rows_do_whatever_they_are(probabilities: list[float], offset: float) -> None:
    grid = ProbabilityGrid.of(probabilities, segment_C=[0] * len(probabilities), num_segments=1)
    found_G, slope_G = grid.moved(np.array([offset]))
    plain = moved(probabilities, offset)
    # A bin's rows lie within ±.25 of log-odds of its middle; odds are exact at the ends, where bins are wide.
    assert found_G[0] == pytest.approx(sum(plain), rel=0.02, abs=0.03 * len(probabilities) * abs(offset) + 1e-12)
    assert 0 <= slope_G[0] <= len(probabilities) / 4
    assert grid.moved(np.zeros(1))[0][0] == pytest.approx(sum(probabilities), rel=1e-9)


@pytest.mark.parametrize("centre", [-7.0, -4.0, -1.5, 0.0, 2.0, 6.0])
@pytest.mark.parametrize("offset", [-2.0, -1.1, 0.5, 2.0])
def test_an_offset_that_is_solved_for_is_right_within_half_a_percent(centre: float, offset: float) -> None:
    rng = np.random.default_rng(0)
    p_C = 1 / (1 + np.exp(-rng.normal(centre, 1.2, 20_000)))
    grid = ProbabilityGrid.of(p_C, segment_C=np.zeros(20_000, int), num_segments=1)
    wanted = sum(moved(p_C.tolist(), offset))
    expected_G, slope_G = grid.moved(np.array([offset]))
    assert abs(expected_G[0] - wanted) / slope_G[0] < 0.005 * abs(offset)


def test_grids_add_up_and_segments_are_kept_apart() -> None:
    rng = np.random.default_rng(1)
    p_C, segment_C = rng.random(500), rng.integers(0, 3, 500)
    whole = ProbabilityGrid.of(p_C, segment_C=segment_C, num_segments=4)
    first = ProbabilityGrid.of(p_C[:200], segment_C=segment_C[:200], num_segments=4)
    both = first + ProbabilityGrid.of(p_C[200:], segment_C=segment_C[200:], num_segments=4)
    np.testing.assert_array_equal(both.rows_GB, whole.rows_GB)
    np.testing.assert_allclose(both.totals_GB, whole.totals_GB, rtol=1e-12)
    assert whole.rows_GB.sum(axis=1).tolist() == [*np.bincount(segment_C).tolist(), 0]
    with pytest.raises(MonitoringError, match="different segments"):
        whole + ProbabilityGrid.nothing(3)


def test_no_rows_and_the_ends() -> None:
    nothing = ProbabilityGrid.of([], segment_C=[], num_segments=2)
    assert [values_G.tolist() for values_G in nothing.moved(np.array([3.0, -3.0]))] == [[0, 0], [0, 0]]
    ends = ProbabilityGrid.of([0.0, 1.0, 1e-300, 1 - 1e-16], segment_C=[0, 0, 0, 0], num_segments=1)
    assert ends.rows_GB[0, [0, NUM_BINS - 1]].tolist() == [2, 2]
    assert ends.moved(np.array([20.0]))[0][0] == pytest.approx(2.0)
    assert ends.moved(np.array([-20.0]))[0][0] == pytest.approx(2.0, abs=1e-6)
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(MonitoringError, match="no probability"):
            ProbabilityGrid.of([0.5, wrong], segment_C=[0, 0], num_segments=1)
