"""How often what is shown is acted on, by item attribute or any other segment: the click rate of AI jobs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, final

import numpy as np

from rankwell.monitoring.alarm_threshold import AlarmPromise
from rankwell.monitoring.baseline import Baseline, HeldDays
from rankwell.monitoring.drift_watch import DriftWatch
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.pane import Pane
from rankwell.monitoring.pane_layout import CategoricalBins, NumericBins, PaneLayout
from rankwell.monitoring.reading import Reading

__all__ = ["RateWatch"]

_HALF: Final = 0.5


@final
@dataclass(frozen=True, slots=True)
class RateWatch:
    """Whether people act on a segment's rows more or less often than they did, whatever was promised.

    A rate is a column of two values, so it is read as any other column is: PSI of acted on against not, in the
    quarter-hour and in the hour, with limits from the null; see `DriftWatch`. Calibration says whether the model has
    kept up; this says whether there was something to keep up with.

    Args:
        segments: By whose values rates are told apart; None: one of all rows.
        baseline: See `DriftWatch`.
        promise: One false alarm of all segments and both windows in so many days.

    >>> watch = RateWatch(CategoricalBins(name="skill", top=(3, 7)))
    >>> watch.readings(OutcomePane.nothing("click"), now_us=2 * 86_400_000_000)[0].name
    'rate'
    """

    segments: CategoricalBins | None
    baseline: Baseline = field(default_factory=HeldDays)
    promise: AlarmPromise = field(default_factory=AlarmPromise)

    def readings(self, outcomes: OutcomePane, now_us: int, *, num_standing: int = 0) -> list[Reading]:
        """Of the quarter-hour and of the hour that end now: one for each window and segment with rows.

        Args:
            outcomes: Of the last day and an hour at least, of requests whose labels are known.
            now_us: UTC microseconds, a whole minute, until when they are.
            num_standing: See `AlarmPromise`.

        Returns:
            Named "rate", of the column that has the action's name; the value is PSI, in nats.

        Raises:
            MonitoringError: The time is no whole minute.
        """
        layout = PaneLayout(
            columns=(NumericBins(name=outcomes.action, edges=(_HALF,)),), segments=self.segments
        )  # fmt: skip
        watch = DriftWatch(layout, self.baseline, self.promise, means_too=False)
        found = watch.readings(_pane(outcomes, layout), now_us, num_standing=num_standing)
        return [replace(reading, name="rate") for reading in found]


def _pane(outcomes: OutcomePane, layout: PaneLayout) -> Pane:
    acted_N, rows_N = outcomes.observed_N, outcomes.num_rows_N
    counts_N3 = np.stack([rows_N - acted_N, acted_N, np.zeros_like(acted_N)], axis=1)
    sums_N2 = np.stack([acted_N, acted_N], axis=1).astype(np.float64)
    name = outcomes.action
    return Pane(layout, outcomes.minutes_N, outcomes.segments_N, {name: counts_N3}, {name: sums_N2})
