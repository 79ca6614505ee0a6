"""How sure the calibration ratio is for somebody who looks at it again and again.

Letters: G segments.

A 95 % interval that is looked at every minute is left sooner or later by the best of models. A confidence sequence is
not: with 95 % chance the truth is inside at all times at once. For reports; for watching see
`rankwell.evaluation.calibration_detector`, which forgets the good times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from scipy.special import lambertw, ndtri

from rankwell.errors import MetricError
from rankwell.evaluation.calibration_sums import CalibrationSums
from rankwell.evaluation.intervals import normal_quantile
from rankwell.evaluation.sample import Floats

__all__ = ["RatioSequence", "is_off", "minimum_detectable_error"]

_FARTHEST: Final = 1e6
_NUM_HALVINGS: Final = 60


@final
@dataclass(frozen=True, slots=True)
class RatioSequence:
    """Intervals of the calibration ratio that all cover it at once, however often one looks.

    The ratios r = 1/θ with ``|Σ_q (y_q − θ·p_q)| ≤ u(Σ_q (y_q − θ·p_q)²)`` and the boundary of Robbins' normal mixture
    ``u(v) = √((v + η)·ln((v + η) / (η·α²)))``, α = 1 − level. It is asymptotic: exact for normal residuals, close for
    sums of many requests. η keeps it from being fooled early, when the variance is known from a few clicks only.

    Args:
        level: In (0, 1).
        tightest_at: At how many clicks the intervals are to be at their tightest; set it before looking. With weights,
            or where requests hold several clicks, the sum of their squares. At ten times as
            many they are 7 % wider than they could be, at a tenth 26 %.

    Raises:
        MetricError: `level` or `tightest_at` cannot be used.

    >>> sums = CalibrationSums.of([.1] * 5000, [1] * 500 + [0] * 4500, [1] * 5000, request_C=range(5000))
    >>> low_G, high_G = RatioSequence().bounds(sums)
    >>> low_G.round(3).tolist(), high_G.round(3).tolist()  # ± 8 % at one look, ± 13 % however often
    ([0.884], [1.151])

    Source: Robbins 1970, "Statistical methods related to the law of the iterated logarithm"; Howard, Ramdas, McAuliffe
    and Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences", eq. 14 and its §3.5 for η;
    Waudby-Smith et al. 2024, "Time-uniform central limit theory and asymptotic confidence sequences".
    """

    level: float = 0.95
    tightest_at: float = 1000.0

    def __post_init__(self) -> None:
        normal_quantile(self.level)
        if not (math.isfinite(self.tightest_at) and self.tightest_at > 0):
            raise MetricError("`tightest_at` is no number of clicks", found=self.tightest_at, allowed="a number > 0")

    @property
    def _eta(self) -> float:
        alpha = 1 - self.level
        return self.tightest_at / (-float(lambertw(-(alpha**2) / math.e, -1).real) - 1)

    def boundary(self, variance_G: Floats) -> Floats:
        """u(v): how far Σ of residuals may be from 0 when it has gathered this variance."""
        total_G = np.asarray(variance_G, dtype=np.float64) + self._eta
        reach_G: Floats = np.sqrt(total_G * (np.log(total_G / self._eta) - 2 * math.log(1 - self.level)))
        return reach_G

    def excludes_one(self, sums: CalibrationSums) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Whether the interval has left 1: that the probabilities are off, no matter by how much."""
        return np.asarray(np.abs(sums.observed_G - sums.predicted_G) > self.boundary(sums.residual_squared(1.0)))

    def bounds(self, sums: CalibrationSums) -> tuple[Floats, Floats]:
        """The low and the high ends of the calibration ratio.

        Returns:
            [0, ∞] where there is too little to say anything; never NaN.
        """

        def inside(theta_G: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
            residual_G = np.abs(sums.observed_G - theta_G * sums.predicted_G)
            return np.asarray(residual_G <= self.boundary(sums.residual_squared(theta_G)))

        zero_G = np.zeros_like(sums.observed_G)
        best_G = np.divide(sums.observed_G, sums.predicted_G, out=zero_G.copy(), where=sums.predicted_G > 0)
        ends = []
        for outer in (0.0, _FARTHEST):
            outer_G = np.maximum(np.full_like(best_G, outer), best_G * (outer > 0))
            inner_G, reaches_G = best_G.copy(), inside(outer_G)
            outside_G = outer_G.copy()
            for _ in range(_NUM_HALVINGS):
                middle_G = (inner_G + outside_G) / 2
                is_in_G = inside(middle_G)
                inner_G, outside_G = np.where(is_in_G, middle_G, inner_G), np.where(is_in_G, outside_G, middle_G)
            ends.append(np.where(reaches_G, outer, inner_G))
        least_G, most_G = ends
        with np.errstate(divide="ignore"):
            high_G = np.where(least_G > 0, 1 / least_G, np.inf)
        return np.where(most_G < _FARTHEST, 1 / most_G, 0.0), high_G

    def minimum_detectable_error(self, sums: CalibrationSums, *, power: float = 0.8) -> Floats:
        """The least |observed / predicted − 1| that data like these show, looked at any number of times.

        ``(u(v) + z_power·√v) / predicted``; infinite before anything was predicted.
        """
        return _detectable(sums, self.boundary(sums.residual_squared(1.0)), power)


def minimum_detectable_error(sums: CalibrationSums, *, level: float = 0.95, power: float = 0.8) -> Floats:
    """The least |observed / predicted − 1| that data like these show at one look.

    ``(z_level + z_power)·√v / predicted`` with v = Σ_q (y_q − p_q)²: an error below it is more likely missed than the
    power says, however calibrated the ratio looks. Print it beside the ratio.

    Args:
        sums: Of the span looked at.
        level: Of the two-sided test.
        power: The chance to find it.

    Returns:
        One number a segment; infinite before anything was predicted.

    >>> sums = CalibrationSums.of([.01] * 78400, [0, 1] * 392 + [0] * 77616, [1] * 78400, request_C=range(78400))
    >>> minimum_detectable_error(sums).round(2).tolist()  # 10 % takes 784 clicks, one takes 78,400
    [0.07]
    """
    variance_G = sums.residual_squared(1.0)
    return _detectable(sums, normal_quantile(level) * np.sqrt(variance_G), power)


def is_off(
    sums: CalibrationSums, low_G: Floats, high_G: Floats, *, tolerance: float = 0.1
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """The alarm rule: off by more than `tolerance`, and that is no chance.

    ``max(r, 1/r) > 1 + tolerance`` and 1 outside of [low, high]. "10 % off" by itself fires in 16 % of perfectly
    calibrated windows with 200 expected clicks; an interval by itself fires on harmless errors when data are many.

    Args:
        sums: Of the window.
        low_G: Low end of an interval of the calibration ratio.
        high_G: Its high end.
        tolerance: Relative error that is put up with, ≥ 0.

    >>> sums = CalibrationSums.of([.1] * 5000, [1] * 400 + [0] * 4600, [1] * 5000, request_C=range(5000))
    >>> sums.ratio_G.round(6).tolist(), is_off(sums, *RatioSequence().bounds(sums)).tolist()
    ([1.25], [True])
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise MetricError("`tolerance` is no relative error", found=tolerance, allowed="a number ≥ 0, as .1")
    excludes_G = (low_G > 1) | (high_G < 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        theta_G = np.where(sums.predicted_G > 0, sums.observed_G / sums.predicted_G, 1.0)
        far_G = np.maximum(theta_G, 1 / theta_G) > 1 + tolerance
    return np.asarray(excludes_G & far_G)


def _detectable(sums: CalibrationSums, reach_G: Floats, power: float) -> Floats:
    if not 0 < power < 1:
        raise MetricError("`power` is no chance", found=power, allowed="a number in (0, 1), as .8")
    error_G = reach_G + float(ndtri(power)) * np.sqrt(sums.residual_squared(1.0))
    infinite_G = np.full_like(error_G, np.inf)
    return np.divide(error_G, sums.predicted_G, out=infinite_G, where=sums.predicted_G > 0)
