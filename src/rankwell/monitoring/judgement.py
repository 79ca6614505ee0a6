"""How far a window is from its reference, and how far it might be by chance: of shares, and of a mean.

Letters in names: S segments, after any leading axes · B bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from rankwell.monitoring.baseline import Compared
from rankwell.monitoring.drift import HALF
from rankwell.monitoring.null_divergence import (
    LEAST_CLUSTERS,
    LEAST_PER_DIRECTION,
    PSI,
    Divergence,
    Spread,
    detectable_divergence,
    divergence_null,
)
from rankwell.monitoring.null_spread import Dispersion, NullSpread, PastWindows
from rankwell.monitoring.null_tail import NullTail
from rankwell.monitoring.tick_history import Looseness

__all__ = ["Judgement", "judged_mean", "judged_shares", "learned_mean", "learned_shares"]

_POWER: Final = 0.8

_Floats = NDArray[np.float64]
_Bools = NDArray[np.bool_]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """One statistic of windows, with its null.

    Args:
        value_S: A divergence; or the squared step of a mean, in variances of the reference.
        tail: How it is distributed when nothing has changed; where nothing can be said, its limit is none.
        spread: By what.
        is_judged_S: Whether there are enough independent rows in the window, and any in the reference.
    """

    value_S: _Floats
    tail: NullTail
    spread: Spread
    is_judged_S: _Bools

    @property
    def p_value_S(self) -> _Floats:
        """The chance of a value as large; 1 where nothing can be said."""
        return np.where(self.is_judged_S, self.tail.p_value(self.value_S), 1.0)


def learned_shares(compared: Compared, looseness: Looseness) -> NullSpread:
    """How shares of bins scatter, from windows of the past and from minutes."""
    # Each window in the metric of its own reference: in that of another hour its scatter would seem larger.
    weight_WSB = _inverse(compared.means_WSX)
    directions_S = np.maximum((compared.reference_SX > 0).sum(axis=-1) - 1.0, 0.0)
    residuals_WSB = compared.residuals_WSX * np.sqrt(weight_WSB)
    past = PastWindows(residuals_WSB, compared.num_rows_WS, compared.freedom_WS, compared.num_days_S)
    return NullSpread.of(Dispersion.of(looseness, directions_S), directions_S, past)


def judged_shares(
    null: NullSpread,
    current_SB: _Floats,
    num_rows_S: _Floats,
    reference_SB: _Floats,
    num_reference_S: _Floats,
    num_days_S: _Floats,
    *,
    divergence: Divergence = PSI,
) -> Judgement:
    """A divergence of windows and their references.

    Args:
        null: That `learned_shares` learned.
        current_SB, num_rows_S: Counts of the windows, and their rows.
        reference_SB, num_reference_S: Those of their references.
        num_days_S: How many days, or windows, are in the references.
        divergence: Which.
    """
    spread = null.of_window(num_rows_S, num_reference_S, num_days_S)
    current_SB, reference_SB = _smoothed(current_SB, num_rows_S), _smoothed(reference_SB, num_reference_S)
    tail = divergence_null(
        divergence, reference_SB, np.maximum(num_rows_S, 1.0), spread, num_reference_S=num_reference_S
    )
    is_judged_S = _is_judged(null, num_rows_S, num_reference_S, 1.0)
    return Judgement(divergence.of_shares(reference_SB, current_SB), tail, spread, is_judged_S)


def learned_mean(compared: Compared, looseness: Looseness) -> NullSpread:
    """How the mean of a column scatters, in its unit."""
    one_S = np.ones(len(compared.num_rows_S))
    past = PastWindows(compared.residuals_WSX, compared.num_rows_WS, compared.freedom_WS, compared.num_days_S)
    return NullSpread.of(Dispersion.of(looseness, one_S), one_S, past)


def judged_mean(
    null: NullSpread,
    current_S: _Floats,
    num_rows_S: _Floats,
    reference_S: _Floats,
    num_reference_S: _Floats,
    num_days_S: _Floats,
    variance_S: _Floats,
) -> Judgement:
    """The squared step from the mean of the references to that of the windows, in variances of the reference.

    Args:
        null: That `learned_mean` learned.
        current_S, num_rows_S: Sums of values of the windows, and how many they are.
        reference_S, num_reference_S: Those of their references.
        num_days_S: How many days, or windows, are in the references.
        variance_S: Of the values of the references.
    """
    is_varied_S = variance_S > 0
    variance_S = np.where(is_varied_S, variance_S, 1.0)
    step_S = current_S / np.maximum(num_rows_S, 1) - reference_S / np.maximum(num_reference_S, 1)
    of_unit = null.of_window(num_rows_S, num_reference_S, num_days_S)
    spread = Spread(
        of_unit.num_directions_S,
        of_unit.total_S / variance_S,
        of_unit.squares_S / variance_S**2,
        of_unit.cubes_S / variance_S**3,
        of_unit.scale_error_S,
    )
    # The square of a normal: χ² of one degree of freedom.
    total_S = spread.total_S
    tail = NullTail(total_S, np.sqrt(2.0) * total_S, np.full(total_S.shape, np.sqrt(8.0)), spread.scale_error_S)
    is_judged_S = is_varied_S & _is_judged(null, num_rows_S, num_reference_S, variance_S)
    return Judgement(step_S**2 / variance_S, tail, spread, is_judged_S)


def detectable_shares(judgement: Judgement, limit_S: _Floats, *, divergence: Divergence = PSI) -> _Floats:
    """The least divergence that the windows show with a chance of .8, at a limit."""
    finite_S = np.where(np.isfinite(limit_S), limit_S, 0.0)
    found_S = detectable_divergence(divergence, judgement.tail, finite_S, judgement.spread, power=_POWER)
    return np.where(np.isfinite(limit_S), found_S, np.inf)


def detectable_step(judgement: Judgement, limit_S: _Floats) -> _Floats:
    """The least step of a mean, in standard deviations of the reference, that the windows show with a chance of .8."""
    return np.asarray(np.sqrt(limit_S) + float(ndtri(_POWER)) * np.sqrt(judgement.spread.total_S))


def _is_judged(null: NullSpread, num_rows_S: _Floats, num_reference_S: _Floats, variance_S: _Floats | float) -> _Bools:
    factor_S = null.dispersion.factor_S / variance_S
    has_null_S = np.isfinite(factor_S) & (factor_S > 0) & (null.num_directions_S > 0)
    # A mean has one direction, and shares one less than bins.
    least_S = np.maximum(LEAST_CLUSTERS, LEAST_PER_DIRECTION * null.num_directions_S)
    return np.asarray(has_null_S & (num_reference_S > num_rows_S) & (num_rows_S >= least_S * factor_S))


def _smoothed(counts_SB: _Floats, num_rows_S: _Floats) -> _Floats:
    num_bins = counts_SB.shape[-1]
    return np.asarray((counts_SB + HALF) / (num_rows_S + HALF * num_bins)[..., None])


def _inverse(shares_SB: _Floats) -> _Floats:
    return np.divide(1.0, shares_SB, out=np.zeros(shares_SB.shape), where=shares_SB > 0)
