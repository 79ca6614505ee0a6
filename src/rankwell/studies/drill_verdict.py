"""What a drill came to: its timeline, its money, and whether it was mastered.

Letters in names: W quarter-hours · G segments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, final

import numpy as np
from rich.table import Table

from rankwell.mitigation.explanation import own_doing_last
from rankwell.mitigation.mitigation_plan import MitigationPlan
from rankwell.monitoring.causes import Cause, ranked_causes
from rankwell.monitoring.reading import Reading
from rankwell.monitoring.tick_history import TICK_US, TICKS_PER_DAY
from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.drill import Drill
from rankwell.studies.drill_window import DrillWindow, money
from rankwell.studies.study import StudyResult

__all__ = ["judged"]

_WINDOW_US: Final = 1_800_000_000 + 120_000_000
"""Until labels are known: the clicks' attribution window, and what may come late."""
_MICROS: Final = 1e6
_WITHIN: Final = (0.95, 1.05)
_MOST_MOVED: Final = 0.02
_LEAST_CUT: Final = 0.8
_ROUNDING: Final = 1e-9


@final
@dataclass(frozen=True, slots=True)
class _Story:
    """When what happened first, UTC microseconds; None: never. And how many times something was applied or adjusted."""

    drifted_us: int | None
    clicked_us: int | None
    causes: list[Cause]
    mitigated_us: int | None
    num_applied: int
    recovered_us: int | None
    gone_us: int | None


def judged(drill: Drill) -> StudyResult:
    """Tables, a chart, the verdict and its numbers."""
    story = _story(drill)
    numbers = _numbers(drill, story)
    checks = _checks(drill, story, numbers)
    passed = all(checks.values())
    numbers |= {f"check/{name}": float(held) for name, held in checks.items()}
    numbers["passed"] = float(passed)
    failed = [name for name, held in checks.items() if not held]
    verdict = "passed" if passed else f"FAILED: {', '.join(failed)}"
    finding = f"{drill.incident.name}, seed {drill.settings.seed}: {verdict}."
    tables = (_timeline(drill, story), _window_table(drill), _money_table(drill, story))
    return StudyResult(f"drill {drill.incident.name}", tables, finding, numbers, (_chart(drill, story),))


def _story(drill: Drill) -> _Story:
    hurt, suspects = drill.incident.segments, drill.incident.suspects
    during = [(drill.onset_us + k * TICK_US, report) for k, report in enumerate(drill.rounds)]
    num_applied = sum(decision.kind in _APPLIED for report in drill.rounds for decision in report.decisions)
    during = [(time_us, report) for time_us, report in during if drill.onset_us < time_us <= drill.fixed_us]
    drifted = clicked = mitigated = None
    causes: list[Cause] = []
    corrected = [(w.start_us, w.start_us + TICK_US) for w in drill.windows if w.correction_ids]
    older = {r.key for r in drill.rounds[0].readings if r.is_alarm}  # whatever they are of, it is not the incident
    for time_us, report in during:
        alarms = [reading for reading in report.readings if reading.is_alarm]
        of_clicks = [r for r in alarms if _is_of_clicks(r) and (not hurt or r.segment in hurt)]
        kinds = {decision.kind for decision in report.decisions}
        if drifted is None and any(not _is_of_clicks(r) and (r.column in suspects or not suspects) for r in alarms):
            drifted = time_us
        has_labels = time_us >= drill.onset_us + _WINDOW_US  # an alarm before them tells of something else
        if clicked is None and has_labels and (of_clicks or "apply" in kinds):
            clicked = time_us
        if not causes:
            new = (r for r in alarms if r.key not in older)
            causes = own_doing_last(ranked_causes(new, report.spend_micros), corrected, "click")
        if mitigated is None and "apply" in kinds:
            mitigated = time_us
    after = [window for window in drill.windows if mitigated is not None and window.start_us >= mitigated]
    within = [window.start_us for window in after if hurt and all(_is_within(window.ratio(s)) for s in hurt)]
    served_since = [window for window in drill.windows if window.start_us >= drill.fixed_us]
    gone = next((window.start_us for window in served_since if not window.correction_ids), None)
    return _Story(drifted, clicked, causes, mitigated, num_applied, within[0] if within else None, gone)


