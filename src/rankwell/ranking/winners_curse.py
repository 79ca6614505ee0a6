"""What is served was chosen for looking good: a correction of its probabilities.

Letters: C candidates, flat over requests · B basis functions of uncertainty · P parameters.

A calibrator makes probabilities right among all that is *scored*: E[p | logit] is what it says. What is *served* won by
bid × p̂. Where that choice goes by something the calibrator does not look at, and which is related to the error of the
logit, the winners are over-rated still: candidates whose logit is uncertain (rare items) come to the top by luck, and a
bid made by somebody who errs the same way brings its own error with it. So the correction looks at these, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit, ndtri
from torch import Tensor

from rankwell.calibration.logistic_line import most_likely_line
from rankwell.calibration.sample import CalibrationSample
from rankwell.errors import CalibrationError

__all__ = ["WinnersCurseCorrection", "fit_winners_curse"]

_NUM_KNOTS: Final = 6
_NUM_OF_EACH: Final = 4
"""Per knot of uncertainty: an offset, a slope over logits, one over bid ranks, and a curvature over logits."""
_BLOCK_ROWS: Final = 2**15
_MOST_STEPS: Final = 50

Floats = npt.NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True, eq=False)
class WinnersCurseCorrection:
    """Corrected log-odds ``t = Σ_b φ_b(u)·(α_b + β_b·z + γ_b·r + δ_b·z²)``.

    z is the logit, u ln of the uncertainty, φ_b the hat functions of a few knots (linear in between, constant beyond),
    r the normal score of the bid's rank in its request. With normal errors of z whose size depends on u, and bids that
    know part of the error, the posterior mean of the true log-odds is of this form, with δ = 0: β_b is how much of z
    is to be believed. It is learned from labels, so nobody has to know a variance.

    Args:
        knots_B: ln uncertainty, strictly ascending.
        weights_BP: α, β, γ, δ of each knot.
        centre: Logits are centred there before they are multiplied, and so are the ends between which z² is looked at.
        lowest, highest: Centred logits between which the curve is followed; beyond, it goes on straight.

    >>> believed_BP = np.array([[0, 1, 0, 0], [0, 0.5, 0, 0]])  # all of a sure logit, half of an unsure one
    >>> fitted = WinnersCurseCorrection(np.array([0.0, 1.0]), believed_BP, centre=0.0, lowest=-9.0, highest=9.0)
    >>> ones_C = torch.ones(2)
    >>> fitted.corrected_logits(2 * ones_C, torch.tensor([1.0, 9.0]), ones_C, request_C=0 * ones_C).tolist()
    [2.0, 1.0]
    """

    knots_B: Floats
    weights_BP: Floats
    centre: float
    lowest: float
    highest: float

    def corrected_logits(self, logits_C: Tensor, uncertainty_C: Tensor, bids_C: Tensor, request_C: Tensor) -> Tensor:
        """The corrected log-odds, relative to nothing: they take the place of the logits.

        Args:
            logits_C: As they were when it was fitted, finite.
            uncertainty_C: Above 0, and greater where the logit is less sure: 1/√(1 + sightings of the item), or the sd
                between models of an ensemble. A monotone guess is enough.
            bids_C: ≥ 0; only their order within a request counts.
            request_C: int64, the request of each candidate, whole requests at a time.

        Returns:
            float64.

        Raises:
            CalibrationError: The columns cannot be used.
        """
        columns = _Columns.of(logits_C, uncertainty_C, bids_C, request_C)
        corrected_C = np.empty(len(columns.logits_C))
        for start in range(0, len(corrected_C), _BLOCK_ROWS):
            here = slice(start, start + _BLOCK_ROWS)
            corrected_C[here] = self.design(columns, here) @ self.weights_BP.ravel()
        return torch.from_numpy(corrected_C)

    def design(self, columns: _Columns, rows: slice) -> Floats:
        """What the weights are multiplied with, C × B·P."""
        z_C = columns.logits_C[rows] - self.centre
        inside_C = np.clip(z_C, self.lowest, self.highest)
        curve_C = inside_C**2 + 2 * inside_C * (z_C - inside_C)
        own_CP = np.stack([np.ones_like(z_C), z_C, columns.bid_ranks_C[rows], curve_C], axis=1)
        u_C = np.clip(columns.log_uncertainty_C[rows], self.knots_B[0], self.knots_B[-1])
        right_C = np.clip(np.searchsorted(self.knots_B, u_C), 1, max(len(self.knots_B) - 1, 1))
        design_CBP = np.zeros((len(z_C), len(self.knots_B), _NUM_OF_EACH))
        if len(self.knots_B) == 1:
            design_CBP[:, 0] = own_CP
        else:
            share_C = (u_C - self.knots_B[right_C - 1]) / (self.knots_B[right_C] - self.knots_B[right_C - 1])
            every = np.arange(len(z_C))
            design_CBP[every, right_C - 1] = (1 - share_C)[:, None] * own_CP
            design_CBP[every, right_C] += share_C[:, None] * own_CP
        return design_CBP.reshape(len(z_C), -1)


def fit_winners_curse(
    logits_C: Tensor,
    labels_C: Tensor,
    weights_C: Tensor,
    *,
    uncertainty_C: Tensor,
    bids_C: Tensor,
    request_C: Tensor,
    prior_rows: float = 100.0,
) -> WinnersCurseCorrection:
    """The most likely correction, by logistic regression that is pulled towards one line for all.

    The sample must not be chosen by what it corrects: all that was scored, where labels are known for all (a
    simulation, a counterfactual log), or traffic shown by chance, weighted by 1 / propensity.

    Args:
        logits_C: Natural log-odds, finite.
        labels_C: 0 or 1, both.
        weights_C: ≥ 0.
        uncertainty_C, bids_C, request_C: See `WinnersCurseCorrection.corrected_logits`.
        prior_rows: How many rows of the sample's kind the prior weighs at each knot, ≥ 0. Its mode is the most likely
            line of all rows, without a curve or bids: a small sample gives not much more than Platt's calibrator.

    Raises:
        CalibrationError: The columns cannot be used, only one label is there, or nothing has weight.

    Source: Smith and Winkler 2006, "The optimizer's curse", Management Science 52 (3): shrink what is compared by how
    uncertain it is; Efron 2011, "Tweedie's formula and selection bias".
    """
    columns = _Columns.of(logits_C, uncertainty_C, bids_C, request_C)
    label_C, weight_C = labels_C.double().numpy(), weights_C.double().numpy()
    kept_C = weight_C > 0
    _refuse("weights", weight_C, ~(np.isfinite(weight_C) & (weight_C >= 0)), "finite and ≥ 0")
    _refuse("labels", label_C, kept_C & ~np.isin(label_C, (0.0, 1.0)), "0 or 1")
    positives = float(np.dot(weight_C[kept_C], label_C[kept_C]))
    if not 0 < positives < float(weight_C.sum()):
        raise CalibrationError(
            "the sample has one class only, or no weight", found=f"{positives:g} of {weight_C.sum():g} positive",
            allowed="both labels",
        )  # fmt: skip
    label_C = np.where(kept_C, label_C, 0.0)
    knots_B = np.unique(np.quantile(columns.log_uncertainty_C[kept_C], np.linspace(0.02, 0.98, _NUM_KNOTS)))
    centre = float(np.average(columns.logits_C, weights=weight_C))
    lowest, highest = (np.quantile(columns.logits_C[kept_C], [0.001, 0.999]) - centre).tolist()
    nowhere_C = torch.zeros(len(label_C), 0, dtype=torch.int64)
    slope, offset = most_likely_line(CalibrationSample.checked(logits_C, labels_C, weights_C, nowhere_C))
    at_rest_BP = np.tile([offset + slope * centre, slope, 0.0, 0.0], (len(knots_B), 1))
    form = WinnersCurseCorrection(knots_B, at_rest_BP, centre, lowest, highest)
    cost = _Cost(form, columns, label_C, weight_C, at_rest_BP.ravel(), prior_rows)
    theta, here = at_rest_BP.ravel(), cost.at(at_rest_BP.ravel())
    for _ in range(_MOST_STEPS):
        step = np.linalg.solve(here.curvature, here.gradient)
        decrement = float(here.gradient @ step)
        if decrement < 1e-9 * max(positives, 1.0):
            break
        length = 1.0
        there = cost.at(theta - step)
        while there.value > here.value - 1e-4 * length * decrement and length > 1e-6:  # Armijo
            length /= 2
            there = cost.at(theta - length * step)
        theta, here = theta - length * step, there
    return WinnersCurseCorrection(knots_B, theta.reshape(at_rest_BP.shape), centre, lowest, highest)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    value: float
    gradient: Floats
    curvature: Floats


@final
class _Cost:
    """Σ w·ℓ and the prior: a normal one that weighs as much as so many rows of the sample, in each parameter."""

    def __init__(
        self,
        form: WinnersCurseCorrection,
        columns: _Columns,
        label_C: Floats,
        weight_C: Floats,
        mode: Floats,
        prior_rows: float,
    ) -> None:
        self._form, self._columns, self._label_C, self._weight_C, self._mode = form, columns, label_C, weight_C, mode
        z_C = columns.logits_C - form.centre
        p_C = expit(mode[0] + mode[1] * z_C)
        information_C = weight_C * p_C * (1 - p_C)
        own_CP = (np.ones_like(z_C), z_C, columns.bid_ranks_C, np.clip(z_C, form.lowest, form.highest) ** 2)
        total = float(weight_C.sum())
        squares_P = [float(information_C @ own_C**2) / total for own_C in own_CP]
        self._precision = prior_rows * np.tile(np.maximum(squares_P, 1e-12), len(form.knots_B))

    def at(self, theta: Floats) -> _Point:
        apart = theta - self._mode
        value = 0.5 * float(apart @ (self._precision * apart))
        gradient, curvature = self._precision * apart, np.diag(self._precision)
        for start in range(0, len(self._label_C), _BLOCK_ROWS):
            here = slice(start, start + _BLOCK_ROWS)
            design, weight_C, label_C = (
                self._form.design(self._columns, here),
                self._weight_C[here],
                self._label_C[here],
            )
            t_C = design @ theta
            p_C = expit(t_C)
            value += float(weight_C @ (np.logaddexp(0, t_C) - label_C * t_C))
            gradient += design.T @ (weight_C * (p_C - label_C))
            curvature += design.T @ (design * (weight_C * p_C * (1 - p_C))[:, None])
        return _Point(value, gradient, curvature)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    logits_C: Floats
    log_uncertainty_C: Floats
    bid_ranks_C: Floats

    @classmethod
    def of(cls, logits_C: Tensor, uncertainty_C: Tensor, bids_C: Tensor, request_C: Tensor) -> _Columns:
        lengths = {len(column) for column in (logits_C, uncertainty_C, bids_C, request_C)}
        if len(lengths) > 1:
            raise CalibrationError("the columns differ in length", found=sorted(lengths), allowed="one length")
        logit_C, uncertainty, bid_C = (x.double().numpy() for x in (logits_C, uncertainty_C, bids_C))
        _refuse("logits", logit_C, ~np.isfinite(logit_C), "finite natural log-odds")
        _refuse("uncertainties", uncertainty, ~(np.isfinite(uncertainty) & (uncertainty > 0)), "finite and above 0")
        _refuse("bids", bid_C, ~(np.isfinite(bid_C) & (bid_C >= 0)), "finite and ≥ 0")
        return cls(logit_C, np.log(uncertainty), _normal_ranks(bid_C, request_C.numpy()))


def _normal_ranks(bid_C: Floats, request_C: npt.NDArray[np.generic]) -> Floats:
    """Normal scores of bids within requests, equal for equal bids: Φ⁻¹((mean rank − ½) / K)."""
    order_C = np.lexsort((bid_C, request_C))
    bid, request = bid_C[order_C], request_C[order_C]
    if not len(bid):
        return np.empty(0)
    new_request = np.append(True, request[1:] != request[:-1])
    new_tie = new_request | np.append(True, bid[1:] != bid[:-1])
    place = np.arange(len(bid))
    first = place[new_request][np.cumsum(new_request) - 1]
    length = np.diff(np.append(place[new_request], len(bid)))[np.cumsum(new_request) - 1]
    tie_start = place[new_tie]
    tie_middle = (tie_start + (np.diff(np.append(tie_start, len(bid))) - 1) / 2)[np.cumsum(new_tie) - 1]
    ranks_C = np.empty(len(bid))
    ranks_C[order_C] = ndtri((tie_middle - first + 0.5) / length)
    return ranks_C


def _refuse(what: str, column_C: Floats, bad_C: npt.NDArray[np.bool_], allowed: str) -> None:
    if bad_C.any():
        raise CalibrationError(
            f"the {what} cannot be used: {int(bad_C.sum())} of {len(column_C)} rows",
            found=column_C[bad_C][:5].tolist(),
            allowed=allowed,
        )
