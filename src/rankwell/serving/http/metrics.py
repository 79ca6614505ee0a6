"""What a server counts and times, for Prometheus.

Workers are processes. They share files in a folder (`prometheus_client`'s multiprocess mode), so that whichever of them
answers ``/metrics`` answers for all; see `share_metrics`. Without it, as in tests, a registry belongs to one
application.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any, Final, final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from rankwell.serving.feature_counts import FeatureCounts
from rankwell.serving.log_stream import LogCounts

__all__ = ["CONTENT_TYPE", "LATENCY_EDGES_S", "STAGES", "Metrics", "forget_process", "share_metrics"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
LATENCY_EDGES_S: Final = (0.001, 0.002, 0.005, 0.010, 0.025, 0.050, 0.100)
STAGES: Final = ("queue", "read", "rank", "log", "write", "all")
_SHED: Final = ("full", "share", "deadline", "late")


def share_metrics(folder: str) -> None:
    """Let all processes that are forked from now on keep their metrics in files of a folder, so that they add up."""
    os.environ[_FOLDER] = folder
    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]


def forget_process(pid: int) -> None:
    """Let the gauges of a worker that is gone no longer count."""
    if _FOLDER in os.environ:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]


@final
class Metrics:
    """All metrics of a worker; names begin with `rankwell_`."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        latency = Histogram(
            "rankwell_stage_seconds",
            "How long a stage of a request took; all: from its first byte read to its answer",
            ["stage"],
            buckets=LATENCY_EDGES_S,
            registry=registry,
        )
        self._stages = {stage: latency.labels(stage) for stage in STAGES}
        self._requests = Counter(
            "rankwell_requests", "Requests by route and status", ["route", "status"], registry=registry
        )
        self._answered: dict[tuple[str, int], Any] = {}
        shed = Counter(
            "rankwell_shed", "Requests that were refused for want of room or time", ["why"], registry=registry
        )
        self._shed = {why: shed.labels(why) for why in _SHED}
        self.queue = Gauge(
            "rankwell_queue_length", "Requests that wait", registry=registry, multiprocess_mode="livesum"
        )
        self._candidates = Counter("rankwell_candidates", "Candidates that were scored", registry=registry)
        self._features = Counter(
            "rankwell_feature_lookups", "Ids looked up in the feature store", ["of", "found"], registry=registry
        )
        self._log_rows = Counter("rankwell_log_rows", "Rows for the log", ["log", "outcome"], registry=registry)
        self.log_is_healthy = Gauge(
            "rankwell_log_is_healthy", "1 where the log takes rows", registry=registry, multiprocess_mode="livemin"
        )
        self._bundles = Gauge(
            "rankwell_bundle_info",
            "1 for the bundle in each role: current, canary, shadow",
            ["role", "bundle_id"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.corrections = Gauge(
            "rankwell_corrections_in_force", "1 where a correction is applied", registry=registry,
            multiprocess_mode="livemax",
        )  # fmt: skip
        self.problems = Gauge(
            "rankwell_problems", "Things that readiness names as wrong", registry=registry, multiprocess_mode="livemax"
        )
        self.shadow_difference = Histogram(
            "rankwell_shadow_difference",
            "Mean absolute difference of a shadow's probabilities from those that were answered, by request",
            buckets=(1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.5),
            registry=registry,
        )
        self.shadow_dropped = Counter(
            "rankwell_shadow_dropped", "Requests that a shadow had no time for, or failed on", registry=registry
        )
        self._roles: dict[str, str] = {}
        self._counted: dict[tuple[str, ...], int] = {}
        self._lock = threading.Lock()

    def observe(self, seconds: Mapping[str, float]) -> None:
        """Time the stages of a request."""
        for stage, taken_s in seconds.items():
            self._stages[stage].observe(taken_s)

    def answered(self, route: str, status: int) -> None:
        """Count an answer."""
        key = (route, status)
        counter = self._answered.get(key)
        if counter is None:
            counter = self._answered[key] = self._requests.labels(route, str(status))
        counter.inc()

    def shed(self, why: str) -> None:
        """Count a request that was refused for want of room or time."""
        self._shed[why].inc()

    def scored(self, num_candidates: int) -> None:
        """Count candidates."""
        self._candidates.inc(num_candidates)

    def features(self, store: str, counts: FeatureCounts) -> None:
        """Bring counts of look-ups up to those of a store."""
        for of, found in (("items", counts.items), ("members", counts.members)):
            lost = {"missing": found.num_missing, "late": found.num_late, "failed": found.num_failed}
            for outcome, num in {"yes": found.num_looked_up - sum(lost.values()), **lost}.items():
                self._raise(self._features, (of, outcome), store, num)

    def logged(self, log: str, counts: LogCounts) -> None:
        """Bring counts of rows up to those of a log."""
        self._raise(self._log_rows, (log, "appended"), "", counts.appended)
        for reason, num in counts.by_reason.items():
            self._raise(self._log_rows, (log, reason), "", num)

    def bundles(self, roles: Mapping[str, str]) -> None:
        """Say which bundle has which role."""
        for role in {*self._roles, *roles}:
            old, new = self._roles.get(role), roles.get(role)
            if old is not None and old != new:
                self._bundles.labels(role, old).set(0)
            if new is not None:
                self._bundles.labels(role, new).set(1)
        self._roles = dict(roles)

    def text(self) -> bytes:
        """All of it, of all workers, in Prometheus's text format."""
        if _FOLDER not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def _raise(self, counter: Counter, labels: tuple[str, ...], of: str, total: int) -> None:
        key = (*labels, of)
        with self._lock:  # /metrics and the worker's watch bring them up to date, each from a thread
            if total > self._counted.get(key, 0):
                counter.labels(*labels).inc(total - self._counted.get(key, 0))
                self._counted[key] = total
