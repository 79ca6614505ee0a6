"""The verdict of a drill against drills that are written down by hand."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import ClassVar, final

import numpy as np
import pytest

from rankwell.mitigation.mitigation_state import Decision
from rankwell.mitigation.watch_round import RoundReport
from rankwell.monitoring.reading import Reading
from rankwell.monitoring.tick_history import TICK_US
from rankwell.simulation.incident import Incident
from rankwell.simulation.incident_calibration_bug import CalibrationBug
from rankwell.simulation.incident_late_labels import LateLabels
from rankwell.simulation.incident_quiet import Quiet
from rankwell.simulation.incident_unit_change import UnitChange
from rankwell.studies.drill import Drill, DrillSettings
from rankwell.studies.drill_verdict import judged
from rankwell.studies.drill_window import DrillWindow, money

SEGMENTS = (2, 3)
ONSET_US = 1_000 * TICK_US
SPEND = {2: 750, 3: 250}


@final
class OfThree(Incident):
    """Clicks of segment 3 are more than was promised."""

    name: ClassVar[str] = "of-three"
    summary: ClassVar[str] = "more clicks"
    suspects: ClassVar[frozenset[str]] = frozenset({"click"})
    segments: ClassVar[frozenset[int]] = frozenset({3})
    clicks_within: ClassVar[int | None] = 2


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
    fixed_us = ONSET_US + (len(windows) - 1) * TICK_US
    made = Drill(incident or CalibrationBug(), DrillSettings(), ONSET_US, fixed_us, SEGMENTS)
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
        (
            drill(*(window(k, 3.0) for k in range(5)), rounds=[report(k) for k in range(6)]),
            "drift within one quarter-hour",
        ),
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
    windows = [window(k, 3.0) for k in range(5)]
    found = reading("psi", "experience_years", 2, 4.0)
    rounds = [report(0), report(1, found), report(2), report(3, CLICKS), *map(report, (4, 5))]
    result = judged(drill(*windows, rounds=rounds, incident=UnitChange()))
    assert result.numbers["passed"] == 1, result.finding
    rounds[1] = report(1, found, DRIFT)
    other = judged(drill(*windows, rounds=rounds, incident=CalibrationBug()))
    assert other.numbers["cause_is_first"] == 0


def test_a_correction_that_makes_it_worse_does_harm() -> None:
    found = reading("psi", "experience_years", 2, 4.0)
    rounds = [report(0), report(1, found), report(2), report(3, CLICKS, kind="apply"), *map(report, (4, 5))]
    for factor, does_harm in ((2.0, False), (4.0, True)):  # of the truth; without the correction it is 3
        windows = [*(window(k, 3.0) for k in range(3)), window(3, factor, correction="m"), window(4, 3.0)]
        result = judged(drill(*windows, rounds=rounds, incident=UnitChange()))
        assert result.numbers["check/no correction does harm"] == float(not does_harm)


def test_an_alarm_of_clicks_before_there_are_labels_finds_nothing() -> None:
    played = mastered()
    played.rounds[2] = report(2, DRIFT, CLICKS)  # after 30 minutes, of clicks before the onset
    assert judged(played).numbers["detected_by_clicks_windows"] == pytest.approx(3 - 32 / 15)


def test_who_corrects_what_is_right_has_failed() -> None:
    windows = [window(k, 1.0) for k in range(4)]
    late = reading("report_delay", "report_delay", -4, 2_700.0)
    rounds = [report(0), report(1, late), *map(report, (2, 3, 4))]
    assert judged(drill(*windows, rounds=rounds, incident=LateLabels())).numbers["passed"] == 1
    rounds[4] = report(4, kind="apply")  # after all is mended, too
    result = judged(drill(*windows, rounds=rounds, incident=LateLabels()))
    assert result.numbers["check/nothing is corrected"] == 0


def test_what_clicks_alone_tell_has_no_check_of_drift_and_saves_what_was_not_charged() -> None:
    windows = [window(k, 0.5) for k in range(3)] + [window(k, 1.0, correction="m") for k in range(3, 7)]
    windows = [replace(w, charged_without_G=w.worth_G * 0.5) for w in [*windows, window(7, 1.0)]]
    of_two = replace(CLICKS, segment=2)
    rounds = [report(k) for k in range(9)]
    rounds[3] = report(3, of_two, kind="apply")
    result = judged(drill(*windows, rounds=rounds, incident=OfThree()))
    assert result.numbers["passed"] == 0
    assert result.numbers["check/right cause first"] == 0  # segment 3 was to be named
    rounds[3] = report(3, CLICKS, kind="apply")
    result = judged(drill(*windows, rounds=rounds, incident=OfThree()))
    assert result.numbers["passed"] == 1, result.finding
    assert result.numbers["corrected/under_cut_rate"] == pytest.approx(1.0)
    assert not any("drift" in name for name in result.numbers if name.startswith("check/"))


def test_an_alarm_that_is_older_than_the_incident_is_no_cause_of_it() -> None:
    made = mastered()
    old = reading("calibration_served", "click", 2, 90.0)
    made.rounds = [dataclasses.replace(r, readings=(*r.readings, old)) for r in made.rounds]
    assert judged(made).numbers["cause_segment"] == 3
    made.rounds[0] = report(0)
    assert judged(made).numbers["cause_segment"] == 2


def test_the_bundle_that_is_right_stands_beside_the_hurt_segment_and_excuses_nothing() -> None:
    made = mastered()
    made.windows[4:6] = [replace(w, oracle_G=w.true_G * 0.94) for w in made.windows[4:6]]
    made.windows[5] = replace(made.windows[5], promised_G=made.windows[5].true_G * 0.94)
    result = judged(made)
    assert result.numbers["num_settled"] == 2  # since the first within 5 %
    assert result.numbers["num_settled_outside"] == 1
    assert result.numbers["num_settled_outside_oracle"] == 2
    assert result.numbers["ratio_corrected"] == pytest.approx((1.02 + 0.94) / 2)
    assert result.numbers["ratio_oracle"] == pytest.approx(0.94)
    assert [column.header for column in result.tables[1].columns][-2:] == ["3, an oracle", "correction"]
    assert result.charts[0].panels[0].lines[-1].name == "job_seniority 3, an oracle"
    made.windows[4:6] = [replace(w, promised_G=w.true_G * 0.94) for w in made.windows[4:6]]
    assert judged(made).numbers["check/ratio back within two windows"] == 0


def test_where_the_world_moved_no_bundle_is_right() -> None:
    windows = [replace(window(k, 0.5), oracle_G=window(k, 0.5).without_G) for k in range(5)]
    result = judged(drill(*windows, rounds=[report(k) for k in range(6)], incident=OfThree()))
    assert "ratio_oracle" not in result.numbers
    assert not any("oracle" in str(column.header) for column in result.tables[1].columns)
