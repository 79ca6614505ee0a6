"""The null of a divergence for nothing: its cumulants when counts come in clusters, at any size.

Letters in names: S segments, or any leading axes · B bins · J numbers of clusters in a bin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtri

from rankwell.monitoring.drift import HALF
from rankwell.monitoring.null_tail import NullTail

__all__ = [
    "KL", "LEAST_CLUSTERS", "LEAST_PER_DIRECTION", "PSI", "Divergence", "Spread", "detectable_divergence",
    "divergence_null",
]  # fmt: skip

LEAST_CLUSTERS: Final = 10.0
"""With fewer independent rows in a window, nobody can say what is far."""
LEAST_PER_DIRECTION: Final = 5.0
"""Of PSI, for each bin with rows but one (Cochran 1954): with fewer, a single request of equal rows decides alone."""
_NUM_NODES: Final = 48
_TINY: Final = 1e-300

_Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """How the shares of a window scatter around those of its reference when nothing has changed.

    In the metric of PSI, Σ (q − p)² / p, the scatter has as many directions as bins, less one, and a variance along
    each. Only three sums over directions are needed.

    Args:
        num_directions_S: How many: bins that the reference has rows in, less one.
        total_S: Σ variances: what PSI is on average, rows being many.
        squares_S: Σ variances².
        cubes_S: Σ variances³.
        scale_error_S: How well the variances are known: their relative standard deviation.
    """

    num_directions_S: _Floats
    total_S: _Floats
    squares_S: _Floats
    cubes_S: _Floats
    scale_error_S: _Floats


@final
@dataclass(frozen=True, slots=True, eq=False)
class Divergence:
    """A distance of shares that near its null is a multiple of Σ (q − p)² / p, summed up bin by bin.

    Args:
        name: Of its readings.
        terms: Of shares of the reference and of the window: what each bin adds, 0 and level where they are equal.
        weight: The multiple.

    >>> shares_B, moved_B = np.array([0.5, 0.5]), np.array([0.6, 0.4])
    >>> [round(float(one.of_shares(shares_B, moved_B)), 4) for one in (PSI, KL)]
    [0.0405, 0.0201]
    """

    name: str
    terms: Callable[[_Floats, _Floats], _Floats]
    weight: float

    def of_shares(self, reference_SB: _Floats, current_SB: _Floats) -> _Floats:
        """`psi` or `kl_divergence` of smoothed shares, for many at once."""
        return np.asarray(self.terms(reference_SB, current_SB).sum(axis=-1))


def _psi_terms(reference_SB: _Floats, current_SB: _Floats) -> _Floats:
    return (current_SB - reference_SB) * np.log(current_SB / reference_SB)


def _kl_terms(reference_SB: _Floats, current_SB: _Floats) -> _Floats:
    return current_SB * np.log(current_SB / reference_SB) - (current_SB - reference_SB)


PSI: Final = Divergence("psi", _psi_terms, 1.0)
KL: Final = Divergence("kl", _kl_terms, 0.5)


def divergence_null(
    divergence: Divergence,
    reference_SB: _Floats,
    num_rows_S: _Floats,
    spread: Spread,
    *,
    num_reference_S: _Floats | float = np.inf,
) -> NullTail:
    """How a divergence of so many rows is distributed when their shares are those of the reference, but for the spread.

    Rows come in clusters of φ = n·Σ variances / d rows of one bin, d directions: φ = 1 of independent rows, 8 of
    requests of 8 rows alike. The number of clusters in a bin is taken as Poisson, and their sum as given: with the
    term t_b of each bin, ``κ_2 = Σ_b Var(t_b − β·k_b) − 2a²`` and the like, where β and a are the linear and the
    quadratic dependence on the sum. Where clusters are many in each bin these are the cumulants of a weighted sum of
    squares, ``(2·weight)^r·(r−1)!/2·Σ variances^r``; where they are few they hold the half count, the logarithm and the
    empty bins. Directions of unequal variance raise the second and third as they do in the limit.

    Args:
        divergence: Which.
        reference_SB: Smoothed shares of the reference, above 0.
        num_rows_S: Rows of the window, above 0.
        spread: Of the window around the reference.
        num_reference_S: Rows of the reference. What no request of few had may be in the next: for chances a bin has
            half a cluster more than was counted, where the reference has half a row.

    Returns:
        One tail a segment.

    >>> shares_B = np.full(4, 0.25)
    >>> spread = Spread(np.array(3.0), *(np.array(3 * 1e-5**power) for power in (1, 2, 3)), np.zeros(()))
    >>> tail = divergence_null(PSI, shares_B, np.array(100_000.0), spread)
    >>> round(float(tail.limit(0.001)) * 100_000, 1)  # χ² of 3 degrees of freedom
    16.3

    Source: Holst 1972, "Asymptotic normality and efficiency for certain goodness-of-fit tests"; Morris 1975, "Central
    limit theorems for multinomial sums"; Rao and Scott 1981, "The analysis of categorical data from complex sample
    surveys", for the variances.
    """
    num_bins = reference_SB.shape[-1]
    num_rows_S1 = num_rows_S[..., None]
    directions_S = np.maximum(spread.num_directions_S, 1.0)
    is_known_S = spread.total_S > 0  # else whatever is said is not believed, but is no NaN either
    total_S = np.where(is_known_S, spread.total_S, 1.0)
    cluster_S = np.maximum(num_rows_S * total_S / directions_S, 1e-9)
    more_S1 = (
        np.maximum(cluster_S - 1, 0.0)[..., None] * HALF / (np.asarray(num_reference_S)[..., None] + HALF * num_bins)
    )
    likely_SB = (reference_SB + more_S1) / (1 + num_bins * more_S1)
    mean_SB1 = np.maximum(num_rows_S1 * likely_SB / cluster_S[..., None], _TINY)[..., None]
    least = np.maximum(np.floor(mean_SB1 - 7 * np.sqrt(mean_SB1) - 2), 0.0)
    most = mean_SB1 + 8 * np.sqrt(mean_SB1) + 12
    clusters_SBJ = least + np.maximum((most - least) / (_NUM_NODES - 1), 1.0) * np.arange(_NUM_NODES)
    log_chance_SBJ = clusters_SBJ * np.log(mean_SB1) - gammaln(clusters_SBJ + 1)
    chance_SBJ = np.exp(log_chance_SBJ - log_chance_SBJ.max(axis=-1, keepdims=True))
    chance_SBJ /= chance_SBJ.sum(axis=-1, keepdims=True)

    shares_SBJ = (cluster_S[..., None, None] * clusters_SBJ + HALF) / (num_rows_S1 + HALF * num_bins)[..., None]
    reference_SB1 = reference_SB[..., None]
    terms_SBJ = divergence.terms(reference_SB1, shares_SBJ)
    mean_term_SB = (chance_SBJ * terms_SBJ).sum(axis=-1)
    terms_SBJ -= mean_term_SB[..., None]
    steps_SBJ = clusters_SBJ - (chance_SBJ * clusters_SBJ).sum(axis=-1, keepdims=True)
    squared_SBJ = chance_SBJ * steps_SBJ**2
    variance_SB1 = squared_SBJ.sum(axis=-1, keepdims=True)
    variance_S = variance_SB1.sum(axis=(-2, -1))
    slope_S = (chance_SBJ * terms_SBJ * steps_SBJ).sum(axis=(-2, -1)) / variance_S
    bend_S = ((squared_SBJ - chance_SBJ * variance_SB1) * terms_SBJ).sum(axis=(-2, -1)) / (2 * variance_S)
    left_SBJ = terms_SBJ - slope_S[..., None, None] * steps_SBJ
    chance_SBJ *= left_SBJ**2
    second_S = chance_SBJ.sum(axis=(-2, -1)) - 2 * bend_S**2
    third_S = (chance_SBJ * left_SBJ).sum(axis=(-2, -1)) - 8 * bend_S**3

    # Directions of unequal variance: 1 where all are equal.
    second_S = np.maximum(second_S, 0.0) * np.where(is_known_S, directions_S * spread.squares_S / total_S**2, 1.0)
    third_S = third_S * np.where(is_known_S, directions_S**2 * spread.cubes_S / total_S**3, 1.0)
    deviation_S = np.sqrt(second_S)
    skewness_S = np.divide(third_S, deviation_S**3, out=np.zeros_like(third_S), where=deviation_S > 0)
    return NullTail(
        mean_term_SB.sum(axis=-1) - bend_S, deviation_S, skewness_S, np.where(is_known_S, spread.scale_error_S, 0.0)
    )


def detectable_divergence(
    divergence: Divergence, tail: NullTail, limit_S: _Floats, spread: Spread, *, power: float = 0.8
) -> _Floats:
    """The least divergence between the two worlds that a window shows with so much chance.

    A shift of δ in truth raises the mean of the statistic by δ and its variance by 4·δ·v, v the mean variance of a
    direction weighted by itself, times the divergence's weight: δ solves
    ``mean + δ − z·√(deviation² + 4·δ·v) = limit``.

    Args:
        divergence: Which.
        tail: Of the statistic when nothing has changed.
        limit_S: Above it there is an alarm.
        spread: Of the window around the reference.
        power: The chance to find it.

    >>> spread = Spread(np.array(3.0), *(np.array(3 * 1e-5**power) for power in (1, 2, 3)), np.zeros(()))
    >>> tail = divergence_null(PSI, np.full(4, 0.25), np.array(100_000.0), spread)
    >>> round(float(detectable_divergence(PSI, tail, tail.limit(0.05), spread)) * 100_000, 1)  # non-central χ²: 10.9
    10.7
    """
    z = float(ndtri(power))
    away_S = limit_S - tail.mean
    by_direction_S = divergence.weight * spread.squares_S / np.where(spread.total_S > 0, spread.total_S, 1.0)
    half_S = away_S + 2 * z * z * by_direction_S
    return np.asarray(half_S + np.sqrt(np.maximum(half_S**2 - away_S**2 + z * z * tail.deviation**2, 0.0)))