def _is_of_clicks(reading: Reading) -> bool:
    return reading.name.startswith("calibration")


def _is_within(ratio: float) -> bool:
    return _WITHIN[0] <= ratio <= _WITHIN[1]


def _numbers(drill: Drill, story: _Story) -> dict[str, float]:
    hurt = sorted(drill.incident.segments)
    healthy = [segment for segment in drill.segments if segment not in hurt]
    during = [window for window in drill.windows if window.start_us < drill.fixed_us]
    corrected = [
        window for window in during if story.mitigated_us is not None and window.start_us >= story.mitigated_us
    ]
    afterwards = [window for window in drill.windows if window.start_us >= drill.fixed_us]
    settled = [
        window for window in corrected if story.recovered_us is not None and window.start_us >= story.recovered_us
    ]
    numbers = {
        "num_baseline_shown": float(drill.num_shown),
        "num_requests_per_window": sum(w.num_requests for w in during) / len(during),
        "detected_by_drift_windows": _windows(story.drifted_us, drill.onset_us),
        "detected_by_clicks_windows": _windows(story.clicked_us, drill.onset_us + _WINDOW_US),
        "recovered_windows_after_detection": _windows(story.recovered_us, story.clicked_us),
        "most_moved_healthy_rate": max((w.moved(healthy) for w in corrected), default=0.0),
        "correction_gone_s": math.nan if story.gone_us is None else (story.gone_us - drill.fixed_us) / _MICROS,
        "slowest_pick_up_s": max(drill.pick_up_s),
        "num_applied": float(story.num_applied),
        "num_alarms": float(sum(len(report.new_alarms) for report in drill.rounds)),
        "num_days": len(drill.windows) / TICKS_PER_DAY,
    }
    for span, windows in (("incident", during), ("corrected", corrected), ("afterwards", afterwards)):
        for name, column in _CHARGED.items():
            found = money(windows, _concerned(drill), column)
            numbers[f"{span}/{name}/over_micros"] = found.over_micros
            numbers[f"{span}/{name}/under_micros"] = found.under_micros
            numbers[f"{span}/{name}/off_micros"] = found.off_micros
        for side in ("over", "under"):
            none, served = (numbers[f"{span}/{name}/{side}_micros"] for name in ("none", "served"))
            numbers[f"{span}/{side}_cut_rate"] = 1 - served / none if none else math.nan
    if hurt:
        numbers["ratio_hurt"] = _ratio(during[:1], hurt, "promised_G")
        numbers["ratio_corrected"] = _ratio(settled, hurt, "promised_G")
        numbers["num_settled"] = float(len(settled))
        numbers["num_settled_outside"] = _outside([w.ratio(s) for w in settled for s in hurt])
        if _has_oracle(drill):
            numbers["ratio_oracle"] = _ratio(settled, hurt, "oracle_G")
            numbers["num_settled_outside_oracle"] = _outside([w.oracle_ratio(s) for w in settled for s in hurt])
    if story.causes:
        first = story.causes[0]
        numbers["cause_segment"] = float(first.segment)
        numbers["cause_is_first"] = float(_is_right(drill, first))
    return numbers


_APPLIED: Final = ("apply", "adjust", "adopt", "fall_back")
_CHARGED: Final = {"none": "charged_without_G", "served": "charged_G", "oracle": "charged_oracle_G"}


def _ratio(windows: Sequence[DrillWindow], segments: Sequence[int], name: str) -> float:
    """Promised over true of several quarter-hours together; the name is of the column of what was promised."""
    places = [windows[0].segments.index(segment) for segment in segments] if windows else []
    promised = sum(float(getattr(window, name)[places].sum()) for window in windows)
    true = sum(float(window.true_G[places].sum()) for window in windows)
    return promised / true if true else math.nan


def _outside(ratios: Sequence[float]) -> float:
    return float(sum(not _is_within(ratio) for ratio in ratios))


