"""Alarms for Prometheus: readings with their limits, alarms and corrections in force."""

from __future__ import annotations

from typing import Final, final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from rankwell.mitigation.watch_view import WatchView, segment_text

__all__ = ["METRICS_TYPE", "MetricsSink"]

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_OF_READING: Final = ["statistic", "column", "segment", "window"]
_QUARTER_S: Final = 900.0


@final
class MetricsSink:
    """Metrics of a watch; names begin with `rankwell_watch_`.

    A reading that the newest round doesn't have is gone, and is no old number.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._values = Gauge("rankwell_watch_reading", "The statistic", _OF_READING, registry=registry)
        self._limits = Gauge("rankwell_watch_limit", "Above it there is an alarm", _OF_READING, registry=registry)
        self._standing = Gauge(
            "rankwell_watch_alarm_since_seconds", "Of each alarm in force: since when, seconds since 1970",
            _OF_READING[:3], registry=registry,
        )  # fmt: skip
        self._num_standing = Gauge("rankwell_watch_alarms_in_force", "How many", registry=registry)
        self._alarms = Counter("rankwell_watch_alarms", "Alarms that have begun", ["statistic"], registry=registry)
        self._decisions = Counter("rankwell_watch_decisions", "Of the mitigation loop", ["kind"], registry=registry)
        self._rows = Counter("rankwell_watch_rows", "Rows of the log that were read", registry=registry)
        self._round = Gauge("rankwell_watch_round_seconds", "When the last round was, since 1970", registry=registry)
        self._corrections = Gauge("rankwell_watch_corrections_in_force", "1 where there is one", registry=registry)
        self._expires = Gauge(
            "rankwell_watch_correction_expires_seconds", "When it ends, seconds since 1970; 0 without one",
            registry=registry,
        )  # fmt: skip
        self._offsets = Gauge(
            "rankwell_watch_correction_log_odds", "Offset in force", ["action", "feature", "value"], registry=registry
        )
        self._spend = Gauge(
            "rankwell_watch_spend_micros", "Charged in the last quarter-hour whose labels are in", ["segment"],
            registry=registry,
        )  # fmt: skip
        self._problems = Gauge("rankwell_watch_problems", "Things wrong with the watching itself", registry=registry)

    def tell(self, view: WatchView) -> None:
        """See `AlarmSink`."""
        for gauge in (self._values, self._limits, self._standing, self._offsets, self._spend):
            gauge.clear()
        for reading in view.report.readings:
            window = "evidence" if reading.name.startswith("calibration") else _window(reading.window_s)
            labels = (reading.name, reading.column, segment_text(view.feature, reading.segment), window)
            self._values.labels(*labels).set(reading.value)
            self._limits.labels(*labels).set(reading.limit)
        for run in view.standing:
            labels_3 = (run.name, run.column, segment_text(view.feature, run.segment))
            self._standing.labels(*labels_3).set(run.since_us / 1e6)
        self._num_standing.set(len(view.standing))
        for run in view.report.new_alarms:
            self._alarms.labels(run.name).inc()
        for decision in view.report.decisions:
            self._decisions.labels(decision.kind).inc()
        self._rows.inc(view.report.num_rows)
        self._round.set(view.now_us / 1e6)
        self._corrections.set(view.correction is not None)
        self._expires.set(0 if view.correction is None else view.correction.expires_us / 1e6)
        offsets = {} if view.correction is None else view.correction.log_odds_offsets
        for action, features in offsets.items():
            for feature, values in features.items():
                for value, offset in values.items():
                    self._offsets.labels(action, feature, value).set(offset)
        for segment, micros in view.report.spend_micros.items():
            self._spend.labels(segment_text(view.feature, segment)).set(micros)
        self._problems.set(len(view.problems))

    def text(self) -> bytes:
        """All of it in Prometheus's text format, `METRICS_TYPE`."""
        return generate_latest(self._registry)

    def close(self) -> None:
        """See `AlarmSink`."""


def _window(window_s: float) -> str:
    return "quarter-hour" if window_s <= _QUARTER_S else "hour"
