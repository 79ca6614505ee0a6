"""How much AUC one model has over another on the same rows, and how sure that is.

Letters: C candidates · G clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from rankwell.evaluation.discrimination import auc_of
from rankwell.evaluation.intervals import Interval, normal_quantile
from rankwell.evaluation.sample import Column, Floats, Sample, undefined

__all__ = ["AucDifference", "auc_difference"]


@final
@dataclass(frozen=True, slots=True)
class AucDifference:
    """AUC of one less AUC of the other, with its interval."""

    value: float
    interval: Interval


def auc_difference(
    probabilities_C: Column,
    others_C: Column,
    labels_C: Column,
    weights_C: Column,
    *,
    cluster_C: Column,
    level: float = 0.95,
) -> AucDifference:
    """AUC(probabilities) − AUC(others), with a normal interval of rows that belong together in clusters.

    AUC is the mean over positives of the share of negatives below, and over negatives of that of positives above. To
    first order a row moves it by ``w·(share - AUC) / Σ w`` over the rows of its class; a cluster's moves add up, the
    variance is ``G/(G-1) · Σ_g moves_g²``, and that of a difference is that of the clusters' differences.

    Args:
        probabilities_C, others_C: In [0, 1].
        labels_C: 0 or 1.
        weights_C: At least 0.
        cluster_C: What is independent of each other: the request or the member of each row.
        level: In (0, 1).

    Returns:
        NaN with `UndefinedMetricWarning` where a class is absent; NaN ends with one of fewer than two clusters.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> found = auc_difference([.1, .4, .4, .8], [.5] * 4, [0, 1, 0, 1], [1] * 4, cluster_C=[0, 1, 2, 3])
    >>> found.value, round(found.interval.low, 3), found.interval.high > 0.375
    (0.375, 0.092, True)

    Source: DeLong, DeLong and Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver operating
    characteristic curves"; Obuchowski 1997, "Nonparametric analysis of clustered ROC curve data" (clusters).
    """
    sample, other = Sample.of(probabilities_C, labels_C, weights_C), Sample.of(others_C, labels_C, weights_C)
    difference = auc_of(sample) - auc_of(other)
    if math.isnan(difference):
        return AucDifference(difference, Interval(math.nan, math.nan, level))
    clusters = sample.groups("cluster_C", cluster_C)
    if len(clusters) < 2:
        nan = undefined("the interval of a difference in AUC", "it needs two clusters")
        return AucDifference(difference, Interval(nan, nan, level))
    moves_G = np.bincount(clusters.index_C, _moves(sample) - _moves(other), minlength=len(clusters))
    error = math.sqrt(float((moves_G**2).sum()) * len(clusters) / (len(clusters) - 1))
    reach = normal_quantile(level) * error
    return AucDifference(difference, Interval(difference - reach, difference + reach, level))


def _moves(sample: Sample) -> Floats:
    """How far each row moves the AUC, to first order; of each class they sum to 0."""
    ties = sample.ties
    mass_TC = [sample.weights_C * (1 - sample.labels_C), sample.weights_C * sample.labels_C]
    shares = []
    for mass_C in mass_TC:  # of each class: below each row, and half of what is equal
        mass_T = ties.total(mass_C)
        shares.append((ties.below(mass_T) + mass_T / 2)[sample.ranks_C] / mass_C.sum())
    is_positive_C = sample.labels_C > 0
    share_C = np.where(is_positive_C, shares[0], 1 - shares[1])
    of_class_C = np.where(is_positive_C, mass_TC[1].sum(), mass_TC[0].sum())
    moves_C: Floats = sample.weights_C * (share_C - auc_of(sample)) / of_class_C
    return moves_C
