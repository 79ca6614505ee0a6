"""The most likely log-odds t = a·x + b·y + c + o of each group of rows, with a and b above 0.

Letters in names: C candidates, sorted by group · G groups · P = 3 parameters: a, b, c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["LogisticMinima", "LogisticRows", "Prior", "derivatives_at", "logistic_minima"]

_MAX_STEPS: Final = 200
_CONVERGED: Final = 1e-16
"""How near the minimum the last step begins, by weight of all rows: where it ends, that is squared."""
_LAST_DIGITS: Final = 2.0**-50
_SHORTEST: Final = 1e-12
_CAUTION: Final = 0.99
"""The part of a slope that one step may take away: what is left stays above 0."""
_OVERSHOT: Final = 0.1
"""A step ends where the cost no longer falls along it, or rises by no more than this part of how it fell at first."""

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@final
@dataclass(frozen=True, slots=True, eq=False)
class LogisticRows:
    """Rows whose log-odds are a·x + b·y + c + o, one group after the other.

    Args:
        x_C, y_C: float64, finite, best centred; a `y_C` of zeros is a term that is not there.
        known_C: o, the part of the log-odds that is not fitted.
        positive_C: Whether the label is 1.
        weights_C: Counts of rows, above 0.
        bounds_G: int64 of G + 1: group g is rows bounds[g] to bounds[g + 1]; no group is empty.
    """

    x_C: _Floats
    y_C: _Floats
    known_C: _Floats
    positive_C: NDArray[np.bool_]
    weights_C: _Floats
    bounds_G: _Ints


@final
@dataclass(frozen=True, slots=True)
class Prior:
    """How strongly slopes are held to 1 and the offset to 0, in units of log loss.

    The cost is λ·(a - ln a) for each slope, a Gamma prior with its mode at 1, and μ·c²/2 for the offset, a normal one.

    Args:
        slope: λ > 0.
        offset: μ > 0.
    """

    slope: float
    offset: float


@final
@dataclass(frozen=True, slots=True, eq=False)
class LogisticMinima:
    """Where the cost of each group is least.

    Args:
        points_GP: a, b and c.
        gradients_GP, curvatures_GPP: Of the rows' log loss there, without the prior.
        found_G: Whether the minimum was found; where not, the rest is where the search stood.
    """

    points_GP: _Floats
    gradients_GP: _Floats
    curvatures_GPP: _Floats
    found_G: NDArray[np.bool_]


def logistic_minima(rows: LogisticRows, prior: Prior, start_GP: _Floats, free_P: NDArray[np.bool_]) -> LogisticMinima:
    """The a, b > 0 and c of each group that minimise Σ w·ℓ(a·x + b·y + c + o, label) + the prior's cost.

    Newton's method for all groups at once; those that are done are not looked at again. A step is shortened until the
    cost no longer rises at its end: the cost is convex, so it has then fallen all the way. Derivatives tell that, so no
    logarithm is taken of any row.

    Args:
        rows: The sample.
        prior: Of each group.
        start_GP: Where to begin; slopes above 0.
        free_P: Which parameters are fitted; the others stay as they start.

    Source: Boyd and Vandenberghe 2004, "Convex optimization", §9.5.2, for the damped steps and when they end.
    """
    points_GP = start_GP.astype(np.float64)
    num_G = len(points_GP)
    weights_G = np.add.reduceat(rows.weights_C, rows.bounds_G[:-1])
    going_G, found_G = np.ones(num_G, np.bool_), np.zeros(num_G, np.bool_)
    gradients_GP, curvatures_GPP = derivatives_at(rows, points_GP)
    for _ in range(_MAX_STEPS):
        uphill_GP = _uphill(points_GP, gradients_GP, prior, free_P)
        steps_GP = _newton_steps(points_GP, uphill_GP, curvatures_GPP, prior, free_P)
        falls_G = -(uphill_GP * steps_GP).sum(1)  # squared distance to the minimum, in standard errors
        is_last_G = (np.abs(steps_GP) <= _LAST_DIGITS * np.maximum(1.0, np.abs(points_GP))).all(1)
        reached_G = going_G & (is_last_G | (falls_G <= _CONVERGED * np.maximum(1.0, weights_G)))
        points_GP[reached_G] += steps_GP[reached_G]
        found_G |= reached_G
        going_G &= ~reached_G & np.isfinite(falls_G)
        if not going_G.any():
            break
        lengths_G = _longest(points_GP, steps_GP)
        trial_G = going_G.copy()
        while trial_G.any():
            tried_GP = points_GP + lengths_G[:, None] * steps_GP
            _sums_at(rows, tried_GP, trial_G, gradients_GP, curvatures_GPP)
            rise_G = (_uphill(tried_GP, gradients_GP, prior, free_P) * steps_GP).sum(1)
            trial_G &= (rise_G > _OVERSHOT * falls_G) & (lengths_G > _SHORTEST)
            # Where the derivative is 0 between its two known values, if it were a line.
            shares_G = falls_G[trial_G] / (falls_G[trial_G] + rise_G[trial_G])
            lengths_G[trial_G] *= np.clip(shares_G, 0.1, 0.5)
        points_GP[going_G] += lengths_G[going_G, None] * steps_GP[going_G]
    return LogisticMinima(points_GP, gradients_GP, curvatures_GPP, found_G)


def derivatives_at(rows: LogisticRows, points_GP: _Floats) -> tuple[_Floats, _Floats]:
    """The gradient and the curvature of each group's Σ w·ℓ(a·x + b·y + c + o, label).

    >>> column, everything = np.zeros(4), np.array([0, 4])
    >>> rows = LogisticRows(np.arange(4.0), column, column, np.arange(4) > 2, np.ones(4), everything)
    >>> gradients_GP, curvatures_GPP = derivatives_at(rows, np.array([[0.0, 0.0, 0.0]]))
    >>> gradients_GP.tolist(), curvatures_GPP[0].tolist()  # Σ (½ - y)·(x, y, 1), and a quarter of Σ x², …
    ([[0.0, 0.0, 1.0]], [[3.5, 0.0, 1.5], [0.0, 0.0, 0.0], [1.5, 0.0, 1.0]])
    """
    gradients_GP, curvatures_GPP = np.zeros(points_GP.shape), np.zeros((*points_GP.shape, 3))
    _sums_at(rows, points_GP, np.ones(len(points_GP), np.bool_), gradients_GP, curvatures_GPP)
    return gradients_GP, curvatures_GPP


def _uphill(points_GP: _Floats, gradients_GP: _Floats, prior: Prior, free_P: NDArray[np.bool_]) -> _Floats:
    """The gradient of the whole cost; 0 for what is not free."""
    uphill_GP = gradients_GP.copy()
    uphill_GP[:, :2] += prior.slope * (1.0 - 1.0 / points_GP[:, :2])
    uphill_GP[:, 2] += prior.offset * points_GP[:, 2]
    return np.where(free_P, uphill_GP, 0.0)


def _newton_steps(
    points_GP: _Floats, uphill_GP: _Floats, curvatures_GPP: _Floats, prior: Prior, free_P: NDArray[np.bool_]
) -> _Floats:
    bent_GPP = np.where(free_P[:, None] & free_P, curvatures_GPP, 0.0)
    diagonal = np.arange(3)
    of_prior_GP = np.column_stack([prior.slope / points_GP[:, :2] ** 2, np.full(len(points_GP), prior.offset)])
    bent_GPP[:, diagonal, diagonal] += np.where(free_P, of_prior_GP, 1.0)
    # Scaled to a diagonal of ones: x and y may be of any size.
    scale_GP = 1.0 / np.sqrt(bent_GPP[:, diagonal, diagonal])
    unit_GPP = bent_GPP * scale_GP[:, :, None] * scale_GP[:, None, :]
    steps_GP: _Floats = -scale_GP * np.linalg.solve(unit_GPP, (scale_GP * uphill_GP)[:, :, None])[:, :, 0]
    return steps_GP


def _longest(points_GP: _Floats, steps_GP: _Floats) -> _Floats:
    """1, or less where a whole step would take too much from a slope."""
    with np.errstate(divide="ignore"):
        limits_GP = np.where(steps_GP[:, :2] < 0, -_CAUTION * points_GP[:, :2] / steps_GP[:, :2], np.inf)
    lengths_G: _Floats = np.minimum(1.0, limits_GP.min(1))
    return lengths_G


def _sums_at(
    rows: LogisticRows, points_GP: _Floats, asked_G: NDArray[np.bool_], gradients_GP: _Floats, curvatures_GPP: _Floats
) -> None:
    """Derivatives of the log loss of the groups asked for, written in place."""
    _derivatives(
        rows.x_C, rows.y_C, rows.known_C, rows.positive_C, rows.weights_C, rows.bounds_G, points_GP, asked_G,
        gradients_GP, curvatures_GPP,
    )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _derivatives(  # type: ignore[no-untyped-def]
    x_C, y_C, known_C, positive_C, weights_C, bounds_G, points_GP, asked_G, gradients_GP, curvatures_GPP
):
    for group in range(len(bounds_G) - 1):
        if not asked_G[group]:
            continue
        a, b, c = points_GP[group, 0], points_GP[group, 1], points_GP[group, 2]
        gradients_GP[group] = 0.0
        curvatures_GPP[group] = 0.0
        for first in range(bounds_G[group], bounds_G[group + 1], 1024):  # short sums, so that rounding stays small
            by_a = by_b = by_c = aa = ab = ac = bb = bc = cc = 0.0
            for row in range(first, min(first + 1024, bounds_G[group + 1])):
                x, y = x_C[row], y_C[row]
                log_odds = a * x + b * y + c + known_C[row]
                odds = np.exp(-abs(log_odds))
                rarer = odds / (1.0 + odds)  # the probability of the label that is less likely
                # The probability of the other label: small ones keep their digits.
                miss = rarer if positive_C[row] == (log_odds > 0.0) else 1.0 - rarer
                residual = -weights_C[row] * miss if positive_C[row] else weights_C[row] * miss
                variance = weights_C[row] * rarer / (1.0 + odds)
                by_a += residual * x
                by_b += residual * y
                by_c += residual
                aa += variance * x * x
                ab += variance * x * y
                ac += variance * x
                bb += variance * y * y
                bc += variance * y
                cc += variance
            gradients_GP[group, 0] += by_a
            gradients_GP[group, 1] += by_b
            gradients_GP[group, 2] += by_c
            curvatures_GPP[group, 0, 0] += aa
            curvatures_GPP[group, 0, 1] += ab
            curvatures_GPP[group, 0, 2] += ac
            curvatures_GPP[group, 1, 1] += bb
            curvatures_GPP[group, 1, 2] += bc
            curvatures_GPP[group, 2, 2] += cc
        curvatures_GPP[group, 1, 0] = curvatures_GPP[group, 0, 1]
        curvatures_GPP[group, 2, 0] = curvatures_GPP[group, 0, 2]
        curvatures_GPP[group, 2, 1] = curvatures_GPP[group, 1, 2]
