"""The retrieval stage: from all jobs to those that the logging policy may rank.

Letters in names: R requests · P the jobs that the index offers to one request (a rectangle, duplicates masked).

The index offers jobs by popularity, every third from the member's industry. Each offered job has a retrieval score:
what the retriever makes of it, biased to senior jobs, plus logistic noise. Retrieval lets it through where the score
exceeds a threshold, so for each job by itself::

    retrieval exposure = P(let through | offered) = σ((expected score - threshold) / noise)

The first job offered is let through always (its exposure is 1): no request comes back empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from rankwell.simulation.population import Floats, Ints, Population
from rankwell.simulation.preference import sigmoid
from rankwell.simulation.sessions import Sessions
from rankwell.simulation.settings import NUM_SENIORITIES, MarketplaceSettings

__all__ = ["Offers", "Retrieved", "offer_jobs", "retrieval_exposure", "retrieve", "retrieve_uniformly"]


@final
@dataclass(frozen=True, slots=True)
class Offers:
    """What the index offers: jobs, the scores that the retriever expects, and which entries repeat an earlier one."""

    job_RP: Ints
    expected_score_RP: Floats
    repeated_RP: NDArray[np.bool_]


@final
@dataclass(frozen=True, slots=True)
class Retrieved:
    """What retrieval lets through of the offers: `passed_RP`. The score is a feature, the exposure is audited."""

    job_RP: Ints
    score_RP: Floats
    exposure_RP: Floats
    passed_RP: NDArray[np.bool_]


def offer_jobs(
    settings: MarketplaceSettings, population: Population, sessions: Sessions, rng: np.random.Generator
) -> Offers:
    """Draw the index's offers for each request and what the retriever expects of them."""
    members, jobs = population.members, population.jobs
    shape = (len(sessions), settings.num_eligible)
    own_RP = rng.random(shape, dtype=np.float32) < 1 / 3
    industry_RP = np.where(own_RP, members.industry_M[sessions.member_R][:, None], -1)
    job_RP = jobs.draw(rng.random(shape), industry_RP)

    taste_RPE = jobs.taste_JE[job_RP]
    match_RP = np.matmul(taste_RPE, members.taste_ME[sessions.member_R][:, :, None])[:, :, 0]
    bias_J = (
        np.float32(settings.seniority_bias) * (jobs.seniority_J - np.float32(0.42 * (NUM_SENIORITIES - 1))) / 1.3
        + np.float32(0.4) * jobs.quality_J
        + np.float32(0.2) * jobs.log_popularity_J
    ).astype(np.float32)
    same_industry_RP = jobs.industry_J[job_RP] == members.industry_M[sessions.member_R][:, None]
    match_RP *= np.float32(settings.retrieval_taste / settings.taste_width**0.5)
    return Offers(
        job_RP=job_RP,
        expected_score_RP=match_RP + bias_J[job_RP] + np.float32(0.3) * same_industry_RP,
        repeated_RP=_repeated(job_RP),
    )


def retrieval_exposure(expected_score: Floats, *, threshold: float, noise: float) -> Floats:
    """P(let through | offered) = σ((expected score - threshold) / noise), but for the first job offered.

    >>> retrieval_exposure(np.zeros(1, dtype=np.float32), threshold=0.0, noise=0.6)
    array([0.5], dtype=float32)
    """
    return sigmoid((expected_score - np.float32(threshold)) / np.float32(noise))


def retrieve(offers: Offers, *, threshold: float, noise: float, rng: np.random.Generator) -> Retrieved:
    """Draw noisy scores and let through what exceeds the threshold, and the first job offered.

    Args:
        threshold: In units of the score.
        noise: Scale of the logistic noise.
    """
    score_RP = _noisy_scores(offers, noise, rng)
    exposure_RP = retrieval_exposure(offers.expected_score_RP, threshold=threshold, noise=noise)
    exposure_RP[:, 0] = 1.0
    passed_RP = (score_RP > np.float32(threshold)) & ~offers.repeated_RP
    passed_RP[:, 0] = True
    return Retrieved(job_RP=offers.job_RP, score_RP=score_RP, exposure_RP=exposure_RP, passed_RP=passed_RP)


def retrieve_uniformly(offers: Offers, *, rate: float, noise: float, rng: np.random.Generator) -> Retrieved:
    """Draw the same noisy scores, and let each job through by a coin that knows nothing of them.

    Args:
        rate: The exposure of each job but the first.
        noise: Scale of the logistic noise.
    """
    score_RP = _noisy_scores(offers, noise, rng)
    exposure_RP = np.full(score_RP.shape, rate, dtype=np.float32)
    passed_RP = (rng.random(score_RP.shape, dtype=np.float32) < exposure_RP) & ~offers.repeated_RP
    exposure_RP[:, 0] = 1.0
    passed_RP[:, 0] = True
    return Retrieved(job_RP=offers.job_RP, score_RP=score_RP, exposure_RP=exposure_RP, passed_RP=passed_RP)


def _noisy_scores(offers: Offers, noise: float, rng: np.random.Generator) -> Floats:
    # Odd multiples of 2^-24: exact in float32, and half a step away from 0 and 1, where the logistic is infinite.
    step_RP = rng.integers(0, 2**23, offers.job_RP.shape, dtype=np.int32)
    uniform_RP: Floats = (step_RP.astype(np.float32) + np.float32(0.5)) * np.float32(2**-23)
    logistic_RP: Floats = np.log(uniform_RP) - np.log1p(-uniform_RP)
    return offers.expected_score_RP + np.float32(noise) * logistic_RP


def _repeated(job_RP: Ints) -> NDArray[np.bool_]:
    """Whether an entry repeats one further left in its row."""
    order_RP = np.argsort(job_RP, axis=1, kind="stable")
    sorted_RP = np.take_along_axis(job_RP, order_RP, axis=1)
    repeated_RP = np.zeros(job_RP.shape, dtype=np.bool_)
    np.put_along_axis(repeated_RP, order_RP[:, 1:], sorted_RP[:, 1:] == sorted_RP[:, :-1], axis=1)
    return repeated_RP
