"""What a worker says of itself: whether it takes requests, and what is wrong with it."""

from __future__ import annotations

from typing import Any

from rankwell.serving.feature_counts import FeatureCounts
from rankwell.serving.http.server_state import ServerState
from rankwell.serving.live_bundles import ServedBundle

__all__ = ["readiness", "report"]


def readiness(state: ServerState) -> dict[str, Any]:
    """The truth of this moment; it tries the disk where a log has failed.

    ``ready`` is whether requests should come: not while draining. ``problems`` are what an operator should see to while
    they are answered all the same: a bundle, a correction or a version of the features that was refused, a full disk.
    """
    live, now_us = state.live, state.clock.now_us()
    problems = dict(live.problems)
    for name, log in (("served log", state.served_log), ("action log", state.action_log)):
        if log is not None and not log.probe():
            problems[name] = f"not logged: {dict(log.counts.by_reason)}"
    if state.features_lost:
        problems["features"] = state.features_lost
    roles = {"bundle_id": live.current, "canary_id": live.canary, "shadow_id": live.shadow}
    return {
        "ready": not state.is_draining,
        "is_draining": state.is_draining,
        **{role: None if served is None else served.bundle.id for role, served in roles.items()},
        "correction_id": _in_force(live.current, now_us),
        "problems": problems,
    }


def report(state: ServerState) -> None:
    """Bring the metrics that follow from the state up to date; called each second."""
    live, metrics = state.live, state.metrics
    roles = {"current": live.current, "canary": live.canary, "shadow": live.shadow}
    metrics.bundles({role: served.bundle.id for role, served in roles.items() if served is not None})
    metrics.corrections.set(float(_in_force(live.current, state.clock.now_us()) is not None))
    metrics.queue.set(len(state.queue))
    for served in {id(served): served for served in roles.values() if served is not None}.values():
        if served.store is not None:
            metrics.features(served.bundle.id, served.store.counts)
            _look_for_loss(state, served.bundle.id, served.store.counts)
    num_problems = len(live.problems) + bool(state.features_lost)
    for name, log in (("served", state.served_log), ("actions", state.action_log)):
        if log is not None:
            log.seal_if_due()
            metrics.logged(name, log.counts)
            num_problems += not log.is_healthy
    logs = [log.is_healthy for log in (state.served_log, state.action_log) if log is not None]
    metrics.log_is_healthy.set(float(all(logs)))
    metrics.problems.set(num_problems)


def _look_for_loss(state: ServerState, store: str, counts: FeatureCounts) -> None:
    """Whether ids that were looked up since the last time were late or lost; with no request, it is as it was."""
    found = counts.items + counts.members
    num, lost = found.num_looked_up, found.num_late + found.num_failed
    num_before, lost_before = state.features_counted.get(store, (0, 0))
    if num > num_before:
        state.features_counted[store] = (num, lost)
        was_lost = lost - lost_before
        state.features_lost = f"{was_lost} of the last {num - num_before} ids were late or lost" if was_lost else ""


def _in_force(served: ServedBundle, now_us: int) -> str | None:
    return served.at(now_us)[1]
