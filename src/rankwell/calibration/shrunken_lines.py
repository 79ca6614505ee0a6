"""A line for each group of rows beside a line that all have, shrunk towards it as far as the groups themselves ask for.

Letters in names: C candidates, sorted by group · G groups · P = 3 parameters: slope, an unused one, offset ·
D = 2 deviations: slope - 1, offset · M strengths tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import softplus

from rankwell.calibration.logistic_minima import LogisticMinima, LogisticRows, Prior, logistic_minima
from rankwell.errors import CalibrationError

__all__ = ["ShrunkenLines", "shrunken_lines"]

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]

_HELD: Final = 2.0**40
"""A strength at which nothing moves."""
_STRENGTHS_M: Final = np.append(2.0 ** np.arange(-6, 25), _HELD)
"""1 / variance of a deviation: from 8 log-odds to a five-thousandth of one, by factors of √2; and none at all."""
_MAX_ROUNDS: Final = 8
_OF_LINE: Final = np.array([True, False, True])
_DEVIATIONS: Final = np.array([0, 2])


@final
@dataclass(frozen=True, slots=True, eq=False)
class ShrunkenLines:
    """Log-odds r·x + β + o, where the line that all have is x + o.

    Args:
        slopes_G: r > 0; 1 for a group that keeps the common line.
        offsets_G: β; 0 for a group that keeps the common line.
        one_class_G: Groups with one label only: they keep the common line.
        prior: How far the others were shrunk; None where no group's line was worth its noise.
    """

    slopes_G: _Floats
    offsets_G: _Floats
    one_class_G: NDArray[np.bool_]
    prior: Prior | None


def shrunken_lines(rows: LogisticRows) -> ShrunkenLines:
    """The lines of greatest posterior probability, under a prior whose strengths are the likeliest ones (type II).

    1. Slopes have a Gamma prior with its mode at 1 and variance 1/λ, offsets a normal one at 0 with variance 1/μ: the
       prior of `rankwell.calibration.logistic_minima`. Given λ and μ, each group's line is the minimum of its cost.
    2. At that minimum the log loss of a group is a parabola with slope g and curvature H in the deviations from the
       common line, T = diag(λ, μ), and the likelihood of λ and μ with the lines integrated out is Laplace's
       ½ Σ ln λμ - ln det(H + T) + g₀ᵀ(H + T)⁻¹g₀, g₀ the parabola's slope where nothing deviates. λ and μ are the best
       of a fixed grid, so that rounding of the sums does not move them. 1 and 2 alternate until they agree.
    3. The lines are kept if they lower Σ w·ℓ by more than tr H(H + T)⁻¹, which is what leaving a row out at a time
       adds to it, and 2 for λ and μ. Otherwise all keep the common line: on fresh rows it was the better one.

    Weights count rows and their order means nothing, hence no rows are held out: copies of a row would have to go
    together, and that could only be told by what is in them.

    Args:
        rows: x is the common log-odds, centred; `y_C` is not looked at.

    Raises:
        CalibrationError: No minimum was found, as with logits whose squares overflow.

    Source: for 2, MacKay 1992, "Bayesian interpolation", §4; for 3, Stone 1977, "An asymptotic equivalence of choice of
    model by cross-validation and Akaike's criterion".
    """
    num_groups = len(rows.bounds_G) - 1
    counts_G = np.diff(rows.bounds_G)
    positives_G = np.add.reduceat(rows.positive_C.astype(np.int64), rows.bounds_G[:-1])
    one_class_G = (positives_G == 0) | (positives_G == counts_G)
    slopes_G, offsets_G = np.ones(num_groups), np.zeros(num_groups)
    if one_class_G.all():
        return ShrunkenLines(slopes_G, offsets_G, one_class_G, None)
    if one_class_G.any():
        rows = _without(rows, one_class_G)
    prior, minima = _likeliest(rows)
    if prior is not None:
        slopes_G[~one_class_G], offsets_G[~one_class_G] = minima.points_GP[:, 0], minima.points_GP[:, 2]
    return ShrunkenLines(slopes_G, offsets_G, one_class_G, prior)


def _likeliest(rows: LogisticRows) -> tuple[Prior | None, LogisticMinima]:
    common_GP = np.tile([1.0, 1.0, 0.0], (len(rows.bounds_G) - 1, 1))
    prior = Prior(16.0, 16.0)
    minima = logistic_minima(rows, prior, common_GP, _OF_LINE)
    for _ in range(_MAX_ROUNDS):
        likeliest = _likeliest_prior(minima)
        if likeliest == prior:
            break
        prior = likeliest
        free_P = np.array([prior.slope < _HELD, False, prior.offset < _HELD])
        minima = logistic_minima(rows, prior, np.where(free_P, minima.points_GP, common_GP), free_P)
    if not minima.found_G.all():
        raise CalibrationError(
            "no most likely line was found for a segment",
            found=f"{int((~minima.found_G).sum())} of {len(minima.found_G)} segments",
            do="look at their logits: natural log-odds lie within a few hundred of 0",
        )
    nothing = prior.slope == prior.offset == _HELD
    return (None if nothing or not _is_worth_it(rows, minima, prior) else prior), minima


def _likeliest_prior(minima: LogisticMinima) -> Prior:
    hessians_GDD = minima.curvatures_GPP[:, _DEVIATIONS[:, None], _DEVIATIONS]
    deviations_GD = minima.points_GP[:, _DEVIATIONS] - [1.0, 0.0]
    slopes_GD = minima.gradients_GP[:, _DEVIATIONS] - (hessians_GDD @ deviations_GD[:, :, None])[:, :, 0]
    across_G, (of_slope_G, of_offset_G) = hessians_GDD[:, 0, 1], slopes_GD.T
    best, likeliest = -np.inf, Prior(_HELD, _HELD)
    for slope in _STRENGTHS_M:
        first_G = hessians_GDD[:, 0, 0] + slope
        second_MG = hessians_GDD[:, 1, 1] + _STRENGTHS_M[:, None]
        det_MG = first_G * second_MG - across_G**2
        square_MG = (
            second_MG * of_slope_G**2 - 2 * across_G * of_slope_G * of_offset_G + first_G * of_offset_G**2
        ) / det_MG
        log_likelihood_M = (np.log(slope * _STRENGTHS_M[:, None] / det_MG) + square_MG).sum(1)
        at = int(log_likelihood_M.argmax())
        if log_likelihood_M[at] > best:
            best, likeliest = float(log_likelihood_M[at]), Prior(float(slope), float(_STRENGTHS_M[at]))
    return likeliest


def _is_worth_it(rows: LogisticRows, minima: LogisticMinima, prior: Prior) -> bool:
    """Whether the lines lower the log loss by more than they would have by following chance, λ and μ with them."""
    hessians_GDD = minima.curvatures_GPP[:, _DEVIATIONS[:, None], _DEVIATIONS]
    held_GDD = hessians_GDD.copy()
    held_GDD[:, 0, 0] += prior.slope / minima.points_GP[:, 0] ** 2
    held_GDD[:, 1, 1] += prior.offset
    num_parameters = float(np.linalg.solve(held_GDD, hessians_GDD).trace(axis1=1, axis2=2).sum())
    slopes_C, offsets_C = (np.repeat(minima.points_GP[:, p], np.diff(rows.bounds_G)) for p in _DEVIATIONS)
    common_C = rows.x_C + rows.known_C
    gained_C = _losses(common_C, rows.positive_C) - _losses(
        slopes_C * rows.x_C + offsets_C + rows.known_C, rows.positive_C
    )
    return float(rows.weights_C @ gained_C) > num_parameters + 2.0


def _losses(log_odds_C: _Floats, positive_C: NDArray[np.bool_]) -> _Floats:
    losses_C: _Floats = softplus(torch.from_numpy(np.where(positive_C, -log_odds_C, log_odds_C))).numpy()
    return losses_C


def _without(rows: LogisticRows, left_out_G: NDArray[np.bool_]) -> LogisticRows:
    counts_G = np.diff(rows.bounds_G)
    kept_C = np.repeat(~left_out_G, counts_G)
    return LogisticRows(
        x_C=rows.x_C[kept_C],
        y_C=rows.y_C[kept_C],
        known_C=rows.known_C[kept_C],
        positive_C=rows.positive_C[kept_C],
        weights_C=rows.weights_C[kept_C],
        bounds_G=np.append(0, np.cumsum(counts_G[~left_out_G])),
    )
