"""Letters: G segments · C candidates."""

from __future__ import annotations

import numpy as np
import pytest

from rankwell.evaluation.calibration_sums import CalibrationSums
from rankwell.mitigation.bias_correction import ServedSpan, needed_offsets
from rankwell.mitigation.evidence import AsServed
from rankwell.monitoring.probability_grid import ProbabilityGrid


def as_served(p: float, clicks: int, num: int) -> AsServed:
    """Rows of one probability, each a request."""
    labels_C = np.arange(num) < clicks
    sums = CalibrationSums.of(np.full(num, p), labels_C, np.ones(num), request_C=np.arange(num))
    grid = ProbabilityGrid.of(np.full(num, p), segment_C=np.zeros(num, int), num_segments=1)
    return AsServed(needed_offsets([ServedSpan(np.zeros(1), sums, grid)]), sums)


def test_the_tolerance_is_one_of_the_ratio_and_not_of_the_odds() -> None:
    judged = as_served(0.5, 52_000, 100_000)
    assert judged.lacking.needed_G[0] == pytest.approx(np.log(0.52 / 0.48), abs=1e-3)  # .080, which is over ln 1.05
    assert judged.ratio_G[0] == pytest.approx(50 / 52, abs=1e-4)
    assert not judged.is_beyond(0.05)[0]
    assert judged.is_beyond(0.02)[0]


@pytest.mark.parametrize(
    ("clicks", "num", "is_beyond"), [(0, 0, False), (0, 20, False), (0, 2000, True), (1, 20, False)]
)
def test_few_clicks_are_no_verdict_and_none_of_many_is_one(clicks: int, num: int, is_beyond: bool) -> None:
    judged = as_served(0.1, clicks, num)
    assert judged.expected_G[0] == pytest.approx(0.1 * num)
    assert judged.is_beyond(0.05)[0] == is_beyond