def _has_oracle(drill: Drill) -> bool:
    """Whether the bundle that is right is another than the one that answered: none is where the world moved."""
    during = [window for window in drill.windows if window.start_us < drill.fixed_us]
    return any(not np.array_equal(window.oracle_G, window.without_G) for window in during)


def _windows(time_us: int | None, since_us: int | None) -> float:
    return math.nan if time_us is None or since_us is None else (time_us - since_us) / TICK_US


def _is_right(drill: Drill, cause: Cause) -> bool:
    hurt = drill.incident.segments
    return cause.column in drill.incident.suspects and (not hurt or cause.segment in hurt)


def _checks(drill: Drill, story: _Story, numbers: dict[str, float]) -> dict[str, bool]:
    """What is asked for of this incident: a check that could not fail here is not among them."""
    incident = drill.incident
    checks: dict[str, bool] = {}
    if incident.drift_within is not None:
        checks[f"drift within {_quarters(incident.drift_within)}"] = (
            numbers["detected_by_drift_windows"] <= incident.drift_within
        )
    if incident.clicks_within is not None:
        checks[f"clicks within {_quarters(incident.clicks_within)} of their labels"] = (
            numbers["detected_by_clicks_windows"] <= incident.clicks_within
        )
    if incident.suspects:
        checks["right cause first"] = bool(numbers.get("cause_is_first", 0.0))
    if not incident.may_be_corrected:
        return checks | {"nothing is corrected": not story.num_applied}
    if story.num_applied:
        plan = MitigationPlan(action="click", feature=incident.segment_by, segments=drill.segments)
        checks["correction gone in time"] = numbers["correction_gone_s"] <= plan.lifetime_us / _MICROS
    if not incident.segments:  # no offset of a segment mends it, but none may make it worse
        most = numbers["incident/none/off_micros"] * (1 + _ROUNDING)
        return checks | {"no correction does harm": numbers["incident/served/off_micros"] <= most}
    side = "over" if numbers["incident/none/over_micros"] > numbers["incident/none/under_micros"] else "under"
    return checks | {
        "ratio back within two windows": numbers["recovered_windows_after_detection"] <= 2,
        f"{side}-charge cut by 80 %": numbers[f"corrected/{side}_cut_rate"] >= _LEAST_CUT,
        "no healthy segment moved by 2 %": numbers["most_moved_healthy_rate"] <= _MOST_MOVED,
    }


def _concerned(drill: Drill) -> tuple[int, ...]:
    """The segments whose money is looked at: those that are hurt; where none is more than others, all."""
    return tuple(sorted(drill.incident.segments)) or drill.segments


def _quarters(num: int) -> str:
    return "one quarter-hour" if num == 1 else f"{num} quarter-hours"


def _clock(time_us: int | None) -> str:
    return "never" if time_us is None else f"{datetime.fromtimestamp(time_us / _MICROS, UTC):%a %H:%M}"


def _timeline(drill: Drill, story: _Story) -> Table:
    table = Table("when", "", "what", title=f"incident: {drill.incident.name}")
    lines = [
        (drill.onset_us, "injected", drill.incident.summary),
        (story.drifted_us, "detected", "without labels, by drift"),
        (story.drifted_us or story.clicked_us, "explained", _explained(drill, story.causes)),
        *((story.drifted_us or story.clicked_us, "explained", what) for what in _suspects(drill)),
        (story.clicked_us, "detected", f"by clicks; their labels take {_WINDOW_US / _MICROS / 60:.0f} minutes"),
        (story.recovered_us, "recovered", f"promised / true within {_WITHIN[0]}–{_WITHIN[1]}"),
        (drill.fixed_us, "fixed", "what is right is deployed"),
        (story.gone_us, "gone", "no correction is in force"),
    ]
    for number, report in enumerate(drill.rounds):
        at_us = drill.onset_us + number * TICK_US
        lines += [
            (at_us, "mitigated" if decision.kind in ("apply", "adjust") else decision.kind, decision.reason)
            for decision in report.decisions
        ]
    for time_us, kind, what in sorted(lines, key=lambda line: math.inf if line[0] is None else line[0]):
        table.add_row(_clock(time_us), kind, what)
    return table


