"""How likely it was that a candidate was shown, and looked at: estimated from a log, for weights of its rows.

Letters: C impressions, flat · K positions, from 1 · I items · S segments.

A click by the position-based model takes two things, a look that depends on the position alone and relevance::

    P(click | position k, item i) = θ_k · γ_i

Only products are seen, so θ is relative to the first position, θ_1 = 1; above 1 it says that a position is looked at
more often than the first. The model holds where what is shown at a position does not depend on more than the item:
where a policy puts what suits *this* member at the top, θ is too steep, unless impressions are weighted by how likely
the policy was to put them there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import numpy.typing as npt

from rankwell.errors import MetricError, TrainingError
from rankwell.evaluation.sample import (
    Column,
    Floats,
    category_column,
    group_rows,
    number_column,
    probability_column,
    weight_column,
)

__all__ = [
    "ExposureRates",
    "PositionModel",
    "check_clip",
    "examination_by_em",
    "examination_by_regression",
    "examination_given_relevance",
    "exposure_rates",
    "inverse_weights",
]

_Step = Callable[[Floats, Floats], tuple[Floats, Floats]]
_MAX_STEPS: Final = 2_000
_CONVERGED: Final = 1e-7
_LEAST: Final = 1e-12


@final
@dataclass(frozen=True, slots=True, eq=False)
class PositionModel:
    """What was estimated of looks and relevance.

    Args:
        examination_K: θ of the positions from 1 on, relative to the first; NaN where a position was never shown.
        items_I: The items, ascending; empty where relevance was given.
        relevance_I: γ: P(click) of each at the first position.
        num_steps: How many rounds it took.
    """

    examination_K: Floats
    items_I: npt.NDArray[np.generic]
    relevance_I: Floats
    num_steps: int

    def click(self, items_C: Column, positions_C: Column) -> Floats:
        """P(click) of items of the model at its positions: θ·γ.

        Raises:
            MetricError: An item or a position is not in the model.
        """
        item_C = category_column("items_C", items_C)
        position_C = _positions(positions_C, ("items_C", len(item_C)))
        place_C = np.minimum(np.searchsorted(self.items_I, item_C), max(len(self.items_I) - 1, 0))
        if position_C.max(initial=0) >= len(self.examination_K) or (self.items_I[place_C] != item_C).any():
            raise MetricError("an item or a position is not in the model", do="estimate it on a log that shows them")
        return self.examination_K[position_C] * self.relevance_I[place_C]


def examination_by_em(
    clicks_C: Column, positions_C: Column, items_C: Column, weights_C: Column | None = None
) -> PositionModel:
    """The most likely θ and γ of a position-based model, by expectation and maximisation.

    Of an impression without a click, ``P(examined) = θ(1−γ) / (1−θγ)`` and ``P(relevant) = γ(1−θ) / (1−θγ)``; θ and γ
    are the means of these (of 1 where there was a click). Impressions are summed by position and item first.

    Args:
        clicks_C: 0 or 1.
        positions_C: From 1.
        items_C: Ids, or anything that relevance is to be told apart by.
        weights_C: At least 0, such as 1 / propensity; by default 1.

    Raises:
        MetricError: A column cannot be used.
        TrainingError: Nothing was shown at the first position, or clicked there.

    >>> clicks_C, positions_C, items_C = [1, 0, 1, 0] * 2, [1, 1, 2, 2] * 2, [7] * 4 + [8] * 4
    >>> weights_C = [.4, .6, .2, .8, .2, .8, .1, .9]  # θ = 1 and .5, γ = .4 and .2
    >>> model = examination_by_em(clicks_C, positions_C, items_C, weights_C)
    >>> model.examination_K.round(4), model.relevance_I.round(4)
    (array([1. , 0.5]), array([0.4, 0.2]))

    Source: Wang et al. 2018, "Position bias estimation for unbiased learning to rank in personal search", WSDM.
    """
    cells = _Cells.of(clicks_C, positions_C, items_C, weights_C)
    clicks_KI, shown_KI = cells.clicks_KI, cells.shown_KI

    def better(theta_K: Floats, gamma_I: Floats) -> tuple[Floats, Floats]:
        missed_KI = (shown_KI - clicks_KI) / np.maximum(1 - theta_K[:, None] * gamma_I, _LEAST)
        examined_K = theta_K * (missed_KI @ (1 - gamma_I))
        relevant_I = gamma_I * ((1 - theta_K) @ missed_KI)
        theta_K = _share(clicks_KI.sum(1) + examined_K, shown_KI.sum(1))
        return theta_K, _share(clicks_KI.sum(0) + relevant_I, shown_KI.sum(0))

    return cells.fitted(better, np.full(len(shown_KI), 0.9), np.full(len(cells.items_I), 0.5))


def examination_by_regression(
    clicks_C: Column, positions_C: Column, items_C: Column, weights_C: Column | None = None
) -> PositionModel:
    """θ and γ by Poisson regression of clicks on position and item, ``ln E[clicks] = ln θ_k + ln γ_i``.

    Its equations are met by turns, ``θ_k = Σ clicks / Σ γ`` and ``γ_i = Σ clicks / Σ θ``. It needs the mean alone to be
    right, not that clicks are drawn independently, and for rare clicks it is what EM finds.

    Args:
        clicks_C, positions_C, items_C, weights_C: As of `examination_by_em`.

    Raises:
        MetricError: A column cannot be used.
        TrainingError: Nothing was shown at the first position, or clicked there.

    >>> clicks_C, positions_C, items_C = [1, 0, 1, 0] * 2, [1, 1, 2, 2] * 2, [7] * 4 + [8] * 4
    >>> weights_C = [.4, .6, .2, .8, .2, .8, .1, .9]  # θ = 1 and .5, γ = .4 and .2
    >>> model = examination_by_regression(clicks_C, positions_C, items_C, weights_C)
    >>> model.examination_K.round(4), model.relevance_I.round(4)
    (array([1. , 0.5]), array([0.4, 0.2]))

    Source: Santos Silva and Tenreyro 2006, "The log of gravity", for Poisson regression of what is no count.
    """
    cells = _Cells.of(clicks_C, positions_C, items_C, weights_C)
    clicks_KI, shown_KI = cells.clicks_KI, cells.shown_KI

    def better(theta_K: Floats, gamma_I: Floats) -> tuple[Floats, Floats]:
        theta_K = _share(clicks_KI.sum(1), shown_KI @ gamma_I)
        return theta_K, _share(clicks_KI.sum(0), theta_K @ shown_KI)

    return cells.fitted(better, np.ones(len(shown_KI)), _share(clicks_KI.sum(0), shown_KI.sum(0)))


def examination_given_relevance(
    clicks_C: Column, positions_C: Column, relevance_C: Column, weights_C: Column | None = None
) -> PositionModel:
    """θ where relevance is a model's: clicks by relevance shown, ``θ_k = Σ w·click / Σ w·γ``, relative to the first.

    γ need be right up to a factor, such as σ(logit) of a model of clicks at any position; what such a model took for
    relevance because of where it was shown is lost to θ.

    Args:
        clicks_C, positions_C, weights_C: As of `examination_by_em`.
        relevance_C: In [0, 1].

    Raises:
        MetricError: A column cannot be used.
        TrainingError: Nothing was shown at the first position, or clicked there.

    >>> examination_given_relevance([1, 1, 0, 1], [1, 1, 2, 2], [.9, .7, .8, .8]).examination_K.round(2)
    array([1. , 0.5])
    """
    click_C, position_C, weight_C = _columns(clicks_C, positions_C, weights_C)
    relevance_C = probability_column("relevance_C", relevance_C, like=("clicks_C", len(click_C)))
    num_positions = int(position_C.max(initial=0)) + 1
    clicks_K = _sums(position_C, weight_C * click_C, num_positions)
    relevant_K = _sums(position_C, weight_C * relevance_C, num_positions)
    _check_first(relevant_K, clicks_K)
    theta_K = np.divide(clicks_K, relevant_K, out=np.full(num_positions, np.nan), where=relevant_K > 0)
    return PositionModel(theta_K / theta_K[0], np.zeros(0, np.int64), np.zeros(0), 1)


@final
@dataclass(frozen=True, slots=True, eq=False)
class ExposureRates:
    """In which share of a segment's requests an item was shown.

    Args:
        items_I: Ascending.
        segments_S: Ascending.
        rates_SI: In (0, 1).
    """

    items_I: npt.NDArray[np.generic]
    segments_S: npt.NDArray[np.generic]
    rates_SI: Floats

    def of(self, items_C: Column, segments_C: Column) -> Floats:
        """The rates of these pairs.

        Raises:
            MetricError: An item or a segment was not in the log.
        """
        places = []
        for name, column, known in (
            ("segments_C", segments_C, self.segments_S),
            ("items_C", items_C, self.items_I),
        ):
            value_C = category_column(name, column)
            place_C = np.minimum(np.searchsorted(known, value_C), len(known) - 1)
            if (known[place_C] != value_C).any():
                raise MetricError(f"`{name}` holds what the rates were not estimated for")
            places.append(place_C)
        rates_C: Floats = self.rates_SI[places[0], places[1]]
        return rates_C


def exposure_rates(items_C: Column, segments_C: Column, requests_C: Column, *, strength: float = 20.0) -> ExposureRates:
    """Exposure by item and segment, drawn to the item's own rate where a segment has few requests.

    ``(n_si + strength · e_i) / (N_s + strength)`` with ``e_i = (n_i + ½) / (N + 1)``: n counts the requests that showed
    the item, N all of them. A pair that was never shown has a small rate, not 0.

    Args:
        items_C: What each impression showed; once a request.
        segments_C: Of the request.
        requests_C: The request of each impression.
        strength: How many requests the item's own rate counts for, ≥ 0.

    Raises:
        MetricError: A column cannot be used, or `strength` is negative.

    >>> rates = exposure_rates([7, 8, 7, 8, 7], ["a", "a", "a", "b", "b"], [0, 0, 1, 2, 2], strength=0)
    >>> rates.rates_SI
    array([[1. , 0.5],
           [1. , 1. ]])
    """
    item_C = category_column("items_C", items_C)
    like = ("items_C", len(item_C))
    segments = group_rows(category_column("segments_C", segments_C, like=like))
    requests = group_rows(category_column("requests_C", requests_C, like=like))
    if not strength >= 0:
        raise MetricError("`strength` is negative", found=strength, allowed="at least 0")
    items = group_rows(item_C)
    shape = (len(segments), len(items))
    shown_SI = np.bincount(segments.index_C * shape[1] + items.index_C, minlength=shape[0] * shape[1]).reshape(shape)
    segment_of_request = np.zeros(len(requests), np.int64)
    segment_of_request[requests.index_C] = segments.index_C
    requests_S = np.bincount(segment_of_request, minlength=shape[0])
    rate_I = (shown_SI.sum(0) + 0.5) / (len(requests) + 1)
    rates_SI = (shown_SI + strength * rate_I) / (requests_S[:, None] + strength)
    return ExposureRates(items.values_G, segments.values_G, rates_SI)


def inverse_weights(propensities_C: Column, *, clip: float | None = None, self_normalised: bool = False) -> Floats:
    """Weights of a log's rows by how unlikely they were to be shown: ``min(1/p, clip)``.

    For a column of the log that the schema names as its `weight`; where the schema names the propensity itself,
    `rankwell.training.propensity_objective.PropensityObjective` does the same while training.

    Args:
        propensities_C: In (0, 1].
        clip: The largest weight; None for no limit.
        self_normalised: Divide by the mean, so that the rows weigh what they did.

    Raises:
        TrainingError: Propensities are missing or 0, with how many; or `clip` is not above 0.
        MetricError: They are no probabilities.

    >>> inverse_weights([.5, .1, 1.0], clip=4.0).tolist()
    [2.0, 4.0, 1.0]
    """
    array = np.asarray(propensities_C)
    wrong = int((np.isnan(array) | (array == 0)).sum()) if array.dtype.kind == "f" else int((array == 0).sum())
    if wrong:
        raise TrainingError(
            f"{wrong} of {len(array)} rows have no propensity", found="0 or missing", allowed="(0, 1]",
            do="log it, or estimate it; what could not be shown cannot be weighted up",
        )  # fmt: skip
    check_clip(clip)
    weight_C = 1 / probability_column("propensities_C", array)
    if clip is not None:
        weight_C = np.minimum(weight_C, clip)
    return weight_C / weight_C.mean() if self_normalised and len(weight_C) else weight_C


def check_clip(clip: float | None) -> None:
    """Refuse a largest weight that leaves none; raises `TrainingError`."""
    if clip is not None and not clip > 0:
        raise TrainingError("`clip` would leave no weight", found=clip, allowed="above 0, or None")


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Impressions and clicks summed by position and item."""

    shown_KI: Floats
    clicks_KI: Floats
    items_I: npt.NDArray[np.generic]

    @classmethod
    def of(cls, clicks_C: Column, positions_C: Column, items_C: Column, weights_C: Column | None) -> _Cells:
        click_C, position_C, weight_C = _columns(clicks_C, positions_C, weights_C)
        items = group_rows(category_column("items_C", items_C, like=("clicks_C", len(click_C))))
        num_positions = int(position_C.max(initial=0)) + 1
        shape = (num_positions, len(items))
        cell_C = position_C * shape[1] + items.index_C
        size = shape[0] * shape[1]
        shown_KI = _sums(cell_C, weight_C, size).reshape(shape)
        clicks_KI = _sums(cell_C, weight_C * click_C, size).reshape(shape)
        _check_first(shown_KI.sum(1), clicks_KI.sum(1))
        return cls(shown_KI, clicks_KI, items.values_G)

    def fitted(self, better: _Step, theta_K: Floats, gamma_I: Floats) -> PositionModel:
        def scaled(theta_K: Floats, gamma_I: Floats) -> tuple[Floats, Floats]:
            theta_K, gamma_I = better(theta_K, gamma_I)
            # what is seen is the product alone: with the largest θ at 1 no γ makes it impossible
            largest = theta_K.max()
            return theta_K / largest, gamma_I * largest

        theta_K, gamma_I, num_steps = _fixed_point(scaled, theta_K, gamma_I)
        theta_K = np.where(self.shown_KI.sum(1) > 0, theta_K, np.nan)
        return PositionModel(theta_K / theta_K[0], self.items_I, gamma_I * theta_K[0], num_steps)


