"""The verdict of a drill against drills that are written down by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rankwell.mitigation.mitigation_state import Decision
from rankwell.mitigation.watch_round import RoundReport
from rankwell.monitoring.reading import Reading
from rankwell.monitoring.tick_history import TICK_US
from rankwell.simulation.incident import Incident
from rankwell.simulation.incident_calibration_bug import CalibrationBug
from rankwell.simulation.incident_quiet import Quiet
from rankwell.simulation.incident_unit_change import UnitChange
from rankwell.studies.drill import Drill, DrillSettings
from rankwell.studies.drill_verdict import judged
from rankwell.studies.drill_window import DrillWindow, money

SEGMENTS = (2, 3)
ONSET_US = 1_000 * TICK_US
SPEND = {2: 750, 3: 250}


def reading(name: str, column: str, segment: int, value: float, *, end_us: int = 0) -> Reading:
    return Reading(
        name=name, column=column, segment=segment, value=value, unit="nats", limit=0.1, p_value=1e-9,
        minimum_detectable=0.1, num_rows=500, num_reference_rows=5_000, window_start_us=end_us - TICK_US,
        window_end_us=end_us, is_alarm=value > 0.1,
    )  # fmt: skip


def window(number: int, factor: float, *, healthy: float = 1.0, correction: str | None = None) -> DrillWindow:
    """Segment 3 promises `factor` times the truth, 3 times without a correction; a bid is 10."""
    return DrillWindow.of(
        start_us=ONSET_US + number * TICK_US, segments=SEGMENTS, segment_C=np.array([2, 3]), bids_C=np.array([10, 10]),
        true_C=np.array([0.2, 0.1]), promised_C=np.array([0.2 * healthy, 0.1 * factor]),
        without_C=np.array([0.2, 0.3]), oracle_C=np.array([0.2, 0.1]), num_requests=1,
        correction_ids=frozenset() if correction is None else frozenset({correction}),
    )  # fmt: skip


def report(number: int, *readings: Reading, kind: str | None = None) -> RoundReport:
    decisions = () if kind is None else (Decision(sequence=1, now_us=0, kind=kind, reason="r"),)  # type: ignore[arg-type]
    return RoundReport(ONSET_US + number * TICK_US, 0, readings, (), decisions, SPEND)


DRIFT = reading("psi", "served_probability_click", 3, 0.9)
CLICKS = reading("calibration_served", "click", 3, 9.0)


def drill(*windows: DrillWindow, rounds: list[RoundReport], incident: Incident | None = None) -> Drill:
    settings = DrillSettings(num_hurt=len(windows) - 1, num_after=1)
    fixed_us = ONSET_US + (len(windows) - 1) * TICK_US
    made = Drill(incident or CalibrationBug(), settings, ONSET_US, fixed_us, SEGMENTS)
    made.windows, made.rounds, made.pick_up_s = list(windows), rounds, [0.1]
    return made


def mastered(*, healthy: float = 1.0, last: str | None = None) -> Drill:
    """Drift after one quarter-hour, clicks and a correction after three, right after four, mended after six."""
    windows = [window(k, 3.0) for k in range(3)] + [window(3, 1.1, correction="m")]
    windows += [window(k, 1.02, healthy=healthy, correction="m") for k in (4, 5)] + [window(6, 1.0, correction=last)]
    rounds = [report(0), report(1, DRIFT), report(2, DRIFT), report(3, DRIFT, CLICKS, kind="apply")]
    return drill(*windows, rounds=[*rounds, report(4), report(5), report(6, kind="end"), report(7)])


def test_money_is_over_and_under_by_quarter_hours() -> None:
    windows = [window(0, 3.0), window(1, 0.5)]
    found = money(windows, [3], "charged_G")
    assert found.over_micros == pytest.approx(2.0)  # 10 · (.3 − .1)
    assert found.under_micros == pytest.approx(0.5)  # 10 · (.05 − .1)


def test_a_drill_that_is_mastered_passes_with_its_numbers() -> None:
    result = judged(mastered())
    assert result.numbers["passed"] == 1, result.finding
    assert result.numbers["detected_by_drift_windows"] == 1
    assert result.numbers["detected_by_clicks_windows"] == pytest.approx(3 - 32 / 15)
    assert result.numbers["recovered_windows_after_detection"] == 1
    assert result.numbers["corrected/none/over_micros"] == pytest.approx(6.0)  # 3 quarter-hours of 2
    assert result.numbers["corrected/served/over_micros"] == pytest.approx(0.1 + 0.02 + 0.02)
    assert result.numbers["corrected/over_cut_rate"] == pytest.approx(1 - 0.14 / 6)
    assert result.numbers["incident/over_cut_rate"] == pytest.approx(1 - 6.14 / 12)
    assert result.numbers["ratio_corrected"] == pytest.approx(1.02)


@pytest.mark.parametrize(
    ("played", "check"),
    [
        (mastered(healthy=1.03), "no healthy segment moved by 2 %"),
        (mastered(last="m"), "correction gone in time"),
        (drill(*(window(k, 3.0) for k in range(5)), rounds=[report(k) for k in range(6)]), "drift within a window"),
    ],
)
def test_what_was_missed_is_said(played: Drill, check: str) -> None:
    result = judged(played)
    assert result.numbers["passed"] == 0
    assert result.numbers[f"check/{check}"] == 0
    assert check in result.finding


def test_who_corrects_in_quiet_times_has_failed() -> None:
    windows, rounds = [window(k, 1.0) for k in range(4)], [report(k) for k in range(5)]
    assert judged(drill(*windows, rounds=rounds, incident=Quiet())).numbers["passed"] == 1
    rounds[2] = report(2, kind="apply")
    assert judged(drill(*windows, rounds=rounds, incident=Quiet())).numbers["passed"] == 0


def test_of_a_wrong_feature_the_feature_is_to_be_found_and_no_offset_is_asked_for() -> None:
    windows = [window(k, 1.0) for k in range(3)]
    found = reading("psi", "experience_years", 2, 4.0)
    result = judged(drill(*windows, rounds=[report(0), report(1, found), *map(report, (2, 3))], incident=UnitChange()))
    assert result.numbers["passed"] == 1, result.finding
    rounds = [report(0), report(1, found, DRIFT), report(2), report(3)]
    other = judged(drill(*windows, rounds=rounds, incident=CalibrationBug()))
    assert other.numbers["cause_is_first"] == 0
