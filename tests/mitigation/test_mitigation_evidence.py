"""Letters: G segments · C candidates."""

from __future__ import annotations

import numpy as np
import pytest

from rankwell.evaluation.calibration_sums import CalibrationSums
from rankwell.mitigation.bias_correction import ServedSpan, needed_offsets
from rankwell.mitigation.evidence import AsServed, Evidence, Seen
from rankwell.mitigation.mitigation_plan import MitigationPlan
from rankwell.mitigation.mitigation_state import InForce, LoopState
from rankwell.monitoring.outcome_pane import OutcomePane
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


def test_what_has_changed_did_so_in_the_minute_from_which_on_clicks_are_other() -> None:
    """A hundred rows of p .1 a minute, served as .18 by an offset of ln 2: 18 clicks until minute 4, and 10 since."""
    minute_C = np.repeat(np.arange(15), 100)
    row_C = np.arange(1500) % 100
    clicks_C = row_C < np.where(minute_C < 4, 18, 10)
    segment_C = np.full(1500, 3)
    outcomes = OutcomePane.of(
        "click", times_us_C=minute_C * 60_000_000, request_C=np.arange(1500), segment_C=segment_C,
        probabilities_C=np.full(1500, 0.2 / 1.1), labels_C=clicks_C, propensity_C=np.ones(1500),
        price_micros_C=np.zeros(1500),
    )  # fmt: skip
    plan = MitigationPlan(action="click", feature="title", segments=(3, 7))
    state = LoopState(history=(InForce(from_us=0, offsets={3: np.log(2)}),))
    evidence = Evidence(plan, state, Seen(readings=(), outcomes=outcomes, settled_us=15 * 60_000_000, bundle_id="b"))
    needed_G, is_asked_G = np.array([0.1, 0.0]), np.array([True, True])
    assert evidence.changed_us(0, needed_G, is_asked_G) == 4 * 60_000_000
    assert evidence.changed_us(60_000_000, needed_G, is_asked_G) == 4 * 60_000_000
    assert evidence.changed_us(9 * 60_000_000, needed_G, is_asked_G) == 9 * 60_000_000
    assert evidence.changed_us(15 * 60_000_000, needed_G, is_asked_G) == 15 * 60_000_000  # no minute is left
