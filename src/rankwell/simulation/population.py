"""Who is in the marketplace: members and jobs, with what a log may show of them and what stays latent.

Letters in names: M members · J jobs · T titles · I industries · E taste width · P pairs or draws, flat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from rankwell.simulation.settings import NUM_SENIORITIES, MarketplaceSettings

__all__ = ["Floats", "Ints", "Jobs", "Members", "Population"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@final
@dataclass(frozen=True, slots=True)
class Members:
    """All members; arrays of M entries. `taste_ME` is latent, `gender_M` protected; the rest is in the log.

    `gender_M` is 0 or 1, or 2 where it was not told. `activity_cdf_M` is the cumulative share of requests.
    """

    title_M: Ints
    industry_M: Ints
    seniority_M: Ints
    experience_years_M: Floats
    city_M: Ints
    lat_M: Floats
    lon_M: Floats
    gender_M: Ints
    taste_ME: Floats
    activity_M: Floats
    activity_cdf_M: NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Jobs:
    """All jobs; arrays of J entries. `taste_JE` and `quality_J` are latent; the rest is in the log.

    `quality_J` drives retrieval and clicks and is no feature: a model can know it only by the job's id.
    """

    title_J: Ints
    industry_J: Ints
    seniority_J: Ints
    min_experience_J: Floats
    salary_J: Floats
    city_J: Ints
    lat_J: Floats
    lon_J: Floats
    bid_micros_J: Ints
    taste_JE: Floats
    quality_J: Floats
    log_popularity_J: Floats
    _by_industry_J: Ints
    _cdf_J: NDArray[np.float64]
    _industry_start_I: NDArray[np.float64]
    _industry_share_I: NDArray[np.float64]

    def draw(self, uniform: NDArray[np.float64], industry: Ints) -> Ints:
        """Jobs drawn in proportion to popularity, one for each entry.

        Args:
            uniform: In [0, 1).
            industry: Of the same shape: draw among this industry's jobs; -1 (or an industry without jobs): among all.
        """
        # The last entry of both arrays is "all industries", which is where -1 points.
        place = self._industry_start_I[industry] + uniform * self._industry_share_I[industry]
        index = np.searchsorted(self._cdf_J, place, side="right")
        drawn: Ints = self._by_industry_J[np.minimum(index, len(self._by_industry_J) - 1)]
        return drawn


@final
@dataclass(frozen=True, slots=True)
class Population:
    """Members, jobs, and the affinity of each (member's title, job's title)."""

    members: Members
    jobs: Jobs
    affinity_TT: Floats

    @classmethod
    def create(cls, settings: MarketplaceSettings, seed: int) -> Population:
        """Draw a population; the same settings and seed give the same one.

        >>> Population.create(MarketplaceSettings(num_members=9, num_jobs=4), seed=1).jobs.quality_J.shape
        (4,)
        """
        world = _World.create(settings, np.random.default_rng([seed, 0]))
        affinity_rng = np.random.default_rng([seed, 3])
        pairs = (settings.num_titles, settings.num_titles)
        affine = affinity_rng.random(pairs) < settings.affinity_density
        affinity_TT = np.where(affine, affinity_rng.standard_normal(pairs), 0.0).astype(np.float32)
        return cls(
            members=_members(settings, world, np.random.default_rng([seed, 1])),
            jobs=_jobs(settings, world, np.random.default_rng([seed, 2])),
            affinity_TT=affinity_TT,
        )


@final
@dataclass(frozen=True, slots=True)
class _World:
    """What members and jobs share: titles with their industries and tastes, industries, cities."""

    title_share_T: NDArray[np.float64]
    title_industry_T: Ints
    member_title_taste_TE: NDArray[np.float64]
    job_title_taste_TE: NDArray[np.float64]
    industry_taste_IE: NDArray[np.float64]
    city_share: NDArray[np.float64]
    city_lat: NDArray[np.float64]
    city_lon: NDArray[np.float64]

    @classmethod
    def create(cls, settings: MarketplaceSettings, rng: np.random.Generator) -> _World:
        width = settings.taste_width
        return cls(
            title_share_T=_zipf(settings.num_titles, 0.5),
            title_industry_T=rng.integers(0, settings.num_industries, settings.num_titles),
            member_title_taste_TE=rng.standard_normal((settings.num_titles, width)),
            job_title_taste_TE=rng.standard_normal((settings.num_titles, width)),
            industry_taste_IE=rng.standard_normal((settings.num_industries, width)),
            city_share=_zipf(settings.num_cities, 1.0),
            city_lat=rng.uniform(38.0, 58.0, settings.num_cities),
            city_lon=rng.uniform(-8.0, 26.0, settings.num_cities),
        )

    def industry_of(self, title: Ints, rng: np.random.Generator) -> Ints:
        """The title's own industry seven times in ten, else any."""
        elsewhere = rng.integers(0, len(self.industry_taste_IE), len(title))
        chosen: Ints = np.where(rng.random(len(title)) < 0.7, self.title_industry_T[title], elsewhere)
        return chosen

    def settle(self, num: int, rng: np.random.Generator) -> tuple[Ints, Floats, Floats]:
        """Cities, latitudes and longitudes: some 20 km around the centre of a city."""
        city = rng.choice(len(self.city_share), size=num, p=self.city_share)
        lat = self.city_lat[city] + 0.2 * rng.standard_normal(num)
        lon = self.city_lon[city] + 0.3 * rng.standard_normal(num)
        return city, lat.astype(np.float32), lon.astype(np.float32)


