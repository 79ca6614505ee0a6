"""Recent activity: what the member did before the request, oldest first.

Letters in names: R requests · H events, flat · X events of one request (a rectangle) · O proposals for an event.

A history has an older part, of the member's own taste, and a part of this session, in which the session's mood
shows: its jobs are mostly of the industry the member is after, and the eager have acted more. Each event is the job
that the member prefers among some that came up, by the same preference that drives clicks (Gumbel-max: a softmax
choice), and what they did is drawn from the same p(like | examined), p(share | click) and p(apply | click).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.simulation.population import Ints, Population
from rankwell.simulation.preference import PairParts, next_action_logits, pair_parts, sigmoid
from rankwell.simulation.sessions import Sessions
from rankwell.simulation.settings import ACTIONS, MarketplaceSettings

__all__ = ["MAX_EVENTS", "RecentActivity", "recall_activity"]

_MAX_OLDER: Final = 14
_MAX_IN_SESSION: Final = 8
MAX_EVENTS: Final = _MAX_OLDER + _MAX_IN_SESSION
_PROPOSALS: Final = 2


@final
@dataclass(frozen=True, slots=True)
class RecentActivity:
    """Events, flat; those of request r are ``offsets_R[r]:offsets_R[r + 1]`` (R + 1 offsets), oldest first.

    `action_H` is an index into `ACTIONS`: the furthest that the member went.
    """

    job_H: Ints
    action_H: Ints
    time_us_H: Ints
    offsets_R: Ints


def recall_activity(
    settings: MarketplaceSettings,
    population: Population,
    sessions: Sessions,
    intercepts: Mapping[str, float],
    rng: np.random.Generator,
) -> RecentActivity:
    """Draw each request's recent activity.

    Args:
        intercepts: By action, as the marketplace was fitted to its rates.
    """
    members, jobs = population.members, population.jobs
    num_requests = len(sessions)
    older_R = np.minimum(rng.poisson(6.0 * np.minimum(members.activity_M[sessions.member_R], 2.0)), _MAX_OLDER)
    in_session_R = np.minimum(rng.poisson(2.5 * np.exp(0.5 * sessions.eagerness_R)), _MAX_IN_SESSION)
    count_R = older_R + in_session_R
    offsets_R = np.concatenate([[0], np.cumsum(count_R)])

    # Columns run from the latest event to the oldest; the session's come first.
    column = np.arange(MAX_EVENTS)
    happened_RX = column < count_R[:, None]
    fresh_RX = column < in_session_R[:, None]
    # Gaps between events: minutes within a session, a day or so before it.
    mean_gap_us_RX = np.where(fresh_RX, 5 * 60e6, 20 * 3600e6)
    gap_us_RX = rng.standard_exponential((num_requests, MAX_EVENTS), dtype=np.float32) * mean_gap_us_RX
    age_us_RX = settings.ingest_delay_s * 1e6 + np.cumsum(gap_us_RX, axis=1)
    # More than the delay, to the microsecond: an event of just that age is not in the history.
    age_us_RX = np.maximum(np.ceil(age_us_RX), round(settings.ingest_delay_s * 1e6) + 1)
    time_us_RX = sessions.time_us_R[:, None] - age_us_RX.astype(np.int64)

    happened_XR = happened_RX[:, ::-1]
    time_us_H = time_us_RX[:, ::-1][happened_XR]
    fresh_H = fresh_RX[:, ::-1][happened_XR]
    request_H = np.repeat(np.arange(num_requests), count_R)
    member_H = sessions.member_R[request_H]
    num_events = len(request_H)

    wanted_H = np.where(fresh_H, sessions.industry_R[request_H], members.industry_M[member_H])
    focus_H = np.where(fresh_H, 0.85, 0.4)
    focused_HO = rng.random((num_events, _PROPOSALS)) < focus_H[:, None]
    job_HO = jobs.draw(rng.random((num_events, _PROPOSALS)), np.where(focused_HO, wanted_H[:, None], -1))
    pairs = pair_parts(settings, population, np.repeat(member_H, _PROPOSALS), job_HO.ravel())
    preference_HO = pairs.preference_C.reshape(num_events, _PROPOSALS) + rng.gumbel(size=(num_events, _PROPOSALS))
    chosen_H = np.argmax(preference_HO, axis=1) + np.arange(num_events) * _PROPOSALS

    eagerness_H = np.where(fresh_H, sessions.eagerness_R[request_H], np.float32(0))
    action_H = _furthest_action(pairs.take(chosen_H), eagerness_H, intercepts, rng)
    return RecentActivity(job_H=job_HO.ravel()[chosen_H], action_H=action_H, time_us_H=time_us_H, offsets_R=offsets_R)


def _furthest_action(
    pairs: PairParts, eagerness_H: NDArray[np.float32], intercepts: Mapping[str, float], rng: np.random.Generator
) -> Ints:
    logits = next_action_logits(pairs, eagerness_H)
    action_H = np.zeros(len(eagerness_H), dtype=np.int64)
    for action, logit_H in logits.items():
        took_H = rng.random(len(eagerness_H), dtype=np.float32) < sigmoid(logit_H + np.float32(intercepts[action]))
        action_H[took_H] = ACTIONS.index(action)
    return action_H
