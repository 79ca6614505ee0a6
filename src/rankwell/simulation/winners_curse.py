"""Requests whose logits err in ways that a calibrator of logits cannot see, and whose truth is known.

Letters: R requests · C candidates, flat over requests.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from rankwell.errors import RecipeError

__all__ = ["CurseSettings", "CursedRequests", "cursed_requests"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CurseSettings:
    """How much logits err, for whom, and who knows.

    Args:
        noise: sd of the error of a logit, of an item that was seen as often as the geometric mean of the two ends: .1
            is 10 % in the odds.
        fewest_sightings, most_sightings: Between which items are spread, evenly in the logarithm; the error falls with
            the root of the sightings.
        bid_correlation: Of ln bid and the error over its sd, in (−1, 1): bidders are misled alike.
        bid_spread: sd of ln bid.
        fewest, most: Candidates of a request, uniform.
        mean, spread: Of the true log-odds of a click, normal.

    Raises:
        RecipeError: A setting is out of its range.
    """

    noise: float = 0.2
    fewest_sightings: int = 30
    most_sightings: int = 3000
    bid_correlation: float = 0.5
    bid_spread: float = 0.5
    fewest: int = 50
    most: int = 500
    mean: float = -3.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        holds = {
            "noise": self.noise >= 0,
            "fewest_sightings": 1 <= self.fewest_sightings <= self.most_sightings,
            "bid_correlation": -1 < self.bid_correlation < 1,
            "bid_spread": self.bid_spread >= 0,
            "fewest": 1 <= self.fewest <= self.most,
            "spread": self.spread > 0,
        }
        for name, is_fine in holds.items():
            if not is_fine:
                raise RecipeError("a setting is out of range", found={name: dataclasses.asdict(self)[name]})


@final
@dataclass(frozen=True, slots=True, eq=False)
class CursedRequests:
    """Scored candidates and their truth.

    Args:
        request_C: int64, ascending.
        logits_C: As a model gave them.
        sightings_C: Of the item, in the model's training.
        bids_C: Micros.
        true_probabilities_C: Of a click.
        labels_C: Drawn by them.
    """

    request_C: Tensor
    logits_C: Tensor
    sightings_C: Tensor
    bids_C: Tensor
    true_probabilities_C: Tensor
    labels_C: Tensor

    @property
    def uncertainty_C(self) -> Tensor:
        """1/√(1 + sightings): what one knows of the size of an error without knowing it."""
        return 1 / (1 + self.sightings_C.double()).sqrt()


def cursed_requests(settings: CurseSettings, num_requests: int, *, seed: int) -> CursedRequests:
    """Draw requests.

    >>> requests = cursed_requests(CurseSettings(noise=0.0), 10, seed=0)
    >>> torch.allclose(requests.logits_C.sigmoid(), requests.true_probabilities_C)
    True
    """
    rng = np.random.default_rng(seed)
    lengths_R = rng.integers(settings.fewest, settings.most + 1, num_requests)
    num = int(lengths_R.sum())
    true_C = settings.mean + settings.spread * rng.standard_normal(num)
    low, high = math.log(settings.fewest_sightings), math.log(settings.most_sightings)
    sightings_C = np.exp(rng.uniform(low, high, num))
    error_C = rng.standard_normal(num)
    size_C = settings.noise * np.sqrt(math.exp((low + high) / 2) / sightings_C)
    rho = settings.bid_correlation
    log_bid_C = settings.bid_spread * (rho * error_C + np.sqrt(1 - rho**2) * rng.standard_normal(num))
    probability_C = 1 / (1 + np.exp(-true_C))
    columns = (
        np.repeat(np.arange(num_requests), lengths_R), true_C + size_C * error_C, sightings_C,
        1e6 * np.exp(log_bid_C), probability_C, (rng.random(num) < probability_C).astype(np.float64),
    )  # fmt: skip
    return CursedRequests(*(torch.from_numpy(np.asarray(column)) for column in columns))
