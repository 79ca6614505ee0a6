"""Who comes when, and in which mood.

Letters in names: R requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.simulation.population import Floats, Ints, Population
from rankwell.simulation.settings import MarketplaceSettings

__all__ = ["HOURS_A_WEEK", "Sessions", "hour_of_week", "open_sessions"]

HOURS_A_WEEK: Final = 168
_HOUR_US: Final = 3_600_000_000
_EPOCH_HOUR: Final = 72  # 1970 began on a Thursday


@final
@dataclass(frozen=True, slots=True)
class Sessions:
    """One session a request; arrays of R entries, in the order of time.

    `industry_R` is the industry the member is after just now and `eagerness_R` how eager they are, both latent: they
    show in the recent activity only.
    """

    request_id_R: Ints
    time_us_R: Ints
    member_R: Ints
    industry_R: Ints
    eagerness_R: Floats

    def __len__(self) -> int:
        return len(self.request_id_R)


def open_sessions(
    settings: MarketplaceSettings, population: Population, first: int, num: int, rng: np.random.Generator
) -> Sessions:
    """Requests number `first` … `first` + `num` - 1 of the log.

    Request i comes at the time t with Λ(t) = i + U_i, U_i uniform in [0, 1), where Λ is the expected number of requests
    up to t. So times ascend and follow the cycles of day and week, and no request's time depends on another's.
    """
    members, num_industries = population.members, settings.num_industries
    request_id_R = np.arange(first, first + num, dtype=np.int64)
    week_R, within_R = np.divmod((request_id_R + rng.random(num)) / settings.requests_per_day, 7.0)
    hour_R = np.interp(within_R, _days_of_requests(), np.arange(HOURS_A_WEEK + 1))
    time_us_R = settings.start_us + ((week_R * HOURS_A_WEEK + hour_R) * _HOUR_US).astype(np.int64)
    member_R = np.searchsorted(members.activity_cdf_M, rng.random(num), side="right").astype(np.int64)
    elsewhere_R = rng.integers(0, num_industries, num)
    return Sessions(
        request_id_R=request_id_R,
        time_us_R=time_us_R,
        member_R=member_R,
        industry_R=np.where(rng.random(num) < 0.5, members.industry_M[member_R], elsewhere_R),
        eagerness_R=rng.standard_normal(num, dtype=np.float32),
    )


def hour_of_week(time_us: Ints) -> Ints:
    """The hour of the week in UTC, 0 for Monday's first.

    >>> hour_of_week(np.array([0]))  # 1970 began on a Thursday
    array([72])
    """
    hours: Ints = (time_us // _HOUR_US + _EPOCH_HOUR) % HOURS_A_WEEK
    return hours


def _days_of_requests() -> NDArray[np.float64]:
    """Λ at each hour of the week, in days' worth of requests: 0 at its start, 7 at its end."""
    hours = np.arange(HOURS_A_WEEK)
    by_day = 1.0 + 0.75 * np.cos(2 * np.pi * (hours % 24 - 13.5) / 24)
    intensity = by_day * np.where(hours // 24 >= 5, 0.55, 1.0)
    return np.concatenate([[0.0], np.cumsum(intensity) * 7.0 / intensity.sum()])
