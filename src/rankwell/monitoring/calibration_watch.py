"""Calibration of every segment, quarter-hour after quarter-hour: evidence since it was lost, and by how much.

Letters in names: T quarter-hours · A alternatives · G segments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.errors import MonitoringError
from rankwell.evaluation.calibration_detector import CalibrationDetector
from rankwell.evaluation.calibration_sums import CalibrationSums
from rankwell.evaluation.confidence_sequence import RatioSequence, is_off, minimum_detectable_error
from rankwell.monitoring.alarm_threshold import AlarmPromise
from rankwell.monitoring.outcome_pane import OutcomePane, View
from rankwell.monitoring.reading import Reading
from rankwell.monitoring.tick_history import TICK_US, TICKS_PER_DAY

__all__ = ["CalibrationWatch", "sums_of_day"]

_NAMES: Final = {"served": "calibration_served", "scored": "calibration_scored"}

_Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class CalibrationWatch:
    """Says of each segment whether its probabilities are still those at which people click.

    The detector of Shiryaev and Roberts looks at quarter-hours from the oldest held to the newest. An alarm wants both:
    evidence above the promise, and observed over predicted off by more than the tolerance since the quarter-hour from
    which the evidence comes. Readings are a function of the sums, so nothing has to be kept for a restart but them.

    Args:
        num_series: How many are watched under the promise: segments × actions × views.
        promise: One false alarm of all of them in so many days. By theory it is one in no fewer.
        tolerance: Relative error that is put up with.
        errors: Relative errors to be found soon.

    Raises:
        MonitoringError: There is nothing to watch.

    >>> right = CalibrationSums.of([.05] * 500, [1] * 25 + [0] * 475, [1] * 500, request_C=range(500))
    >>> wrong = CalibrationSums.of([.15] * 500, [1] * 25 + [0] * 475, [1] * 500, request_C=range(500))
    >>> watch = CalibrationWatch(num_series=1)
    >>> for panes in ([right] * 50, [right] * 46 + [wrong] * 4):
    ...     [reading] = watch.readings(panes, action="click", view="served", segments=[-4], now_us=0)
    ...     reading.is_alarm, reading.num_rows
    (False, 500)
    (True, 2000)
    """

    num_series: int
    promise: AlarmPromise = field(default_factory=AlarmPromise)
    tolerance: float = 0.1
    errors: tuple[float, ...] = (0.1, 0.25, 1.0)

    def __post_init__(self) -> None:
        if self.num_series < 1:
            raise MonitoringError("there is nothing to watch", found=self.num_series, allowed="num_series ≥ 1")

    def readings(
        self,
        sums_T: Sequence[CalibrationSums],
        *,
        action: str,
        view: View,
        segments: Sequence[int],
        now_us: int,
    ) -> list[Reading]:
        """One for each segment.

        Args:
            sums_T: Of the last quarter-hours, oldest first, one a segment in the order of `segments`; a day of them or
                more, the first of which teach how much clicks of one request depend. Only such whose labels are all
                there.
            action: Of the probabilities.
            view: Of which rows: what was served, or what was scored.
            segments: Their names.
            now_us: When the last quarter-hour ended.

        Returns:
            Named `calibration_served` or `calibration_scored`; the window is since when the evidence comes, and its
            rows are requests. The value is ln of the evidence, −∞ before there is any.

        Raises:
            MonitoringError: Sums are of other segments.
        """
        if any(len(sums.predicted_G) != len(segments) for sums in sums_T):
            raise MonitoringError(
                "sums are of other segments",
                found=sorted({len(sums.predicted_G) for sums in sums_T}), allowed=len(segments),
            )  # fmt: skip
        num_panes = self.promise.days_per_false_alarm * TICKS_PER_DAY * self.num_series
        detector = CalibrationDetector(max(num_panes, 2.0), errors=self.errors)
        watch = detector.started(len(segments))
        ratios_TAG = np.zeros((len(sums_T), *watch.log_evidence_AG.shape))
        for tick, sums in enumerate(sums_T):
            before_AG = np.logaddexp(watch.log_evidence_AG, 0.0)
            watch = detector.after(watch, sums)
            has_grown_AG = np.isfinite(watch.log_evidence_AG)
            ratios_TAG[tick] = np.where(has_grown_AG, watch.log_evidence_AG - before_AG, 0.0)
        starts_G = _starts(ratios_TAG, watch.log_evidence_AG)
        since = _since(sums_T, starts_G)
        limit = math.log(detector.panes_per_false_alarm)
        evidence_G = detector.log_evidence(watch)
        is_alarm_G = detector.alarms(watch) & is_off(since, *RatioSequence().bounds(since), tolerance=self.tolerance)
        detectable_G = minimum_detectable_error(since)
        return [
            Reading(
                name=_NAMES[view],
                column=action,
                segment=segment,
                value=float(evidence_G[place]),
                unit="log evidence",
                limit=limit,
                p_value=math.nan,
                minimum_detectable=float(detectable_G[place]),
                num_rows=int(since.num_requests_G[place]),
                num_reference_rows=0,
                window_start_us=now_us - (len(sums_T) - int(starts_G[place])) * TICK_US,
                window_end_us=now_us,
                is_alarm=bool(is_alarm_G[place]),
            )
            for place, segment in enumerate(segments)
        ]


def sums_of_day(outcomes: OutcomePane, view: View, segments: Sequence[int], until_us: int) -> list[CalibrationSums]:
    """The quarter-hours of a day, oldest first, as `CalibrationWatch.readings` takes them.

    Args:
        outcomes: Of the day, and more.
        view: Of which rows.
        segments: Of the sums.
        until_us: The end of the last quarter-hour.
    """
    ticks = range(until_us - TICKS_PER_DAY * TICK_US, until_us, TICK_US)
    return [outcomes.between(tick_us, tick_us + TICK_US).sums(view, segments) for tick_us in ticks]


def _starts(ratios_TAG: _Floats, log_evidence_AG: _Floats) -> NDArray[np.int64]:
    """From which quarter-hour on the likeliest alternative has gathered most; the last one where none has."""
    num_ticks, _, num_segments = ratios_TAG.shape
    if not num_ticks:
        return np.zeros(num_segments, np.int64)
    ratios_TG = ratios_TAG[:, np.argmax(log_evidence_AG, axis=0), np.arange(num_segments)]
    gathered_TG = np.cumsum(ratios_TG[::-1], axis=0)[::-1]
    starts_G: NDArray[np.int64] = num_ticks - 1 - np.argmax(gathered_TG[::-1], axis=0)
    return starts_G


def _since(sums_T: Sequence[CalibrationSums], starts_G: NDArray[np.int64]) -> CalibrationSums:
    total = CalibrationSums.nothing(len(starts_G))
    for tick, sums in enumerate(sums_T):
        counts_G = (tick >= starts_G).astype(np.float64)
        total += CalibrationSums(
            sums.predicted_G * counts_G,
            sums.observed_G * counts_G,
            sums.predicted_squared_G * counts_G,
            sums.product_G * counts_G,
            sums.observed_squared_G * counts_G,
            sums.num_requests_G * counts_G,
        )
    return total
