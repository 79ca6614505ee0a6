"""How much windows differ by themselves, learned from panes: within a quarter-hour by requests, between days by days.

Letters in names: T ticks · W windows of the past · S segments · B bins · K directions · X as in
`Looseness`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self, final

import numpy as np
from numpy.typing import NDArray

from rankwell.monitoring.null_divergence import Spread
from rankwell.monitoring.tick_history import Looseness

__all__ = ["Dispersion", "NullSpread", "PastWindows"]

_EDGE_MARGIN: Final = 2.0
"""In units of the width of what chance does to the largest variance."""
_LEAST_VARIANCE: Final = 0.1
"""Of chance in a direction, over that of all in the mean: in one with next to none, any difference would be days."""

_Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Dispersion:
    """By how much rows that hang together raise the variance of shares or of a mean, against independent rows.

    Args:
        factor_S: The variance of one row, where many are summed: of shares 1 for independent rows, and the number of
            rows of a request where those are alike; of values in their unit, squared. NaN where there is nothing to
            learn it from.
        error_S: Its relative standard error.
        shape_SBB: Of that variance in which directions how much, of trace as many as there are: rows of a request whose
            logits are all high, or all low, differ along one, and a window of few such requests is far more often.

    Source: Rao and Scott 1981, with its second-order correction; the sandwich over ticks as Liang and Zeger 1986.
    """

    factor_S: _Floats
    error_S: _Floats
    shape_SBB: _Floats

    @classmethod
    def of(cls, looseness: Looseness, num_directions_S: _Floats) -> Self:
        """From what minutes differ within their ticks.

        >>> loose = Looseness(np.full((4, 1), 70.0), np.full((4, 1), 10.0), np.array([[[280.0]]]))
        >>> Dispersion.of(loose, np.array([1.0])).factor_S.tolist()
        [7.0]
        """
        freedom_TS = looseness.freedom_TS * num_directions_S
        total_S, freedom_S = looseness.scatter_TS.sum(axis=0), freedom_TS.sum(axis=0)
        factor_S = _ratio(total_S, freedom_S)
        residual_TS = looseness.scatter_TS - np.nan_to_num(factor_S) * freedom_TS
        error_S = _ratio(np.sqrt((residual_TS**2).sum(axis=0)), total_S)
        trace_S = _trace(looseness.outer_SXX)
        return cls(factor_S, error_S, looseness.outer_SXX * _ratio(num_directions_S, trace_S, else_=0.0)[:, None, None])


@final
@dataclass(frozen=True, slots=True, eq=False)
class PastWindows:
    """Windows of the past, each against what it is to be compared with.

    Args:
        residuals_WSB: counts − rows·share of its own reference, over the root of that share.
        num_rows_WS: Of each window.
        freedom_WS: 1 − rows / rows of its reference, which it is itself a part of; 0 where it has none.
        num_days_S: How many days, or windows if they are of one day, the windows are of.
    """

    residuals_WSB: _Floats
    num_rows_WS: _Floats
    freedom_WS: _Floats
    num_days_S: _Floats


@final
@dataclass(frozen=True, slots=True, eq=False)
class NullSpread:
    """The variance of a window's shares in three parts: rows by chance, all directions of days, a few of them more.

    Chance falls with the number of rows; what differs between windows does not. How windows of the past scatter is
    compared with what chance does to the scatter, in its own metric: directions beyond it (Marchenko and Pastur's edge)
    are days and cycles, each with its variance; what is left of the sum is spread evenly.

    Args:
        dispersion: Of chance.
        num_directions_S: Bins with rows, less one.
        even_S: The variance between windows that all directions have.
        even_error_S: Its standard error.
        uneven_SBB: What some directions have beyond that.
        num_days_S: How many days or windows the uneven part was learned from.
    """

    dispersion: Dispersion
    num_directions_S: _Floats
    even_S: _Floats
    even_error_S: _Floats
    uneven_SBB: _Floats
    num_days_S: _Floats

    @classmethod
    def of(cls, dispersion: Dispersion, num_directions_S: _Floats, past: PastWindows) -> Self:
        """From windows of the past; where minutes say nothing of chance, all that windows differ is taken as chance.

        Args:
            dispersion: Of chance.
            num_directions_S: Bins with rows, less one.
            past: Windows of the length that is watched.
        """
        weight_S = (past.num_rows_WS * past.freedom_WS).sum(axis=0)
        # A day is a part of its own reference: as far as days differ, 1 of so many.
        of_days_S = np.where(past.num_days_S > 1, 1 - 1 / _above_0(past.num_days_S), 0.0)
        squared_weight_S = (past.num_rows_WS**2 * (past.freedom_WS > 0)).sum(axis=0) * of_days_S
        freedom_S = np.maximum(past.freedom_WS.sum(axis=0), 1.0)
        left_SWB = past.residuals_WSB.transpose(1, 0, 2)
        scatter_SBB = left_SWB.transpose(0, 2, 1) @ left_SWB / _above_0(weight_S)[:, None, None]
        total_S = _trace(scatter_SBB)
        directions_S = np.maximum(num_directions_S, 1.0)

        known_S = np.isfinite(dispersion.factor_S)
        factor_S = np.where(known_S, dispersion.factor_S, total_S / directions_S)
        error_S = np.where(known_S, dispersion.error_S, np.sqrt(2 / (directions_S * freedom_S)))
        num_bins = scatter_SBB.shape[-1]
        even_SBB = np.eye(num_bins) * (np.arange(num_bins) < directions_S[:, None])[:, None, :]
        shape_SBB = np.where(known_S[:, None, None], dispersion.shape_SBB, even_SBB)
        dispersion = Dispersion(factor_S, error_S, shape_SBB)

        # Variances over those of chance; a direction of days shows itself beyond the edge of what chance reaches.
        crowding_S1 = (directions_S / freedom_S)[:, None]
        variance_SK, axes_SBK = np.linalg.eigh(shape_SBB)
        deviation_S1K = np.sqrt(np.maximum(variance_SK, _LEAST_VARIANCE))[:, None, :]
        unit_SBK = axes_SBK / deviation_S1K
        by_chance_SKK = unit_SBK.transpose(0, 2, 1) @ scatter_SBB @ unit_SBK / _above_0(factor_S)[:, None, None]
        ratio_SK, turned_SKK = np.linalg.eigh(by_chance_SKK)
        width_S1 = (1 + np.sqrt(crowding_S1)) * np.cbrt((1 + 1 / np.sqrt(crowding_S1)) / freedom_S[:, None] ** 2)
        is_day_SK = (ratio_SK > (1 + np.sqrt(crowding_S1)) ** 2 + _EDGE_MARGIN * width_S1) & known_S[:, None]
        half_SK = (ratio_SK + 1 - crowding_S1) / 2
        true_SK = np.where(is_day_SK, half_SK + np.sqrt(np.maximum(half_SK**2 - ratio_SK, 0.0)), 1.0)
        per_row_S = factor_S * _ratio(weight_S, squared_weight_S, else_=0.0)
        along_SBK = (axes_SBK * deviation_S1K) @ turned_SKK
        beyond_S1K = ((true_SK - 1) * per_row_S[:, None])[:, None, :]
        uneven_SBB = (along_SBK * beyond_S1K) @ along_SBK.transpose(0, 2, 1)
        even_S = (total_S - factor_S * directions_S) * _ratio(weight_S, squared_weight_S, else_=0.0)
        even_S = np.maximum(even_S - _trace(uneven_SBB), 0.0) / directions_S
        # Windows of one day have what is common to the day but once.
        by_chance_S = np.where(known_S, per_row_S * np.sqrt(2 / (directions_S * freedom_S)), 0.0)
        by_days_S = even_S * np.sqrt(2 / (directions_S * np.maximum(past.num_days_S - 1, 1.0)))
        even_error_S = np.hypot(by_chance_S, by_days_S)
        return cls(dispersion, directions_S, even_S, even_error_S, uneven_SBB, past.num_days_S)

    def of_window(self, num_rows_S: _Floats, num_reference_S: _Floats, num_days_S: _Floats) -> Spread:
        """Of a window around its reference: both have their chance, and both their days.

        ``φ·C·(1/n + 1/m) + T·(1 + 1/days)``, C and T being the shape of chance and what windows differ by.

        Args:
            num_rows_S: n, of the window; any leading axes, the last is of segments.
            num_reference_S: m, of the reference.
            num_days_S: How many days, or windows, are in the reference.
        """
        by_chance_S = self.dispersion.factor_S * (1 / _above_0(num_rows_S) + 1 / _above_0(num_reference_S))
        days_S = 1 + 1 / _above_0(num_days_S)
        even_S, directions_S = days_S * self.even_S, self.num_directions_S
        # Sums of powers of a·C + b·U + c·1, U being what is uneven.
        chance_SBB, uneven_SBB = self.dispersion.shape_SBB, self.uneven_SBB
        both_SBB = chance_SBB @ uneven_SBB
        chance_squared_SBB, uneven_squared_SBB = chance_SBB @ chance_SBB, uneven_SBB @ uneven_SBB
        first_S = by_chance_S * _trace(chance_SBB) + days_S * _trace(uneven_SBB)
        second_S = (
            by_chance_S**2 * _trace(chance_squared_SBB)
            + 2 * by_chance_S * days_S * _trace(both_SBB)
            + days_S**2 * _trace(uneven_squared_SBB)
        )
        third_S = (
            by_chance_S**3 * _trace(chance_squared_SBB @ chance_SBB)
            + 3 * by_chance_S**2 * days_S * _trace(chance_SBB @ both_SBB)
            + 3 * by_chance_S * days_S**2 * _trace(both_SBB @ uneven_SBB)
            + days_S**3 * _trace(uneven_squared_SBB @ uneven_SBB)
        )
        total_S = first_S + even_S * directions_S
        chance_error_S = by_chance_S * directions_S * self.dispersion.error_S
        even_error_S = days_S * directions_S * self.even_error_S
        uneven_error_S = days_S * np.sqrt(_trace(uneven_squared_SBB) * 2 / np.maximum(self.num_days_S - 1, 1.0))
        error_S = np.sqrt(chance_error_S**2 + even_error_S**2 + uneven_error_S**2) / _above_0(total_S)
        return Spread(
            np.broadcast_to(directions_S, total_S.shape),
            total_S,
            second_S + 2 * even_S * first_S + even_S**2 * directions_S,
            third_S + 3 * even_S * second_S + 3 * even_S**2 * first_S + even_S**3 * directions_S,
            error_S,
        )


def _trace(matrix_SBB: _Floats) -> _Floats:
    return np.asarray(np.trace(matrix_SBB, axis1=-2, axis2=-1))


def _ratio(over: _Floats, under: _Floats, *, else_: float = np.nan) -> _Floats:
    return np.asarray(np.divide(over, under, out=np.full(np.shape(over), else_), where=under > 0))


def _above_0(values: _Floats) -> _Floats:
    return np.where(values > 0, values, 1.0)
