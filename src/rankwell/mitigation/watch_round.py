"""One round of the loop: count what came, read the window, mitigate, and say what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

from rankwell.errors import MonitoringError, RankwellError
from rankwell.mitigation.explanation import Explanation, explained, of_latest_incident
from rankwell.mitigation.folder_watch import FolderWatch
from rankwell.mitigation.mitigation_folder import MitigationFolder
from rankwell.mitigation.mitigation_state import Decision
from rankwell.mitigation.requests_to_look_at import requests_to_look_at
from rankwell.monitoring.alarm_runs import AlarmRun, AlarmRuns
from rankwell.monitoring.calibration_watch import CalibrationWatch, sums_of_day
from rankwell.monitoring.drift_watch import DriftWatch
from rankwell.monitoring.outcome_pane import OutcomePane, View
from rankwell.monitoring.pane import MINUTE_US
from rankwell.monitoring.pane_layout import ALL_ROWS
from rankwell.monitoring.rate_watch import RateWatch
from rankwell.monitoring.reading import Reading
from rankwell.monitoring.report_gap import report_delay
from rankwell.monitoring.silence import silence
from rankwell.monitoring.tick_history import TICK_US
from rankwell.monitoring.trial_readings import bundle_on_trial, trial_readings
from rankwell.monitoring.watch_counts import WatchCounts

__all__ = ["RoundReport", "WatchRound"]

_VIEWS: Final[tuple[View, ...]] = ("served", "scored")


@final
@dataclass(frozen=True, slots=True)
class RoundReport:
    """What a round found.

    Args:
        window_end_us: Until when rows were looked at, UTC microseconds.
        num_rows: Of the log that came, requests and actions.
        readings: All of this round: drift of the newest window, calibration of the newest whose labels are known.
        new_alarms: That began with it.
        decisions: Of the mitigation loop.
        spend_micros: Charged in the last quarter-hour whose labels are known, by segment.
        explanation: Of the alarms; None where there is none.
    """

    window_end_us: int
    num_rows: int
    readings: tuple[Reading, ...]
    new_alarms: tuple[AlarmRun, ...]
    decisions: tuple[Decision, ...]
    spend_micros: dict[int, int]
    explanation: Explanation | None = None


@final
class WatchRound:
    """Watches a folder of served requests, and corrects what it finds, quarter-hour by quarter-hour.

    Drift of features, logits and probabilities needs no labels, and is read of the quarter-hour that has just ended.
    Calibration is read of the newest quarter-hours whose attribution windows have closed; that of a bundle on trial by
    itself.

    Args:
        watch: That counts.
        drift: Limits of drift, of the layout that is counted.
        calibration: Limits of calibration.
        mitigation: What acts on readings; None: nothing does.
        on_failure: Told why it could not, and the round goes on, so that alarms are told all the same; by default it
            is raised.
        rates: Limits of how often what is shown is acted on; None: it isn't looked at.
    """

    def __init__(
        self,
        watch: FolderWatch,
        drift: DriftWatch,
        calibration: CalibrationWatch,
        mitigation: MitigationFolder | None = None,
        *,
        on_failure: Callable[[RankwellError], None] | None = None,
        rates: RateWatch | None = None,
    ) -> None:
        if drift.layout != watch.counts.pane.layout:
            raise MonitoringError("drift is watched of another layout", do="count with the layout that is watched")
        self._watch, self._drift, self._calibration, self._mitigation = watch, drift, calibration, mitigation
        self._on_failure, self._rates = on_failure, rates
        bins = drift.layout.segments
        self.segments: tuple[int, ...] = (ALL_ROWS,) if bins is None else bins.top
        self.alarms = AlarmRuns()

    @property
    def counts(self) -> WatchCounts:
        """All that was counted."""
        return self._watch.counts

    def after(self, *, now_us: int, known_bundles: frozenset[str] | None = None) -> RoundReport:
        """Count, read and mitigate: to be called soon after each quarter-hour.

        Args:
            now_us: UTC microseconds; the window ends with the last whole quarter-hour before it.
            known_bundles: Those that may answer; None: nobody knows.

        Raises:
            LogError, MitigationError, BundleError: See `FolderWatch.step` and `MitigationFolder.look`.
        """
        num_rows = self._watch.step(now_us=now_us)
        counts = self._watch.counts
        end_us = now_us // TICK_US * TICK_US
        readings = self._drift.readings(counts.pane.between(0, end_us), end_us, num_standing=len(self.alarms.standing))
        settled_us = counts.settled_us // TICK_US * TICK_US
        readings += self._calibration_readings(counts.outcomes, settled_us)
        readings += trial_readings(self._calibration, counts.trials, self.segments, settled_us=settled_us)
        if self._rates is not None:
            readings += self._rates.readings(counts.outcomes, settled_us, num_standing=len(self.alarms.standing))
        quiet = silence(counts.pane, end_us)
        readings.append(report_delay(counts.reported_until_us, now_us, num_waiting=counts.pending.num_pending))
        self.alarms, new = self.alarms.after([*readings, quiet], now_us=now_us)
        decisions = self._mitigated(readings)
        last = counts.outcomes.between(settled_us - TICK_US, settled_us)
        spend = dict(zip(self.segments, last.spend_micros(self.segments).tolist(), strict=True))
        explanation = explained(
            of_latest_incident(readings, self.alarms.standing),
            counts,
            self.segments,
            spend_micros=spend,
            window_end_us=end_us,
            known_bundles=known_bundles,
        )
        if explanation is not None:
            explanation = self._with_requests(explanation)
        return RoundReport(end_us, num_rows, (*readings, quiet), new, decisions, spend, explanation)

    def _mitigated(self, readings: Sequence[Reading]) -> tuple[Decision, ...]:
        if self._mitigation is None:
            return ()
        counts = self._watch.counts
        settled_us = counts.settled_us // MINUTE_US * MINUTE_US
        try:
            return self._mitigation.look(
                readings, counts.outcomes, settled_us=settled_us, versions=counts.versions, pane=counts.pane
            )
        except RankwellError as error:
            if self._on_failure is None:
                raise
            self._on_failure(error)
            return ()

    def _with_requests(self, explanation: Explanation) -> Explanation:
        first = explanation.causes[0]
        requests = requests_to_look_at(
            self._watch.folder,
            action=self._watch.counts.outcomes.action,
            column=first.column,
            segments=self._drift.layout.segments,
            segment=first.segment,
            since_us=explanation.since_us,
            until_us=explanation.found_us,
            bundle_id=bundle_on_trial(first.reading),
        )
        return replace(explanation, requests=requests)

    def _calibration_readings(self, outcomes: OutcomePane, settled_us: int) -> list[Reading]:
        return [
            reading
            for view in _VIEWS
            for reading in self._calibration.readings(
                sums_of_day(outcomes, view, self.segments, settled_us),
                action=outcomes.action, view=view, segments=self.segments, now_us=settled_us,
            )
        ]  # fmt: skip
