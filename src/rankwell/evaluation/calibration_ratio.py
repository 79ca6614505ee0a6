"""Predicted over observed, and how sure that ratio is.

Letters: C candidates · G groups (segments) · Q clusters: what is independent of each other, within a segment.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri, stdtrit

from rankwell.errors import MetricError
from rankwell.evaluation.intervals import Interval, normal_quantile, student_quantile
from rankwell.evaluation.sample import Column, Floats, Groups, Sample, group_rows, undefined

__all__ = [
    "calibration_ratio",
    "calibration_ratio_interval",
    "calibration_ratio_interval_of",
    "calibration_ratio_of",
    "calibration_ratios_by_group",
    "detectable_error",
]


def calibration_ratio(probabilities_C: Column, labels_C: Column, weights_C: Column) -> float:
    """Predicted over observed positives: above 1 is over-confident.

    ``Σ w·p / Σ w·y``.

    Args:
        probabilities_C: In [0, 1].
        labels_C: 0 or 1.
        weights_C: At least 0.

    Returns:
        A number of at least 0; NaN with `UndefinedMetricWarning` (and not infinity) where nothing was observed.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> calibration_ratio([.5, .25, .75], [1, 0, 0], [1, 1, 1])
    1.5
    """
    return calibration_ratio_of(Sample.of(probabilities_C, labels_C, weights_C))


def calibration_ratio_of(sample: Sample) -> float:
    """`calibration_ratio` of a sample."""
    observed = float((sample.weights_C * sample.labels_C).sum())
    if observed <= 0:
        return undefined("calibration ratio", "no positive was observed")
    return float((sample.weights_C * sample.probabilities_C).sum()) / observed


def calibration_ratio_interval(
    probabilities_C: Column,
    labels_C: Column,
    weights_C: Column,
    *,
    request_C: Column | None = None,
    level: float = 0.95,
) -> Interval:
    """The log-normal interval of the calibration ratio, robust to what goes on within a request.

    ``r · exp(± t·s)`` with ``s² = n/(n−1) · Σ_q (Σ_{i∈q} w_i·(p_i − r·y_i))² / (Σ w·p)²`` over the n requests q, and t
    of Student's distribution with n − 1 degrees of freedom. Without requests each row stands alone.

    Args:
        probabilities_C: In [0, 1].
        labels_C: 0 or 1.
        weights_C: At least 0.
        request_C: What is independent of each other: the request, or better the member, of each row.
        level: In (0, 1).

    Returns:
        The interval; NaN at both ends with `UndefinedMetricWarning` where nothing was observed or predicted, or
        there are fewer than two requests.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> interval = calibration_ratio_interval([.1] * 1000, [1] * 100 + [0] * 900, [1] * 1000)
    >>> round(interval.low, 3), round(interval.high, 3)  # exp(± 1.96·√(.9/100))
    (0.83, 1.205)

    Source: Cameron and Miller, 2015, "A practitioner's guide to cluster-robust inference"; the delta method on ln r.
    """
    sample = Sample.of(probabilities_C, labels_C, weights_C)
    clusters = None if request_C is None else sample.groups("request_C", request_C)
    return calibration_ratio_interval_of(sample, clusters, level=level)


def calibration_ratio_interval_of(sample: Sample, clusters: Groups | None = None, *, level: float = 0.95) -> Interval:
    """`calibration_ratio_interval` of a sample and its clusters; None where each row stands alone."""
    everything = Groups(np.zeros(1, dtype=np.int64), np.zeros(len(sample), dtype=np.int64))
    _, [low], [high] = calibration_ratios_by_group(sample, everything, clusters, level=level)
    if np.isnan(low):
        undefined("interval of the calibration ratio", "it needs predictions, a positive and two independent requests")
    return Interval(float(low), float(high), level)


def detectable_error(interval: Interval, *, power: float = 0.8) -> float:
    """The relative error of the ratio that a sample with this interval shows with so much chance.

    ``e^((z_level + z_power)·s) − 1`` with s from the interval's own width: a smaller error is more likely missed than
    seen, so a ratio that looks right says no more than that.

    Args:
        interval: Of a calibration ratio.
        power: The chance to see it, in (0, 1).

    Returns:
        Above 0; NaN where the interval is undefined.

    >>> round(detectable_error(Interval(1 / 1.2, 1.2, .95)), 2)
    0.3
    """
    if not 0 < power < 1:
        raise MetricError("`power` is no chance", found=power, allowed="a number in (0, 1), as .8")
    if not interval.low > 0:
        return math.nan
    reach = math.log(interval.high / interval.low) / 2
    return math.expm1(reach * (1 + float(ndtri(power)) / normal_quantile(interval.level)))


def calibration_ratios_by_group(
    sample: Sample, groups: Groups, clusters: Groups | None = None, *, level: float = 0.95
) -> tuple[Floats, Floats, Floats]:
    """Ratio, low end and high end of each group (G); NaN, without a warning, where undefined."""
    student_quantile(level, 1)  # refuses a bad level also where there is nothing to compute
    num_groups, group_C, weight_C = len(groups), groups.index_C, sample.weights_C

    def total(values_C: Floats) -> Floats:
        return np.bincount(group_C, values_C, minlength=num_groups).astype(np.float64, copy=False)

    predicted_G, observed_G = total(weight_C * sample.probabilities_C), total(weight_C * sample.labels_C)
    ratio_G = np.divide(predicted_G, observed_G, out=np.full(num_groups, np.nan), where=observed_G > 0)
    residual_C = weight_C * (sample.probabilities_C - ratio_G[group_C] * sample.labels_C)
    if clusters is None:
        squared_G: Floats = total(residual_C**2)
        count_G = np.bincount(group_C, minlength=num_groups)
    else:
        pairs = group_rows(group_C * len(clusters) + clusters.index_C)  # a request may reach into several segments
        residual_Q = np.bincount(pairs.index_C, residual_C, minlength=len(pairs))
        group_Q = pairs.values_G.astype(np.int64) // max(len(clusters), 1)
        squared_G = np.bincount(group_Q, residual_Q**2, minlength=num_groups).astype(np.float64, copy=False)
        count_G = np.bincount(group_Q, minlength=num_groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        error_G = np.sqrt(squared_G * count_G / (count_G - 1)) / predicted_G
        reach_G = np.exp(stdtrit(np.maximum(count_G - 1, 1), 0.5 + level / 2) * error_G)
        is_defined_G = (count_G > 1) & (ratio_G > 0)
        low_G = np.where(is_defined_G, ratio_G / reach_G, np.nan)
        high_G = np.where(is_defined_G, ratio_G * reach_G, np.nan)
    return ratio_G, low_G, high_G
