"""How sure a number is: Wilson, Student and bootstrap intervals.

Letters: C candidates · B bins · S seeds.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.special import ndtri, stdtrit

from rankwell.errors import MetricError, UndefinedMetricWarning
from rankwell.evaluation.sample import (
    Column,
    Floats,
    Metric,
    Sample,
    check_whole_number,
    number_column,
    probability_column,
    undefined,
    weight_column,
)

__all__ = [
    "Interval",
    "MeanAndSd",
    "bootstrap_interval",
    "mean_and_sd",
    "normal_quantile",
    "paired_interval",
    "student_quantile",
    "wilson_bounds",
    "wilson_interval",
]

_LARGEST_UNDEFINED_RATE = 0.05


@final
@dataclass(frozen=True, slots=True)
class Interval:
    """An interval that covers the true value with probability `level`; NaN at both ends where undefined.

    >>> interval = Interval(low=.97, high=1.04, level=.95)
    >>> interval.contains(1.0), round(interval.width, 2)
    (True, 0.07)
    """

    low: float
    high: float
    level: float

    def contains(self, value: float) -> bool:
        """Whether low ≤ value ≤ high; False for an undefined interval."""
        return self.low <= value <= self.high

    @property
    def width(self) -> float:
        """high − low."""
        return self.high - self.low


@final
@dataclass(frozen=True, slots=True)
class MeanAndSd:
    """A mean, the standard deviation of its terms (n − 1 in the denominator), and how many they are."""

    mean: float
    sd: float
    count: int


def normal_quantile(level: float) -> float:
    """How many standard errors a two-sided normal interval of this level reaches to each side.

    >>> round(normal_quantile(.95), 4)
    1.96
    """
    return float(ndtri(0.5 + _checked_level(level) / 2))


def student_quantile(level: float, degrees: float) -> float:
    """How many standard errors a two-sided Student interval reaches to each side.

    >>> round(student_quantile(.95, 4), 4)
    2.7764
    """
    return float(stdtrit(degrees, 0.5 + _checked_level(level) / 2))


def wilson_bounds(rates_B: Column, counts_B: Column, *, level: float = 0.95) -> tuple[Floats, Floats]:
    """The Wilson score intervals of several rates at once.

    ``(r + z²/2n ± z·√(r(1−r)/n + z²/4n²)) / (1 + z²/n)``

    Args:
        rates_B: Observed rates, in [0, 1].
        counts_B: Of how many trials, above 0; for weighted rows the effective number (Σw)²/Σw².
        level: In (0, 1).

    Returns:
        The low and the high ends; NaN where a count is 0.

    Raises:
        MetricError: The columns or the level cannot be used.

    >>> low_B, high_B = wilson_bounds([0.0, .5], [10, 10])
    >>> low_B.round(4).tolist(), high_B.round(4).tolist()
    ([0.0, 0.2366], [0.2775, 0.7634])

    Source: Wilson, 1927, "Probable inference, the law of succession, and statistical inference".
    """
    rate_B = probability_column("rates_B", rates_B)
    count_B = weight_column("counts_B", counts_B, like=("rates_B", len(rate_B)))
    z_squared = normal_quantile(level) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        share_B = z_squared / count_B
        centre_B = (rate_B + share_B / 2) / (1 + share_B)
        reach_B = np.sqrt(share_B * (rate_B * (1 - rate_B) + share_B / 4)) / (1 + share_B)
        low_B, high_B = np.maximum(centre_B - reach_B, 0.0), np.minimum(centre_B + reach_B, 1.0)
    # at the ends of [0, 1] the formula gives the end itself, but for rounding
    return np.where(rate_B == 0, low_B * 0, low_B), np.where(rate_B == 1, high_B * 0 + 1, high_B)


def wilson_interval(rate: float, count: float, *, level: float = 0.95) -> Interval:
    """The Wilson score interval of one rate: `wilson_bounds` with a single entry.

    Args:
        rate: Observed rate, in [0, 1].
        count: Of how many trials.
        level: In (0, 1).

    Returns:
        The interval; NaN at both ends with `UndefinedMetricWarning` where the count is 0.

    Raises:
        MetricError: A rate outside [0, 1], a negative count, a level outside (0, 1).

    >>> wilson_interval(.5, 10).contains(.3)
    True
    """
    [low], [high] = wilson_bounds([rate], [count], level=level)
    if count == 0:
        undefined("Wilson interval", "it needs a trial")
    return Interval(float(low), float(high), level)


def bootstrap_interval(
    metric: Metric,
    probabilities_C: Column,
    labels_C: Column,
    weights_C: Column,
    *,
    cluster_C: Column,
    seed: int,
    num_draws: int = 200,
    level: float = 0.95,
) -> Interval:
    """The percentile interval of any metric when whole clusters are drawn again with replacement.

    A cluster drawn n times counts n-fold through its rows' weights, so the rows stay where they are and a metric that
    is bound to a column of the rows (``partial(gauc, request_C=request_C)``) works as it is.

    Args:
        metric: Any `Metric`.
        probabilities_C: In [0, 1].
        labels_C: 0 or 1.
        weights_C: At least 0.
        cluster_C: What is independent of each other: the request or the member of each row.
        seed: Of the draws.
        num_draws: How many samples are drawn.
        level: In (0, 1).

    Returns:
        The interval; NaN at both ends with `UndefinedMetricWarning` where there are fewer than two clusters or the
        metric is undefined in more than 5 % of the draws (rarer ones are left out).

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> from rankwell.evaluation.discrimination import brier
    >>> interval = bootstrap_interval(brier, [.5, .5, 1, 1], [0, 1, 1, 1], [1] * 4, cluster_C=[0, 0, 1, 1], seed=0)
    >>> interval.low, interval.high
    (0.0, 0.25)

    Source: Davison and Hinkley, 1997, "Bootstrap Methods and their Application", sections 3.8 and 5.3.
    """
    level = _checked_level(level)
    num_draws = check_whole_number("num_draws", num_draws, at_least=2)
    sample = Sample.of(probabilities_C, labels_C, weights_C)
    clusters = sample.groups("cluster_C", cluster_C)
    if len(clusters) < 2:
        undefined("bootstrap interval", "it needs two clusters")
        return Interval(float("nan"), float("nan"), level)
    checked_C = probability_column("probabilities_C", probabilities_C)
    label_C = number_column("labels_C", labels_C)
    weight_C = weight_column("weights_C", weights_C)
    kept_C = slice(None) if sample.kept_C is None else sample.kept_C
    generator = np.random.default_rng(seed)
    values = np.empty(num_draws)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        for draw in range(num_draws):
            drawn = generator.integers(0, len(clusters), len(clusters))
            times_drawn = np.bincount(drawn, minlength=len(clusters))
            drawn_weight_C = np.zeros(len(weight_C))
            drawn_weight_C[kept_C] = sample.weights_C * times_drawn[clusters.index_C]
            values[draw] = metric(checked_C, label_C, drawn_weight_C)
    is_defined = ~np.isnan(values)
    if np.mean(~is_defined) > _LARGEST_UNDEFINED_RATE:
        undefined("bootstrap interval", f"the metric is undefined in {int(np.sum(~is_defined))} of {num_draws} draws")
        return Interval(float("nan"), float("nan"), level)
    low, high = np.quantile(values[is_defined], [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(low), float(high), level)


def paired_interval(differences_S: Column, *, level: float = 0.95) -> Interval:
    """The Student interval of the mean of paired differences, one a seed.

    ``d̄ ± t · sd / √n``, with t of n − 1 degrees of freedom.

    Args:
        differences_S: One difference a seed: two recipes, the same seed, the same rows.
        level: In (0, 1).

    Returns:
        The interval; NaN at both ends with `UndefinedMetricWarning` for fewer than two differences.

    Raises:
        MetricError: The differences are not finite numbers, or the level is outside (0, 1).

    >>> interval = paired_interval([.01, .02, .03])  # .02 ± 4.3027 · .01 / √3
    >>> round(interval.low, 5), round(interval.high, 5)
    (-0.00484, 0.04484)
    """
    summary = _summarised("differences_S", differences_S)
    if summary.count < 2:
        undefined("paired interval", "it needs two differences")
        return Interval(float("nan"), float("nan"), _checked_level(level))
    reach = student_quantile(level, summary.count - 1) * summary.sd / summary.count**0.5
    return Interval(summary.mean - reach, summary.mean + reach, level)


def mean_and_sd(values_S: Column) -> MeanAndSd:
    """The mean over seeds and the standard deviation between them.

    ``sd = √(Σ (v − v̄)² / (n − 1))``

    Args:
        values_S: One number a seed.

    Returns:
        Mean, standard deviation and count; NaN with `UndefinedMetricWarning` for the mean of nothing and for the
        deviation of fewer than two.

    Raises:
        MetricError: The values are not finite numbers.

    >>> mean_and_sd([1, 2, 3])
    MeanAndSd(mean=2.0, sd=1.0, count=3)
    """
    summary = _summarised("values_S", values_S)
    if summary.count < 2:
        undefined("standard deviation", "it needs two values")
    return summary


def _summarised(name: str, values_S: Column) -> MeanAndSd:
    value_S = number_column(name, values_S)
    mean = float(value_S.mean()) if len(value_S) else float("nan")
    sd = float(value_S.std(ddof=1)) if len(value_S) > 1 else float("nan")
    return MeanAndSd(mean, sd, len(value_S))


def _checked_level(level: float) -> float:
    if not 0 < level < 1:
        raise MetricError("`level` is not the level of an interval", found=level, allowed="a number in (0, 1), as .95")
    return float(level)
