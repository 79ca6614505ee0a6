"""A canary whose odds are three times too high: it is accused, and the bundle that answers beside it is not."""

from __future__ import annotations

import numpy as np

from rankwell.monitoring.calibration_watch import CalibrationWatch, sums_of_day
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.tick_history import TICK_US, TICKS_PER_DAY
from rankwell.monitoring.trial_readings import TRIAL, bundle_on_trial, trial_readings

DAY_US = TICKS_PER_DAY * TICK_US
WATCH = CalibrationWatch(num_series=4)


def drawn(num: int, factor: float, *, seed: int, from_tick: int = 0) -> OutcomePane:
    """So many rows of segments 3 and 7 in each quarter-hour of a day; segment 7 is promised odds times the factor."""
    rng, pane = np.random.default_rng(seed), OutcomePane.nothing("click")
    for tick in range(from_tick, TICKS_PER_DAY):
        segment_C = np.repeat([3, 7], num)
        odds_C = np.exp(rng.normal(-1.5, 0.5, 2 * num))
        promised_C = odds_C * np.where(segment_C == 7, factor, 1.0)
        pane += OutcomePane.of(
            "click", times_us_C=np.full(2 * num, tick * TICK_US), request_C=np.arange(2 * num), segment_C=segment_C,
            probabilities_C=promised_C / (1 + promised_C), labels_C=rng.random(2 * num) < odds_C / (1 + odds_C),
            propensity_C=np.ones(2 * num), price_micros_C=np.zeros(2 * num),
        )  # fmt: skip
    return pane


def accused(pane: OutcomePane) -> set[int]:
    sums_T = sums_of_day(pane, "served", [3, 7], DAY_US)
    readings = WATCH.readings(sums_T, action="click", view="served", segments=[3, 7], now_us=DAY_US)
    return {reading.segment for reading in readings if reading.is_alarm}


def test_a_canary_is_accused_where_it_is_off_and_what_answers_beside_it_is_not() -> None:
    main, canary = drawn(120, 1.0, seed=0), drawn(40, 3.0, seed=1, from_tick=90)
    assert accused(main) == set()
    readings = trial_readings(WATCH, {"c0": canary}, [3, 7], settled_us=DAY_US)
    assert {(reading.name, reading.column) for reading in readings} == {(TRIAL, "click of c0")}
    alarms = [reading for reading in readings if reading.is_alarm]
    assert [(reading.segment, bundle_on_trial(reading)) for reading in alarms] == [(7, "c0")]
    assert alarms[0].window_start_us >= 89 * TICK_US
    whole_day = drawn(40, 3.0, seed=1)
    assert accused(main + whole_day) == {7}, "together they would be held against the bundle that is right"


def test_a_canary_that_is_right_is_left_in_peace() -> None:
    canaries = {f"c{seed}": drawn(10, 1.0, seed=seed, from_tick=60) for seed in range(10)}
    readings = trial_readings(WATCH, canaries, [3, 7], settled_us=DAY_US)
    assert len(readings) == 20
    assert not any(reading.is_alarm for reading in readings)


def test_trials_that_are_over_or_were_none_say_nothing() -> None:
    assert trial_readings(WATCH, {}, [3, 7], settled_us=DAY_US) == []
    ended = {"c0": drawn(40, 3.0, seed=1), "c1": OutcomePane.nothing("click")}
    assert any(reading.is_alarm for reading in trial_readings(WATCH, ended, [3, 7], settled_us=DAY_US))
    hour_us = 4 * TICK_US
    assert trial_readings(WATCH, ended, [3, 7], settled_us=DAY_US + hour_us) == []
    last = trial_readings(WATCH, ended, [3, 7], settled_us=DAY_US + hour_us - TICK_US)
    assert [reading.segment for reading in last if reading.is_alarm] == [7]
    other = trial_readings(WATCH, ended, [5], settled_us=DAY_US)
    assert not any(reading.is_alarm for reading in other), "none of its rows are of that segment"
