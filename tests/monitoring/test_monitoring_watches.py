"""Watches of drift and of calibration: what they say of quiet hours, of moved ones, and of nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from rankwell.errors import MonitoringError
from rankwell.evaluation.calibration_sums import CalibrationSums
from rankwell.monitoring.alarm_runs import AlarmRuns
from rankwell.monitoring.alarm_threshold import AlarmPromise
from rankwell.monitoring.baseline import Baseline, HeldDays, LastDay, SameHours
from rankwell.monitoring.calibration_watch import CalibrationWatch
from rankwell.monitoring.divergences import kl_divergence, psi
from rankwell.monitoring.drift_watch import DriftWatch
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.moment_shifts import mean_shift
from rankwell.monitoring.pane import MINUTE_US, Pane
from rankwell.monitoring.pane_layout import ALL_ROWS, CategoricalBins, NumericBins, PaneLayout
from rankwell.monitoring.silence import silence

DAY_US = 86_400_000_000
HOUR_US = DAY_US // 24
LAYOUT = PaneLayout(
    columns=(
        NumericBins.of_values("logit", np.random.default_rng(0).normal(size=5000)),
        CategoricalBins(name="city", top=(0, 1, 2, 3, 4)),
    ),
    segments=CategoricalBins(name="country", top=(0, 1)),
)


def pane(num_days: int, *, shift: float = 0.0, of_country: int = 0, seed: int = 1) -> Pane:
    """200 requests of 8 rows an hour; in the last hour the logits of one country are moved."""
    rng = np.random.default_rng(seed)
    times_us_R = np.sort(rng.integers(0, num_days * DAY_US, num_days * 24 * 200))
    country_C, times_us_C = np.repeat(rng.integers(0, 2, len(times_us_R)), 8), np.repeat(times_us_R, 8)
    moved_C = (times_us_C >= num_days * DAY_US - HOUR_US) & (country_C == of_country)
    columns = {
        "logit": rng.normal(size=len(times_us_C)) + shift * moved_C,
        "city": rng.integers(0, 5, len(times_us_C)),
        "country": country_C,
    }
    return Pane.of(LAYOUT, FlatRows(times_us_C, columns))


@pytest.mark.parametrize(
    ("baseline", "num_days"), [(LastDay(), 2), (SameHours(num_days=5), 6), (HeldDays(num_days=5), 6)]
)
def test_it_finds_what_moved_and_where(baseline: Baseline, num_days: int) -> None:
    watch = DriftWatch(LAYOUT, baseline)
    now_us = num_days * DAY_US
    assert not any(reading.is_alarm for reading in watch.readings(pane(num_days), now_us))
    readings = watch.readings(pane(num_days, shift=1.0), now_us)
    alarms = {(reading.name, reading.column, reading.segment) for reading in readings if reading.is_alarm}
    assert {("psi", "logit", 0), ("psi", "logit", ALL_ROWS), ("mean_shift", "logit", 0)} <= alarms
    assert not any(column == "city" or segment == 1 for _, column, segment in alarms)
    assert all(reading.minimum_detectable > 0 for reading in readings)


def test_no_alarm_comes_with_the_days_that_make_the_same_hours_known() -> None:
    """Panes from Thursday, 1 January 1970, on: after Tuesday's first quarter-hour three working days have had it."""
    held, watch = pane(7), DriftWatch(LAYOUT)
    kinds = []
    for tick in range(-8, 9):
        now_us = 5 * DAY_US + tick * HOUR_US // 4
        readings = watch.readings(held.between(0, now_us), now_us)
        assert not any(reading.is_alarm for reading in readings)
        kinds.append(max(reading.num_reference_rows for reading in readings) > 24 * 1600 - 500)
    assert kinds == [True] * 9 + [False] * 8, "a day of rows before, the rows of some hours of three days after"


def test_its_numbers_are_those_of_the_statistics() -> None:
    held = pane(2, shift=0.3)
    for reading in DriftWatch(LAYOUT, kl_too=True).readings(held, 2 * DAY_US):
        before = held.between(2 * DAY_US - 25 * HOUR_US, 2 * DAY_US - HOUR_US)
        segment = None if reading.segment == ALL_ROWS else reading.segment
        counts = before.column(reading.column, segment=segment)
        now = held.between(reading.window_start_us, reading.window_end_us).column(reading.column, segment=segment)
        assert (reading.num_rows, reading.num_reference_rows) == (now.num_rows, counts.num_rows)
        if reading.name == "psi":
            assert reading.value == pytest.approx(psi(counts, now), rel=1e-9)
        elif reading.name == "kl":
            assert reading.value == pytest.approx(kl_divergence(counts, now), rel=1e-9)
        else:
            assert reading.value == pytest.approx(mean_shift(counts, now), rel=0.02, abs=1e-3)