def _fixed_point(better: _Step, theta_K: Floats, gamma_I: Floats) -> tuple[Floats, Floats, int]:
    num_steps, change = 0, np.inf
    while change >= _CONVERGED and num_steps < _MAX_STEPS:
        before_K = theta_K
        theta_K, gamma_I = better(theta_K, gamma_I)
        num_steps, change = num_steps + 1, np.abs(theta_K - before_K).max()
    return theta_K, gamma_I, num_steps


def _sums(index_C: npt.NDArray[np.int64], values_C: Floats, length: int) -> Floats:
    return np.bincount(index_C, values_C, length).astype(np.float64, copy=False)


def _columns(
    clicks_C: Column, positions_C: Column, weights_C: Column | None
) -> tuple[Floats, npt.NDArray[np.int64], Floats]:
    click_C = probability_column("clicks_C", clicks_C)
    like = ("clicks_C", len(click_C))
    if ((click_C != 0) & (click_C != 1)).any():
        raise MetricError("`clicks_C` holds what is no click", allowed="0 or 1")
    position_C = _positions(positions_C, like)
    weight_C = np.ones(len(click_C)) if weights_C is None else weight_column("weights_C", weights_C, like=like)
    return click_C, position_C, weight_C


def _positions(positions_C: Column, like: tuple[str, int]) -> npt.NDArray[np.int64]:
    """From 0."""
    number_C = number_column("positions_C", positions_C, like=like)
    position_C = number_C.astype(np.int64)
    if (position_C != number_C).any() or (position_C < 1).any():
        raise MetricError(
            "`positions_C` holds what is no position", found=number_C[(position_C != number_C) | (position_C < 1)][0],
            allowed="whole numbers from 1", do="leave out candidates that were not shown",
        )  # fmt: skip
    return position_C - 1


def _check_first(shown_K: Floats, clicks_K: Floats) -> None:
    if not len(shown_K) or shown_K[0] == 0 or clicks_K[0] == 0:
        raise TrainingError(
            "looks at a position are relative to the first, and nothing was clicked there",
            do="give impressions of the first position, with clicks",
        )


def _share(part: Floats, whole: Floats) -> Floats:
    """part / whole; 0 where there is nothing of the whole."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
