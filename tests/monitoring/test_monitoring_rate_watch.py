"""Rates of segments against clicks that are drawn: found where they move, quiet where they don't, exact as counts."""

from __future__ import annotations

import numpy as np
import pytest

from rankwell.errors import MonitoringError
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.pane import MINUTE_US
from rankwell.monitoring.pane_layout import CategoricalBins
from rankwell.monitoring.rate_watch import RateWatch
from rankwell.monitoring.reading import Reading
from rankwell.monitoring.tick_history import TICK_US, TICKS_PER_DAY

BINS = CategoricalBins(name="skill", top=(3, 7))
END_US = (TICKS_PER_DAY + 8) * TICK_US


def drawn(rate_7: float, *, seed: int = 0, mood: float = 0.0) -> OutcomePane:
    """Ten requests of four rows a minute; skill 7 is clicked at another rate in the last hour."""
    rng = np.random.default_rng(seed)
    minute_R = np.repeat(np.arange(END_US // MINUTE_US), 10)
    request_C = np.repeat(np.arange(len(minute_R)), 4)
    segment_C = np.tile([3, 3, 7, 7], len(minute_R))
    minute_C = minute_R[request_C]
    is_moved_C = (minute_C * MINUTE_US >= END_US - 4 * TICK_US) & (segment_C == 7)
    rate_C = np.where(is_moved_C, rate_7, 0.1) * np.exp(mood * rng.normal(size=len(minute_R)))[request_C]
    return OutcomePane.of(
        "click", times_us_C=minute_C * MINUTE_US, request_C=request_C, segment_C=segment_C,
        probabilities_C=np.full(len(rate_C), 0.1), labels_C=rng.random(len(rate_C)) < rate_C,
        propensity_C=np.ones(len(rate_C)), price_micros_C=np.full(len(rate_C), np.nan),
    )  # fmt: skip


def accused(readings: list[Reading]) -> set[int]:
    return {reading.segment for reading in readings if reading.is_alarm}


def test_a_rate_that_moves_is_found_in_its_segment_and_not_in_others() -> None:
    for rate in (0.2, 0.04):
        found = RateWatch(BINS).readings(drawn(rate), END_US)
        assert 7 in accused(found)
        assert 3 not in accused(found)
    assert {reading.name for reading in found} == {"rate"}
    assert {reading.column for reading in found} == {"click"}


def test_rates_that_stay_are_quiet_also_where_clicks_of_a_request_depend() -> None:
    assert not any(accused(RateWatch(BINS).readings(drawn(0.1, seed=seed, mood=0.8), END_US)) for seed in range(10))


def test_the_value_is_psi_of_clicked_and_not() -> None:
    outcomes = drawn(0.2)
    hour, before = outcomes.between(END_US - 4 * TICK_US, END_US), outcomes.between(0, END_US - 4 * TICK_US)
    before = before.between(END_US - (TICKS_PER_DAY + 4) * TICK_US, END_US)
    [reading] = [
        one for one in RateWatch(BINS).readings(outcomes, END_US) if one.segment == 7 and one.window_s == 3_600
    ]  # fmt: skip
    counts = []
    for pane in (before, hour):
        mine_N = pane.segments_N == 7
        clicks = int(pane.observed_N[mine_N].sum())
        counts.append(np.array([int(pane.num_rows_N[mine_N].sum()) - clicks, clicks, 0]))
    assert reading.num_rows == counts[1].sum() == 60 * 10 * 2
    was_B, is_B = ((counts_B + 0.5) / (counts_B + 0.5).sum() for counts_B in counts)
    by_hand = float(((is_B - was_B) * np.log(is_B / was_B)).sum())
    assert reading.value == pytest.approx(by_hand, rel=0.02)  # half a row in the bin for missing ones apart


def test_nothing_shown_is_nothing_said_and_times_are_minutes() -> None:
    nothing = OutcomePane.nothing("click")
    assert not accused(RateWatch(BINS).readings(nothing, END_US))
    assert not accused(RateWatch(None).readings(nothing, END_US))
    with pytest.raises(MonitoringError):
        RateWatch(BINS).readings(nothing, END_US + 1)
