"""Where alarms go: one signature, and the sink that writes them into the process's log."""

from __future__ import annotations

import logging
from typing import Final, Protocol, final

from rankwell.mitigation.watch_view import WatchView, segment_text
from rankwell.monitoring.alarm_runs import AlarmRun

__all__ = ["AlarmSink", "LogSink"]

_LOG: Final = logging.getLogger("rankwell.watching")


class AlarmSink(Protocol):
    """Somebody who is told of every round."""

    def tell(self, view: WatchView) -> None:
        """Take in a round, at once: what waits for others does so in a thread of its own. Nothing is raised."""
        ...

    def close(self) -> None:
        """Finish what is under way, within a time limit."""
        ...


@final
class LogSink:
    """One line for each alarm that begins or ends, and for each decision.

    Args:
        log: Where to; by default the logger "rankwell.watching".
    """

    def __init__(self, log: logging.Logger = _LOG) -> None:
        self._log = log

    def tell(self, view: WatchView) -> None:
        """See `AlarmSink`."""
        for run in view.report.new_alarms:
            self._log.warning("alarm begins: %s", _line(view, run))
        for run in view.ended:
            self._log.info("alarm is over: %s %s in %s", run.name, run.column, segment_text(view.feature, run.segment))
        for decision in view.report.decisions:
            self._log.warning("decision %d: %s: %s", decision.sequence, decision.kind, decision.reason)
        for problem in view.problems:
            self._log.error("watching: %s", problem)

    def close(self) -> None:
        """See `AlarmSink`."""


def _line(view: WatchView, run: AlarmRun) -> str:
    where = segment_text(view.feature, run.segment)
    for reading in view.report.readings:
        if reading.is_alarm and reading.key == run.key:
            return (
                f"{run.name} {run.column} in {where}: {reading.value:.4g} {reading.unit}, limit {reading.limit:.4g}, "
                f"{reading.num_rows} rows of {reading.window_s / 60:.0f} min"
            )
    return f"{run.name} {run.column} in {where}"
