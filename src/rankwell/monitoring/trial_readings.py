"""Calibration of what bundles on trial answer, each by itself: a canary that promises too much is no drift of the rest.

Letters in names: G segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from rankwell.monitoring.calibration_watch import CalibrationWatch, sums_of_day
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.reading import Reading
from rankwell.monitoring.tick_history import TICK_US

__all__ = ["TRIAL", "bundle_on_trial", "trial_readings"]

TRIAL: Final = "calibration_trial"
_OF: Final = " of "
_GOES_ON_US: Final = 4 * TICK_US


def trial_readings(
    watch: CalibrationWatch, trials: Mapping[str, OutcomePane], segments: Sequence[int], *, settled_us: int
) -> list[Reading]:
    """One for each bundle that answered on trial within the last hour of outcomes, and segment.

    Quarter-hours without answers take nothing from the evidence of those before: a trial that is over has no readings.

    Each bundle has the watch's promise to itself: false alarms of trials come on top of the others, while there are
    trials.

    Args:
        watch: Its promise, tolerance and errors are taken.
        trials: By the bundles' ids, see `WatchCounts`.
        segments: That are watched.
        settled_us: Until when outcomes are complete; a whole quarter-hour.

    Returns:
        As `CalibrationWatch.readings` of what was served, named `TRIAL`; the column says action and bundle.
    """
    alone = replace(watch, num_series=len(segments))
    readings: list[Reading] = []
    for bundle_id, outcomes in trials.items():
        if len(outcomes.between(settled_us - _GOES_ON_US, settled_us)):
            sums_T = sums_of_day(outcomes, "served", segments, settled_us)
            readings += alone.readings(
                sums_T, action=f"{outcomes.action}{_OF}{bundle_id}", view="served", segments=segments, now_us=settled_us
            )
    return [replace(reading, name=TRIAL) for reading in readings]


def bundle_on_trial(reading: Reading) -> str | None:
    """Whose calibration a reading is of, where it is that of a bundle on trial.

    >>> reading = Reading(
    ...     name="calibration_trial", column="click of 0a1b", segment=-4, value=9.0, unit="log evidence", limit=7.0,
    ...     p_value=1.0, minimum_detectable=0.2, num_rows=500, num_reference_rows=0, window_start_us=0,
    ...     window_end_us=900_000_000, is_alarm=True,
    ... )
    >>> bundle_on_trial(reading), bundle_on_trial(replace(reading, name="calibration_served"))
    ('0a1b', None)
    """
    return reading.column.rpartition(_OF)[2] if reading.name == TRIAL else None
