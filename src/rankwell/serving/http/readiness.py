"""What a worker says of itself: whether it takes requests, and what is wrong with it."""

from __future__ import annotations

from typing import Any

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
    num_problems = len(live.problems)
    for name, log in (("served", state.served_log), ("actions", state.action_log)):
        if log is not None:
            log.seal_if_due()
            metrics.logged(name, log.counts)
            num_problems += not log.is_healthy
    logs = [log.is_healthy for log in (state.served_log, state.action_log) if log is not None]
    metrics.log_is_healthy.set(float(all(logs)))
    metrics.problems.set(num_problems)


def _in_force(served: ServedBundle, now_us: int) -> str | None:
    return served.at(now_us)[1]