def _members(settings: MarketplaceSettings, world: _World, rng: np.random.Generator) -> Members:
    num, width = settings.num_members, settings.taste_width
    title = rng.choice(settings.num_titles, size=num, p=world.title_share_T)
    industry = world.industry_of(title, rng)
    years = np.minimum(rng.gamma(1.6, 6.5, num), 45.0).round(1)
    seniority = np.clip(np.round(0.6 + 0.24 * years + 1.1 * rng.standard_normal(num)), 0, NUM_SENIORITIES - 1)
    city, lat, lon = world.settle(num, rng)
    taste_ME = (
        0.70 * world.member_title_taste_TE[title]
        + 0.40 * world.industry_taste_IE[industry]
        + 0.59 * rng.standard_normal((num, width))
    )
    # Fewer of gender 1 among the long-serving, and titles are mixed unevenly, as in real logs.
    title_lean_T = 0.8 * rng.standard_normal(settings.num_titles)
    lean = title_lean_T[title] + 0.04 * (10.0 - years)
    gender = np.where(rng.random(num) < 1 / (1 + np.exp(-lean)), 1, 0)
    gender = np.where(rng.random(num) < 0.08, 2, gender)
    activity = np.exp(0.9 * rng.standard_normal(num))
    return Members(
        title_M=title,
        industry_M=industry,
        seniority_M=seniority.astype(np.int64),
        experience_years_M=years.astype(np.float32),
        city_M=city,
        lat_M=lat,
        lon_M=lon,
        gender_M=gender.astype(np.int64),
        taste_ME=taste_ME.astype(np.float32),
        activity_M=(activity / activity.mean()).astype(np.float32),
        activity_cdf_M=_cdf(activity),
    )


def _jobs(settings: MarketplaceSettings, world: _World, rng: np.random.Generator) -> Jobs:
    num, width = settings.num_jobs, settings.taste_width
    title = rng.choice(settings.num_titles, size=num, p=world.title_share_T)
    industry = world.industry_of(title, rng)
    seniority = rng.binomial(NUM_SENIORITIES - 1, 0.42, num)
    min_experience = np.clip(np.round(2.2 * seniority - 1.5 + 1.5 * rng.standard_normal(num)), 0, 20)
    salary = np.exp(10.3 + 0.2 * seniority + 0.2 * rng.standard_normal(num)).round(-2)
    city, lat, lon = world.settle(num, rng)
    taste_JE = (
        0.70 * world.job_title_taste_TE[title]
        + 0.40 * world.industry_taste_IE[industry]
        + 0.59 * rng.standard_normal((num, width))
    )
    quality = rng.standard_normal(num)
    share = np.empty(num)
    share[np.argsort(-(0.5 * quality + rng.standard_normal(num)))] = _zipf(num, settings.popularity_exponent)
    log_popularity = np.log(share)
    bid_micros = 1e6 * np.exp(0.2 + 0.12 * seniority + 0.5 * rng.standard_normal(num))

    by_industry = np.argsort(industry, kind="stable")
    cdf = _cdf(share[by_industry])
    share_I = np.bincount(industry, weights=share, minlength=settings.num_industries)
    start_I = np.concatenate([[0.0], np.cumsum(share_I)[:-1]])
    empty_I = share_I == 0
    return Jobs(
        title_J=title,
        industry_J=industry,
        seniority_J=seniority.astype(np.int64),
        min_experience_J=min_experience.astype(np.float32),
        salary_J=salary.astype(np.float32),
        city_J=city,
        lat_J=lat,
        lon_J=lon,
        bid_micros_J=np.round(bid_micros, -4).astype(np.int64),
        taste_JE=taste_JE.astype(np.float32),
        quality_J=quality.astype(np.float32),
        log_popularity_J=_standardised(log_popularity).astype(np.float32),
        _by_industry_J=by_industry,
        _cdf_J=cdf,
        _industry_start_I=np.append(np.where(empty_I, 0.0, start_I), 0.0),
        _industry_share_I=np.append(np.where(empty_I, 1.0, share_I), 1.0),
    )


def _zipf(num: int, exponent: float) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.arange(1, num + 1, dtype=np.float64) ** -exponent
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def _cdf(weights: NDArray[Any]) -> NDArray[np.float64]:
    cumulative: NDArray[np.float64] = np.cumsum(weights, dtype=np.float64)
    shares: NDArray[np.float64] = cumulative / cumulative[-1]
    return shares


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    scale = values.std()
    standardised: NDArray[np.float64] = (values - values.mean()) / (scale if scale > 0 else 1.0)
    return standardised
