"""The truth: what makes a member click on a job they look at, and what they do next.

Letters in names: C candidates (or any pairs), flat · R requests.

The logit of p(click | examined) is an intercept plus the parts named in `CLICK_PARTS`. Given that a position is
examined, click and like are drawn independently of each other; share and apply are drawn given a click::

    p(click) = p(examined) · σ(click)          p(like)  = p(examined) · σ(like)
    p(share) = p(click) · σ(share)             p(apply) = p(click) · σ(apply)
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.simulation.population import Floats, Ints, Population
from rankwell.simulation.sessions import HOURS_A_WEEK, Sessions, hour_of_week
from rankwell.simulation.settings import MarketplaceSettings

__all__ = [
    "CLICK_PARTS",
    "PairParts",
    "click_parts",
    "distance_km",
    "experience_bump",
    "next_action_logits",
    "pair_parts",
    "sigmoid",
]

CLICK_PARTS: Final = (
    "taste",
    "affinity",
    "fit",
    "distance",
    "quality",
    "popularity",
    "experience",
    "mood",
    "eagerness",
    "time",
)
"""The parts of a click's logit, in the order of the truth's columns."""

_CITY_KM: Final = 15.0


@final
@dataclass(frozen=True, slots=True)
class PairParts:
    """The parts that depend on member and job only, as logits; `unmet_C` is missing experience in years."""

    taste_C: Floats
    affinity_C: Floats
    fit_C: Floats
    distance_C: Floats
    quality_C: Floats
    popularity_C: Floats
    unmet_C: Floats

    @property
    def preference_C(self) -> Floats:
        """Their sum: how much the member prefers this job, whatever the session."""
        return self.taste_C + self.affinity_C + self.fit_C + self.distance_C + self.quality_C + self.popularity_C

    def take(self, index: Ints) -> PairParts:
        """The parts of these pairs."""
        return PairParts(*(getattr(self, field.name)[index] for field in fields(self)))


def pair_parts(settings: MarketplaceSettings, population: Population, member_C: Ints, job_C: Ints) -> PairParts:
    """What member and job have for each other.

    Args:
        member_C, job_C: Indices of members and jobs.
    """
    members, jobs = population.members, population.jobs
    dot_C = np.einsum("ce,ce->c", members.taste_ME[member_C], jobs.taste_JE[job_C])
    gap_C = (jobs.seniority_J[job_C] - members.seniority_M[member_C]).astype(np.float32)
    same_industry_C = members.industry_M[member_C] == jobs.industry_J[job_C]
    unmet_C = np.maximum(jobs.min_experience_J[job_C] - members.experience_years_M[member_C], 0)
    # What a job of this seniority pays more than is usual draws the junior more than the senior.
    paid_C = np.log(jobs.salary_J)[job_C] - np.float32(10.3) - np.float32(0.2) * jobs.seniority_J[job_C]
    off_C = gap_C - np.float32(0.7)
    fit_C = (
        np.float32(0.8)
        - np.float32(0.45) * off_C * off_C / (1 + np.float32(0.25) * np.abs(off_C))
        + np.float32(0.7) * same_industry_C
        + np.float32(1.5) * np.tanh(2 * paid_C) / (1 + np.float32(0.2) * members.seniority_M[member_C])
        - np.float32(0.15) * np.minimum(unmet_C, 8)
    ).astype(np.float32)
    far_C = np.log1p(distance_km(population, member_C, job_C) / np.float32(_CITY_KM))
    title_C = members.title_M[member_C] * settings.num_titles + jobs.title_J[job_C]
    return PairParts(
        taste_C=np.float32(settings.taste_strength / settings.taste_width**0.5) * dot_C,
        affinity_C=np.float32(settings.memorised_affinity) * population.affinity_TT.ravel()[title_C],
        fit_C=np.float32(settings.fit_strength) * fit_C,
        distance_C=np.float32(-settings.distance_strength) * far_C,
        quality_C=np.float32(settings.quality_strength) * jobs.quality_J[job_C],
        popularity_C=np.float32(settings.popularity_strength) * jobs.log_popularity_J[job_C],
        unmet_C=unmet_C,
    )


def click_parts(
    settings: MarketplaceSettings,
    population: Population,
    sessions: Sessions,
    request_C: Ints,
    job_C: Ints,
    pairs: PairParts,
) -> dict[str, Floats]:
    """All parts of the click's logit by the names of `CLICK_PARTS`.

    Args:
        request_C: The candidate's request, an index into `sessions`.
        job_C: The candidate's job.
        pairs: `pair_parts` of the same candidates.
    """
    experience_R = experience_bump(population.members.experience_years_M)[sessions.member_R]
    time_R = _time_of_week()[hour_of_week(sessions.time_us_R)]
    eager_R = sessions.eagerness_R
    in_mood_C = population.jobs.industry_J[job_C] == sessions.industry_R[request_C]
    # The eager follow their mood more closely: an interaction of two latents.
    mood_R = np.float32(settings.mood_strength) * (1 + np.float32(0.3) * np.tanh(eager_R))
    return {
        "taste": pairs.taste_C,
        "affinity": pairs.affinity_C,
        "fit": pairs.fit_C,
        "distance": pairs.distance_C,
        "quality": pairs.quality_C,
        "popularity": pairs.popularity_C,
        "experience": (np.float32(settings.experience_effect) * experience_R)[request_C],
        "mood": mood_R[request_C] * in_mood_C,
        "eagerness": (np.float32(settings.eagerness_strength) * eager_R)[request_C],
        "time": (np.float32(settings.time_strength) * time_R)[request_C],
    }


def next_action_logits(pairs: PairParts, eagerness_C: Floats) -> dict[str, Floats]:
    """The logits of p(like | examined), p(share | click) and p(apply | click), less their intercepts.

    Args:
        pairs: `pair_parts` of the candidates.
        eagerness_C: The session's eagerness, in standard deviations.
    """
    return {
        "like": np.float32(0.6) * pairs.taste_C + pairs.quality_C + np.float32(0.3) * eagerness_C,
        "share": np.float32(0.4) * pairs.affinity_C + 2 * pairs.popularity_C + np.float32(0.2) * eagerness_C,
        "apply": pairs.fit_C + pairs.distance_C - np.float32(0.2) * pairs.unmet_C + np.float32(0.5) * eagerness_C,
    }


def experience_bump(years: Floats) -> Floats:
    """The effect of years of experience for ``experience_effect=1``: a bump around 7 years.

    ``exp(-((years - 7) / 5)²) - .5``: -.36 for a newcomer, .5 at 7 years, -.5 from 20 years on.

    >>> experience_bump(np.array([0, 7, 30], dtype=np.float32)).round(2).tolist()
    [-0.36..., 0.5, -0.5]
    """
    bump: Floats = np.exp(-(((years - np.float32(7)) / np.float32(5)) ** 2)) - np.float32(0.5)
    return bump


def distance_km(population: Population, member_C: Ints, job_C: Ints) -> Floats:
    """Kilometres from home to job on the tangent plane: 111.2 · √(Δlat² + (Δlon · cos lat)²)."""
    members, jobs = population.members, population.jobs
    shrink_M = np.cos(np.deg2rad(members.lat_M))
    north_C = jobs.lat_J[job_C] - members.lat_M[member_C]
    east_C = (jobs.lon_J[job_C] - members.lon_M[member_C]) * shrink_M[member_C]
    distance: Floats = np.float32(111.2) * np.sqrt(north_C * north_C + east_C * east_C)
    return distance


def sigmoid(logit: NDArray[Any]) -> NDArray[Any]:
    """1 / (1 + exp(-logit)), by tanh, which does not overflow."""
    half = logit.dtype.type(0.5)
    probability: NDArray[Any] = half + half * np.tanh(half * logit)
    return probability


def _time_of_week() -> Floats:
    """Between -1 and 1: members click most at eight in the evening, and more on the weekend."""
    hours = np.arange(HOURS_A_WEEK)
    cycle = 0.75 * np.cos(2 * np.pi * (hours % 24 - 20) / 24) + np.where(hours // 24 >= 5, 0.25, -0.25)
    return cycle.astype(np.float32)
