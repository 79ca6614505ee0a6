"""What may be chosen about the simulated marketplace: its size, its noise, and how strong each effect is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final, final

from rankwell.errors import RecipeError

__all__ = ["ACTIONS", "NUM_SENIORITIES", "MarketplaceSettings"]

ACTIONS: Final = ("click", "like", "share", "apply")
"""What a member may do with a job. Click and like need an examined position; share and apply need a click."""

NUM_SENIORITIES: Final = 8
"""Intern 0, entry 1, … senior 4, … executive 7."""

_MONDAY_US: Final = 1_767_571_200_000_000  # 2026-01-05T00:00Z


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MarketplaceSettings:
    """The size of a marketplace, the noise of its stages, and the strengths of its truth.

    Strengths are in logits of p(click | examined); 0 switches an effect off. Where it says "sd", the effect has about
    this standard deviation over shown candidates.

    Args:
        num_members, num_jobs: How many there are; members differ much in how often they come.
        num_titles, num_industries, num_cities: Sizes of the closed vocabularies, shared by members and jobs.
        taste_width: Width of the latent taste vectors.
        popularity_exponent: The job of popularity rank k is eligible in proportion to k^-exponent (Zipf).
        start_us: When the log begins, UTC microseconds; a Monday midnight.
        requests_per_day: Mean over a week; the day and the week have their cycles. More requests mean a longer log.
        ingest_delay_s: An action is in the history only when it is older than this.
        num_eligible: How many jobs the index offers to a request, before duplicates are merged.
        retrieval_rate: Mean probability that retrieval lets an eligible job through.
        retrieval_noise: Scale of the logistic noise on the retrieval score.
        seniority_bias: What one standard deviation of a job's seniority adds to its retrieval score.
        retrieval_taste: sd of the match of latent tastes in the retrieval score: what drives retrieval and clicks, and
            is no feature.
        uniform_retrieval: Whether retrieval lets each job through with one probability, whatever its score.
        production_noise: sd of the noise between the retrieval score and the order that the logging policy starts from.
        min_slots, max_slots: A page has uniformly many slots between the two; fewer are shown if retrieval finds fewer.
        exploration_slots: The 1-based positions in which the logging policy explores.
        exploration_rate: Probability that it explores in a request.
        examination_decay: P(examined at position k) = k^-decay.
        click_rate, like_rate, share_rate, apply_rate: Rates over shown candidates to which intercepts are fitted.
        taste_strength: sd of the match of latent tastes: low rank, so embeddings generalise over it.
        memorised_affinity: sd of the non-zero affinities of pairs (title, job title): of full rank and patternless, so
            a cross memorises what embeddings approximate badly.
        affinity_density: Share of such pairs.
        fit_strength: Size of the smooth effects of seniority gap, industry, salary and unmet experience.
        distance_strength: What an e-fold of distance costs.
        experience_effect: Height of the bump in the effect of the member's years of experience (peak at 7 years).
        mood_strength: What it adds that a job is of the industry the member is after in this session.
        eagerness_strength: sd of the session's eagerness.
        quality_strength: sd of the job's hidden quality, which drives retrieval too.
        popularity_strength: sd of log popularity's effect.
        time_strength: Half the difference between the best and the worst hour of the day.

    Raises:
        RecipeError: A setting is out of its range.

    >>> MarketplaceSettings(num_jobs=500).num_jobs
    500
    """

    num_members: int = 4_000
    num_jobs: int = 800
    num_titles: int = 80
    num_industries: int = 24
    num_cities: int = 25
    taste_width: int = 8
    popularity_exponent: float = 0.8
    start_us: int = _MONDAY_US
    requests_per_day: int = 3_000
    ingest_delay_s: float = 300.0

    num_eligible: int = 40
    retrieval_rate: float = 0.5
    retrieval_noise: float = 0.6
    seniority_bias: float = 0.5
    retrieval_taste: float = 0.3
    uniform_retrieval: bool = False
    production_noise: float = 0.5
    min_slots: int = 5
    max_slots: int = 20
    exploration_slots: tuple[int, ...] = (1, 3, 6, 10)
    exploration_rate: float = 0.25
    examination_decay: float = 0.5

    click_rate: float = 0.10
    like_rate: float = 0.03
    share_rate: float = 0.006
    apply_rate: float = 0.02
    taste_strength: float = 0.9
    memorised_affinity: float = 2.0
    affinity_density: float = 0.15
    fit_strength: float = 0.6
    distance_strength: float = 0.4
    experience_effect: float = 1.2
    mood_strength: float = 1.2
    eagerness_strength: float = 0.5
    quality_strength: float = 0.5
    popularity_strength: float = 0.2
    time_strength: float = 0.3

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_rate") or field.name == "affinity_density":
                self._refuse_unless(0 < value < 1, field.name, "a number between 0 and 1, both excluded")
            elif field.name.startswith(("num_", "min_", "max_")) or field.name in ("taste_width", "requests_per_day"):
                self._refuse_unless(value >= 1, field.name, "at least 1")
            elif field.name not in ("exploration_slots", "uniform_retrieval"):
                self._refuse_unless(0 <= value < float("inf"), field.name, "a finite number of at least 0")
        self._refuse_unless(self.retrieval_noise > 0, "retrieval_noise", "above 0: without noise nothing is random")
        self._refuse_unless(self.min_slots <= self.max_slots, "min_slots", f"at most max_slots, {self.max_slots}")
        slots = self.exploration_slots
        self._refuse_unless(
            list(slots) == sorted(set(slots)) and all(slot >= 1 for slot in slots),
            "exploration_slots",
            "ascending positions from 1 on, each once",
        )

    def _refuse_unless(self, holds: bool, name: str, allowed: str) -> None:
        if not holds:
            raise RecipeError(
                f"marketplace setting {name!r} is out of range", found=getattr(self, name), allowed=allowed
            )
