"""The marketplace itself: a population whose truth is fitted to the declared rates, and its requests chunk by chunk.

Letters in names: R requests · C candidates, flat · H history events, flat · P offers of one request · K positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from rankwell.errors import RecipeError
from rankwell.simulation.activity import RecentActivity, recall_activity
from rankwell.simulation.logging_policy import SlotExploration
from rankwell.simulation.population import Floats, Ints, Population
from rankwell.simulation.preference import click_parts, next_action_logits, pair_parts, sigmoid
from rankwell.simulation.retrieval import Offers, Retrieved, offer_jobs, retrieve, retrieve_uniformly
from rankwell.simulation.sessions import Sessions, open_sessions
from rankwell.simulation.settings import ACTIONS, MarketplaceSettings

__all__ = ["CHUNK_REQUESTS", "Chunk", "Marketplace", "MarketplaceSettings", "Pages", "Responses"]

CHUNK_REQUESTS: Final = 2048
"""Requests are drawn so many at a time, each chunk from (seed, chunk) alone."""

_PILOT_CHUNK: Final = 2**32
_PILOT_REQUESTS: Final = 4096


@final
@dataclass(frozen=True, slots=True)
class Pages:
    """What was shown: C candidates, flat, by request and position; `request_C` is an index in the chunk."""

    request_C: Ints
    job_C: Ints
    position_C: Ints
    length_R: Ints
    retrieval_score_C: Floats
    retrieval_exposure_C: Floats
    slot_propensity_C: Floats
    examination_C: Floats


@final
@dataclass(frozen=True, slots=True)
class Responses:
    """What members did, and the truth it was drawn from.

    Args:
        labels: By action, int8 of C.
        probabilities: By action, p(action | shown at its position), of C.
        click_examined_C: p(click | examined).
        examined_C: Whether the position was in fact examined.
        parts: The parts of the click's logit, by name.
    """

    labels: Mapping[str, NDArray[np.int8]]
    probabilities: Mapping[str, Floats]
    click_examined_C: Floats
    examined_C: NDArray[np.bool_]
    parts: Mapping[str, Floats]


@final
@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of the log with its truth."""

    sessions: Sessions
    activity: RecentActivity
    pages: Pages
    responses: Responses