def _suspects(drill: Drill) -> list[str]:
    """What the first explanation during the incident says is to be asked about."""
    explanations = [r.explanation for r in drill.rounds if drill.onset_us < r.window_end_us <= drill.fixed_us]
    first = next((explanation for explanation in explanations if explanation is not None), None)
    return [] if first is None else [suspect.what for suspect in first.suspects]


def _explained(drill: Drill, causes: Sequence[Cause]) -> str:
    feature = drill.incident.segment_by
    return "; ".join(f"{feature} {c.segment} × {c.column} ({c.score:.2f})" for c in causes[:3]) or "no cause is named"


def _window_table(drill: Drill) -> Table:
    table = Table(title=f"promised / true, by the true probabilities, where {drill.incident.segment_by} is")
    hurt = sorted(drill.incident.segments) if _has_oracle(drill) else []
    for name in ("from", "requests", *map(str, drill.segments), *(f"{s}, an oracle" for s in hurt), "correction"):
        table.add_column(name, justify="right")
    for window in drill.windows:
        ratios = [f"{window.ratio(segment):.3f}" for segment in window.segments]
        ratios += [f"{window.oracle_ratio(segment):.3f}" for segment in hurt]
        table.add_row(
            _clock(window.start_us), f"{window.num_requests:,}", *ratios, "in force" if window.correction_ids else ""
        )
    return table


def _money_table(drill: Drill, story: _Story) -> Table:
    where = "where it hurts" if drill.incident.segments else "everywhere"
    table = Table("", "", "over", "under", title=f"charged beyond worth, and short of it, {where}; in units")
    during = (drill.onset_us, drill.fixed_us)
    spans = {"from the onset": during, "after the mend": (drill.fixed_us, math.inf)}
    if story.mitigated_us is not None:
        spans["from the first correction"] = (story.mitigated_us, drill.fixed_us)
    for span, (from_us, until_us) in spans.items():
        windows = [window for window in drill.windows if from_us <= window.start_us < until_us]
        for name, column in _CHARGED.items():
            found = money(windows, _concerned(drill), column)
            label = {"none": "without mitigation", "served": "as it was", "oracle": "an oracle"}[name]
            table.add_row(label, span, f"{found.over_micros / _MICROS:,.1f}", f"{found.under_micros / _MICROS:,.1f}")
    return table


def _chart(drill: Drill, story: _Story) -> Chart:
    minutes = [(window.start_us - drill.onset_us) / 60e6 + 7.5 for window in drill.windows]
    hurt = sorted(drill.incident.segments)
    ratios = Panel(
        title="promised / true", x_label="minutes since the onset", y_label="by the true probabilities",
        lines=tuple(
            Line(name=f"{drill.incident.segment_by} {segment}", x=minutes,
                 y=[window.ratio(segment) for window in drill.windows], style="line" if segment in hurt else "dashed")
            for segment in drill.segments
        ) + tuple(
            Line(name=f"{drill.incident.segment_by} {segment}, an oracle", x=minutes,
                 y=[window.oracle_ratio(segment) for window in drill.windows], style="dashed")
            for segment in (hurt if _has_oracle(drill) else [])
        ),
        upright=None if story.mitigated_us is None else (story.mitigated_us - drill.onset_us) / 60e6,
    )  # fmt: skip
    names = {"without mitigation": "charged_without_G", "as it was": "charged_G", "an oracle": "charged_oracle_G"}
    spend = Panel(
        title="charged beyond worth", x_label="minutes since the onset", y_label="units in a quarter-hour",
        lines=tuple(
            Line(name=name, x=minutes, y=[_off(window, _concerned(drill), column) for window in drill.windows])
            for name, column in names.items()
        ),
        upright=ratios.upright,
    )  # fmt: skip
    return Chart(
        name="drill",
        title="The incident",
        caption="Each point is a quarter-hour; the upright line is the first correction.",
        description="Calibration ratio by segment and overspend over the minutes since the onset of the incident.",
        panels=(ratios, spend),
    )


def _off(window: DrillWindow, segments: Sequence[int], column: str) -> float:
    found = money([window], segments, column)
    return (found.over_micros - found.under_micros) / _MICROS