def test_kl_stands_beside_psi_with_a_limit_of_its_own_and_takes_nothing_of_the_promise() -> None:
    held = pane(2, shift=1.0)
    alone = DriftWatch(LAYOUT).readings(held, 2 * DAY_US)
    readings = DriftWatch(LAYOUT, kl_too=True).readings(held, 2 * DAY_US)
    assert [reading for reading in readings if reading.name != "kl"] == alone
    psi_of = {(one.column, one.segment, one.window_s): one for one in alone if one.name == "psi"}
    beside = [reading for reading in readings if reading.name == "kl"]
    assert len(beside) == len(psi_of)
    assert not any(reading.is_alarm for reading in beside)
    for reading in beside:
        other = psi_of[reading.column, reading.segment, reading.window_s]
        assert reading.limit == pytest.approx(other.limit / 2, rel=0.25)
        assert (reading.value > reading.limit) == other.is_alarm


def test_older_panes_may_be_of_whole_quarter_hours() -> None:
    held, tick_us = pane(6, shift=0.2), 15 * 60_000_000
    coarse = Pane.nothing(LAYOUT)
    for start_us in range(0, 4 * DAY_US, tick_us):
        part = held.between(start_us, start_us + tick_us)
        minutes_N = np.full(len(part), start_us // 60_000_000)
        coarse += Pane(LAYOUT, minutes_N, part.segments_N, part.counts, part.sums)
    summed = coarse + held.between(4 * DAY_US, 6 * DAY_US)
    watch = DriftWatch(LAYOUT, SameHours(num_days=5))
    pairs = zip(watch.readings(held, 6 * DAY_US), watch.readings(summed, 6 * DAY_US), strict=True)
    for one, other in pairs:
        assert other.value == pytest.approx(one.value, rel=1e-9)
        assert other.limit == pytest.approx(one.limit, rel=1e-9)


def test_it_says_nothing_of_nothing() -> None:
    watch = DriftWatch(LAYOUT)
    assert not any(reading.is_alarm for reading in watch.readings(Pane.nothing(LAYOUT), 2 * DAY_US))
    assert not any(reading.is_alarm for reading in watch.readings(pane(1), 3 * DAY_US))
    vanished = watch.readings(pane(2).between(0, 2 * DAY_US - HOUR_US), 2 * DAY_US)
    assert all(np.isnan(reading.value) and not reading.is_alarm for reading in vanished)
    with pytest.raises(MonitoringError, match="another layout"):
        watch.readings(Pane.nothing(PaneLayout(columns=())), 0)
    with pytest.raises(MonitoringError, match="minute"):
        watch.readings(Pane.nothing(LAYOUT), 1)


def test_a_feature_that_is_nan_from_now_on_is_an_alarm_and_one_that_always_was_is_none() -> None:
    rng = np.random.default_rng(5)
    times_us_C = np.repeat(np.sort(rng.integers(0, 2 * DAY_US, 9_600)), 8)
    columns = {"city": rng.integers(0, 5, len(times_us_C)), "country": np.zeros(len(times_us_C), np.int64)}
    for since_us, found in ((2 * DAY_US - HOUR_US, {("psi", "logit")}), (0, set())):
        logit_C = np.where(times_us_C >= since_us, np.nan, rng.normal(size=len(times_us_C)))
        held = Pane.of(LAYOUT, FlatRows(times_us_C, {**columns, "logit": logit_C}))
        readings = DriftWatch(LAYOUT).readings(held, 2 * DAY_US)
        assert {(one.name, one.column) for one in readings if one.is_alarm} == found
        assert all(
            np.isnan(one.value) or one.value == 0 for one in readings if one.name == "mean_shift" and not since_us
        )


@pytest.mark.parametrize("country", [0, 7])
def test_a_segment_that_vanishes_or_appears_is_an_alarm_of_the_mix(country: int) -> None:
    """Country 0 is gone in the last hour; or country 7, which the layout does not know, has come in its place."""
    mixed = PaneLayout(columns=(*LAYOUT.columns, CategoricalBins(name="country", top=(0, 1))), segments=LAYOUT.segments)
    rng = np.random.default_rng(3)
    times_us_C = np.repeat(np.sort(rng.integers(0, 2 * DAY_US, 9_600)), 8)
    country_C = np.repeat(rng.integers(0, 2, 9_600), 8)
    is_late_C = times_us_C >= 2 * DAY_US - HOUR_US
    columns = {"logit": rng.normal(size=len(times_us_C)), "city": rng.integers(0, 5, len(times_us_C))}
    rows = FlatRows(times_us_C, {**columns, "country": np.where(is_late_C & (country_C == 0), country, country_C)})
    is_kept_C = ~is_late_C | (country_C == 1) if country == 0 else np.full(len(country_C), True)
    readings = DriftWatch(mixed).readings(Pane.of(mixed, rows.kept(is_kept_C)), 2 * DAY_US)
    alarms = {(one.name, one.column, one.segment) for one in readings if one.is_alarm}
    assert alarms == {("psi", "country", ALL_ROWS)}


@pytest.mark.parametrize(
    ("minutes", "now", "value", "limit", "is_alarm"),
    [
        ([], 1_000, math.nan, math.inf, False),  # nothing was ever served
        (range(30), 1_000, 970.0, math.inf, False),  # for too short a time to say
        (range(900), 905, 5.0, 10.0, False),
        (range(900), 915, 15.0, 10.0, True),
        (range(900), 899, 0.0, 10.0, False),  # a request of a clock that is ahead
        ([*range(300), *range(420, 900)], 1_200, 300.0, 360.0, False),  # it slept for two hours of the night
        ([*range(300), *range(420, 900)], 1_300, 400.0, 360.0, True),
        ([*range(300), *range(420, 2_000)], 2_030, 30.0, 10.0, True),  # more than a day ago: forgotten
    ],
)
def test_a_pause_is_an_alarm_where_it_is_longer_than_those_of_the_day_before(
    minutes: Sequence[int], now: int, value: float, limit: float, is_alarm: bool
) -> None:
    minutes_C = np.array(minutes, np.int64)
    layout = PaneLayout(columns=LAYOUT.columns[:1])
    held = Pane.of(layout, FlatRows(minutes_C * MINUTE_US, {"logit": np.zeros(len(minutes_C))}))
    reading = silence(held, now * MINUTE_US)
    np.testing.assert_equal((reading.value, reading.limit, reading.is_alarm), (value, limit, is_alarm))


def test_the_promise_is_shared_by_all_that_is_tested() -> None:
    promise = AlarmPromise(days_per_false_alarm=7)
    # Expected passes of a week, one alarm being a little more than one pass.
    assert 1 < promise.level(100) * 100 * 96 * 7 < 1.5
    assert promise.level(100, num_standing=1) == pytest.approx(2 * promise.level(100))
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(MonitoringError):
            AlarmPromise(days_per_false_alarm=bad)


def test_one_long_disturbance_is_one_alarm_and_survives_a_restart() -> None:
    watch, runs, raised = DriftWatch(LAYOUT), AlarmRuns(), 0
    held = pane(2, shift=1.0)
    for now_us in range(2 * DAY_US - HOUR_US // 2, 2 * DAY_US + 1, HOUR_US // 4):
        runs, new = AlarmRuns.from_json(runs.to_json()).after(watch.readings(held, now_us), now_us=now_us)
        raised += sum(run.column == "logit" and run.segment == 0 and run.name == "psi" for run in new)
    assert raised == 1
    assert runs.after([], now_us=2 * DAY_US + HOUR_US)[0].standing == runs.standing
    assert runs.after([], now_us=2 * DAY_US + 2 * HOUR_US)[0].standing == ()
    with pytest.raises(MonitoringError, match="alarms in force"):
        AlarmRuns.from_json("[]")


def calibrated(factor: float, rng: np.random.Generator, num: int = 400) -> CalibrationSums:
    """Two segments of 400 requests of one row; the second's odds are off by a factor."""
    p_C = np.full(2 * num, 0.05)
    labels_C = rng.random(2 * num) < p_C
    p_C[num:] *= factor
    return CalibrationSums.of(
        p_C, labels_C, np.ones(2 * num), request_C=np.arange(2 * num),
        segment_C=np.repeat([0, 1], num), num_segments=2,
    )  # fmt: skip


def test_calibration_that_is_lost_in_one_segment_is_found_there_and_since_when() -> None:
    rng = np.random.default_rng(0)
    panes = [calibrated(1.0, rng) for _ in range(96)] + [calibrated(3.0, rng) for _ in range(3)]
    watch = CalibrationWatch(num_series=4)
    right, wrong = watch.readings(panes, action="click", view="scored", segments=[7, 8], now_us=DAY_US)
    assert (right.is_alarm, wrong.is_alarm) == (False, True)
    assert (wrong.name, wrong.column, wrong.segment) == ("calibration_scored", "click", 8)
    assert wrong.value > wrong.limit
    assert (wrong.window_s, wrong.num_rows) == (3 * 900, 1200)
    assert 0 < wrong.minimum_detectable < 0.6


def test_an_error_below_the_tolerance_is_no_alarm_however_sure() -> None:
    rng = np.random.default_rng(0)
    panes = [calibrated(1.0, rng, 4000) for _ in range(20)] + [calibrated(1.07, rng, 100_000) for _ in range(20)]
    _, off = CalibrationWatch(num_series=2).readings(panes, action="a", view="served", segments=[0, 1], now_us=0)
    assert off.value > off.limit
    assert not off.is_alarm


def test_calibration_of_nothing() -> None:
    watch = CalibrationWatch(num_series=1)
    for panes in ([], [CalibrationSums.nothing()] * 5):
        [reading] = watch.readings(panes, action="click", view="served", segments=[ALL_ROWS], now_us=0)
        assert (reading.is_alarm, reading.num_rows, reading.minimum_detectable) == (False, 0, np.inf)
    with pytest.raises(MonitoringError, match="other segments"):
        watch.readings([CalibrationSums.nothing(2)], action="click", view="served", segments=[1], now_us=0)
    with pytest.raises(MonitoringError, match="nothing to watch"):
        CalibrationWatch(num_series=0)