@final
@dataclass(frozen=True, slots=True)
class Marketplace:
    """A job marketplace whose truth is known.

    Args:
        settings: What was chosen.
        seed: What everything is drawn from.
        population: Members and jobs.
        retrieval_threshold: The retrieval score from which a job is let through, fitted to `retrieval_rate`.
        intercepts: By action, fitted to the rates of the settings.
    """

    settings: MarketplaceSettings
    seed: int
    population: Population
    retrieval_threshold: float
    intercepts: Mapping[str, float]

    @classmethod
    def create(cls, settings: MarketplaceSettings, seed: int) -> Marketplace:
        """Draw a population and fit threshold and intercepts on a pilot that is in no log.

        Args:
            settings: Sizes, noise and strengths.
            seed: At least 0. The same settings and seed give the same marketplace.

        Raises:
            RecipeError: The declared rates can't be reached: more clicks than looks, or more applications than clicks.

        >>> marketplace = Marketplace.create(MarketplaceSettings(num_members=100, num_jobs=50), seed=1)
        >>> float(marketplace.chunk(0).responses.labels["click"].mean().round(1))
        0.1
        """
        population = Population.create(settings, seed)
        unfitted = cls(settings, seed, population, 0.0, dict.fromkeys(ACTIONS, 0.0))
        return unfitted._with_threshold()._with_intercepts()

    def chunk(self, number: int) -> Chunk:
        """The requests ``number · CHUNK_REQUESTS`` … of the log; the same whatever else is drawn."""
        sessions = self._sessions(number, CHUNK_REQUESTS)
        pages = self._pages(sessions, number)
        return Chunk(
            sessions=sessions,
            activity=recall_activity(
                self.settings, self.population, sessions, self.intercepts, self._rng(number, "activity")
            ),
            pages=pages,
            responses=self._respond(sessions, pages, self._rng(number, "responses")),
        )

    def exposed_uniformly(self) -> Marketplace:
        """The same members, jobs, requests and truth, where retrieval lets all that is offered through alike.

        >>> marketplace = Marketplace.create(MarketplaceSettings(num_members=100, num_jobs=50), seed=1)
        >>> uniform = marketplace.exposed_uniformly()
        >>> uniform.intercepts == marketplace.intercepts, uniform.settings.uniform_retrieval
        (True, True)
        """
        return replace(self, settings=replace(self.settings, uniform_retrieval=True))

    @property
    def policy(self) -> SlotExploration:
        """The logging policy."""
        return SlotExploration(self.settings.exploration_slots, self.settings.exploration_rate)

    def _rng(self, chunk: int, stage: str) -> np.random.Generator:
        """A stream for each stage, so that a change of one leaves the draws of the others."""
        stages = ("sessions", "offers", "retrieval", "pages", "responses", "activity")
        return np.random.default_rng([self.seed, 1000 + stages.index(stage), chunk])

    def _sessions(self, number: int, num: int) -> Sessions:
        first = 0 if number == _PILOT_CHUNK else number * CHUNK_REQUESTS
        return open_sessions(self.settings, self.population, first, num, self._rng(number, "sessions"))

    def _pages(self, sessions: Sessions, number: int) -> Pages:
        settings = self.settings
        offers = offer_jobs(settings, self.population, sessions, self._rng(number, "offers"))
        retrieved = self._retrieved(offers, self._rng(number, "retrieval"))
        rng = self._rng(number, "pages")
        noise_RP = rng.standard_normal(retrieved.score_RP.shape, dtype=np.float32)
        shown = self.policy.show(
            retrieved.score_RP + np.float32(settings.production_noise) * noise_RP,
            retrieved.passed_RP,
            rng.integers(settings.min_slots, settings.max_slots + 1, len(sessions)),
            rng,
        )
        request_C, column_C = np.nonzero(shown.filled_RK)
        choice_C = shown.choice_RK[request_C, column_C]
        examination_K = np.arange(1, shown.choice_RK.shape[1] + 1) ** -settings.examination_decay
        return Pages(
            request_C=request_C,
            job_C=retrieved.job_RP[request_C, choice_C],
            position_C=column_C + 1,
            length_R=shown.length_R,
            retrieval_score_C=retrieved.score_RP[request_C, choice_C],
            retrieval_exposure_C=retrieved.exposure_RP[request_C, choice_C],
            slot_propensity_C=shown.propensity_RK[request_C, column_C],
            examination_C=examination_K.astype(np.float32)[column_C],
        )

    def _retrieved(self, offers: Offers, rng: np.random.Generator) -> Retrieved:
        settings = self.settings
        if settings.uniform_retrieval:
            return retrieve_uniformly(offers, rate=settings.retrieval_rate, noise=settings.retrieval_noise, rng=rng)
        return retrieve(offers, threshold=self.retrieval_threshold, noise=settings.retrieval_noise, rng=rng)

    def _logits(self, sessions: Sessions, pages: Pages) -> tuple[dict[str, Floats], dict[str, Floats]]:
        """The click's parts by name, and the other actions' logits less their intercepts."""
        request_C, job_C = pages.request_C, pages.job_C
        pairs = pair_parts(self.settings, self.population, sessions.member_R[request_C], job_C)
        parts = click_parts(self.settings, self.population, sessions, request_C, job_C, pairs)
        return parts, next_action_logits(pairs, sessions.eagerness_R[request_C])

    def _respond(self, sessions: Sessions, pages: Pages, rng: np.random.Generator) -> Responses:
        parts, next_logits = self._logits(sessions, pages)
        click_examined_C = sigmoid(_sum(parts) + np.float32(self.intercepts["click"]))
        given = {
            action: sigmoid(logit_C + np.float32(self.intercepts[action])) for action, logit_C in next_logits.items()
        }

        num = len(click_examined_C)
        uniform = rng.random((1 + len(ACTIONS), num), dtype=np.float32)
        examined_C = uniform[0] < pages.examination_C
        clicked_C = examined_C & (uniform[1] < click_examined_C)
        labels = {"click": clicked_C}
        for row, (action, given_C) in enumerate(given.items(), start=2):
            labels[action] = (examined_C if action == "like" else clicked_C) & (uniform[row] < given_C)

        click_C = pages.examination_C * click_examined_C
        probabilities = {"click": click_C}
        for action, given_C in given.items():
            probabilities[action] = (pages.examination_C if action == "like" else click_C) * given_C
        return Responses(
            labels={action: label_C.view(np.int8) for action, label_C in labels.items()},
            probabilities=probabilities,
            click_examined_C=click_examined_C,
            examined_C=examined_C,
            parts=parts,
        )

    def _with_threshold(self) -> Marketplace:
        sessions = self._sessions(_PILOT_CHUNK, _PILOT_REQUESTS)
        offers = offer_jobs(self.settings, self.population, sessions, self._rng(_PILOT_CHUNK, "offers"))
        steep = offers.expected_score_RP.astype(np.float64) / self.settings.retrieval_noise
        shift = _intercept(steep, np.ones(()), self.settings.retrieval_rate, "retrieval_rate")
        return replace(self, retrieval_threshold=-shift * self.settings.retrieval_noise)

    def _with_intercepts(self) -> Marketplace:
        settings = self.settings
        sessions = self._sessions(_PILOT_CHUNK, _PILOT_REQUESTS)
        pages = self._pages(sessions, _PILOT_CHUNK)
        parts, next_logits = self._logits(sessions, pages)
        logit_C = _sum(parts).astype(np.float64)
        click = _intercept(logit_C, pages.examination_C, settings.click_rate, "click_rate")
        click_C = pages.examination_C * expit(logit_C + click)
        rates = {"like": settings.like_rate, "share": settings.share_rate, "apply": settings.apply_rate}
        intercepts = {"click": click}
        for action, rate in rates.items():
            chance_C = pages.examination_C if action == "like" else click_C
            intercepts[action] = _intercept(next_logits[action], chance_C, rate, f"{action}_rate")
        return replace(self, intercepts=intercepts)


def _sum(parts: Mapping[str, Floats]) -> Floats:
    total: Floats = np.sum(list(parts.values()), axis=0)
    return total


def _intercept(logit_C: NDArray[Any], chance_C: NDArray[Any], rate: float, name: str) -> float:
    """The b for which mean(chance · σ(logit + b)) is the rate."""
    if rate >= 0.95 * chance_C.mean():
        raise RecipeError(
            f"marketplace setting {name!r} can't be reached",
            found=rate,
            allowed=f"below {0.95 * float(chance_C.mean()):.3f}, 95 % of the mean chance to act at all",
        )
    logit_C = logit_C.astype(np.float64)
    return float(brentq(lambda b: float((chance_C * expit(logit_C + b)).mean()) - rate, -60.0, 60.0, xtol=1e-6))
