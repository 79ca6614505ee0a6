"""What the columns of a simulated log mean."""

from __future__ import annotations

from typing import Final

import numpy as np

from rankwell.schema.actions import Action, Exposure
from rankwell.schema.columns import Categorical, Cross, Numeric, Place, Sequence, TableSpec
from rankwell.schema.schema import Schema
from rankwell.schema.transforms import Log, Quantiles, Transform
from rankwell.simulation.population import Floats, Ints
from rankwell.simulation.sessions import HOURS_A_WEEK
from rankwell.simulation.settings import ACTIONS, NUM_SENIORITIES, MarketplaceSettings

__all__ = ["EXPERIENCE_BAND_EDGES", "experience_band", "marketplace_schema"]

EXPERIENCE_BAND_EDGES: Final = (2.0, 5.0, 10.0, 15.0, 20.0)
"""Years at which the next band of experience begins."""

_WINDOW_S: Final = {"click": 1_800.0, "like": 86_400.0, "share": 86_400.0, "apply": 604_800.0}


def marketplace_schema(settings: MarketplaceSettings | None = None, *, experience: Transform | None = None) -> Schema:
    """The schema of a log simulated with `settings`.

    Latent tastes, moods and job qualities have no column. Gender and the band of experience are protected: kept for
    audits and segments, and no features.

    Args:
        settings: Gives the sizes of the closed vocabularies; by default the default settings.
        experience: Transform of the member's years of experience; by default 12 quantile buckets. Only a bucketed
            one is crossed with the job's seniority.

    >>> schema = marketplace_schema()
    >>> [action.name for action in schema.actions], [cross.name for cross in schema.crosses][:2]
    (['click', 'like', 'share', 'apply'], ['title_x_job_title', 'industry_x_job_industry'])
    """
    settings = settings or MarketplaceSettings()
    experience = experience or Quantiles(num_buckets=12)
    crosses = [
        Cross(of=("title", "job_title"), num_rows=2**16),
        Cross(of=("industry", "job_industry"), num_rows=2**14),
        Cross(of=("seniority", "job_seniority"), num_rows=2**12),
        Cross(of=("home_city", "job_city"), num_rows=2**14),
    ]
    if isinstance(experience, Quantiles):
        crosses.append(Cross(of=("experience_years", "job_seniority"), num_rows=2**12))
    return Schema(
        features=(
            Categorical(name="member", on="request", column="member_id", num_rows=2**17),
            Categorical(name="title", on="request", num_ids=settings.num_titles),
            Categorical(name="seniority", on="request", num_ids=NUM_SENIORITIES),
            Categorical(name="industry", on="request", num_ids=settings.num_industries),
            Numeric(name="experience_years", on="request", transform=experience),
            Categorical(name="home_city", on="request", num_ids=settings.num_cities),
            Place(name="home", on="request"),
            Categorical(name="hour_of_week", on="request", num_ids=HOURS_A_WEEK),
            Categorical(name="job", column="job_id", table="job"),
            Categorical(name="job_title", num_ids=settings.num_titles),
            Categorical(name="job_seniority", num_ids=NUM_SENIORITIES),
            Categorical(name="job_industry", table="job_industry"),
            Categorical(name="job_city", num_ids=settings.num_cities),
            Place(name="job_place"),
            Numeric(name="min_experience"),
            Numeric(name="salary", transform=Log()),
            Numeric(name="retrieval_score"),
        ),
        actions=tuple(Action(name=action, window_s=_WINDOW_S[action]) for action in ACTIONS),
        sequences=(
            Sequence(
                name="history",
                fields=(
                    Categorical(name="item", on="event", table="job"),
                    Categorical(name="industry", on="event", table="job_industry"),
                    Categorical(name="action", on="event", table="history_action", num_ids=len(ACTIONS)),
                ),
            ),
        ),
        crosses=tuple(crosses),
        tables=(
            TableSpec(name="job", num_rows=2**16),
            TableSpec(name="job_industry", num_ids=settings.num_industries),
        ),
        item="job",
        exposure=Exposure(
            position="position",
            propensity="slot_propensity",
            retrieval="retrieval_exposure",
            examination="examination",
        ),
        bid="bid_micros",
        protected=(
            Categorical(name="gender", on="request", num_ids=3),
            Categorical(name="experience_band", on="request", num_ids=len(EXPERIENCE_BAND_EDGES) + 1),
        ),
        ingest_delay_s=settings.ingest_delay_s,
    )


def experience_band(years: Floats) -> Ints:
    """The band of experience: 0 below 2 years, then from 2, 5, 10, 15 and 20 years on.

    >>> experience_band(np.array([0.0, 2.0, 30.0], dtype=np.float32))
    array([0, 1, 5])
    """
    return np.searchsorted(np.array(EXPERIENCE_BAND_EDGES), years, side="right").astype(np.int64)
