"""How well predictions tell the labels apart, and how near they come: AUC, GAUC, log loss, entropy, Brier.

Letters: C candidates · G groups · T ties: the distinct probabilities of a group.
"""

from __future__ import annotations

import math

import numpy as np

from rankwell.evaluation.sample import Column, Floats, Sample, Ties, clipped_inside, number_column, undefined

__all__ = [
    "auc",
    "auc_by_group",
    "auc_of",
    "brier",
    "brier_of",
    "gauc",
    "gauc_of",
    "log_loss",
    "log_loss_from_logits",
    "log_loss_of",
    "normalized_entropy",
    "normalized_entropy_of",
    "row_log_losses",
]


def auc(probabilities_C: Column, labels_C: Column, weights_C: Column) -> float:
    """The chance that a random positive stands above a random negative; ties count half.

    ``AUC = Σ_i Σ_j w_i w_j [p_i > p_j] + ½[p_i = p_j]  /  Σ_i Σ_j w_i w_j``, i over positives, j over negatives.

    Args:
        probabilities_C: In [0, 1].
        labels_C: 0 or 1.
        weights_C: At least 0.

    Returns:
        A number in [0, 1]; NaN with `UndefinedMetricWarning` where a class is absent.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> auc([.1, .4, .4, .8], [0, 1, 0, 1], [1, 1, 1, 1])  # 3 pairs won, 1 tied, of 4
    0.875

    Source: Hanley and McNeil, 1982, "The meaning and use of the area under a ROC curve".
    """
    return auc_of(Sample.of(probabilities_C, labels_C, weights_C))


def auc_of(sample: Sample) -> float:
    """`auc` of a sample."""
    [area] = auc_by_group(sample, sample.ties)
    return float(area) if not math.isnan(area) else undefined("AUC", "it needs positives and negatives")


def gauc(probabilities_C: Column, labels_C: Column, weights_C: Column, *, request_C: Column) -> float:
    """The mean AUC within groups that hold both classes, weighted by impressions.

    ``GAUC = Σ_g W_g·AUC_g / Σ_g W_g`` with ``W_g`` the weight of group g.

    Args:
        probabilities_C: In [0, 1].
        labels_C: 0 or 1.
        weights_C: At least 0.
        request_C: The group of each row: its request, or its member, or anything with an id. Any order.

    Returns:
        A number in [0, 1]; NaN with `UndefinedMetricWarning` where no group holds both classes.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> gauc([.9, .1, .2, .3, .4], [1, 0, 1, 0, 0], [1, 1, 1, 1, 1], request_C=[0, 0, 1, 1, 1])  # (2·1 + 3·0)/5
    0.4

    Source: Zhu et al., 2017, "Optimized Cost per Click in Taobao Display Advertising", section 4.
    """
    sample = Sample.of(probabilities_C, labels_C, weights_C)
    return gauc_of(sample, Ties.within(sample.groups("request_C", request_C), sample.ranks_C))


def gauc_of(sample: Sample, ties: Ties) -> float:
    """`gauc` of a sample and its ties within the groups."""
    area_G = auc_by_group(sample, ties)
    weight_G = ties.by_group(ties.total(sample.weights_C))
    has_both_G = ~np.isnan(area_G)
    if not has_both_G.any():
        return undefined("GAUC", "no group holds both positives and negatives")
    return float(np.average(area_G[has_both_G], weights=weight_G[has_both_G]))


def auc_by_group(sample: Sample, ties: Ties) -> Floats:
    """The AUC within each group (G) that the ties are within; NaN, without a warning, for a group of one class."""
    positive_T = _shares(ties, ties.total(sample.weights_C * sample.labels_C))
    negative_T = _shares(ties, ties.total(sample.weights_C * (1 - sample.labels_C)))
    area_G = ties.by_group(positive_T * (ties.below(negative_T) + negative_T / 2))
    has_both_G = (ties.by_group(positive_T) > 0) & (ties.by_group(negative_T) > 0)
    return np.where(has_both_G, np.minimum(area_G, 1.0), np.nan)


def _shares(ties: Ties, mass_T: Floats) -> Floats:
    total_T = ties.by_group(mass_T)[ties.group_T]
    return np.divide(mass_T, total_T, out=np.zeros_like(mass_T), where=total_T > 0)


def row_log_losses(probabilities_C: Floats, labels_C: Floats) -> Floats:
    """``−y·ln p − (1−y)·ln(1−p)`` of each row, in nats, with p clipped to the open interval as in `log_loss`."""
    p_C = clipped_inside(probabilities_C)
    return -np.where(labels_C > 0, np.log(p_C), np.log1p(-p_C))


def log_loss(probabilities_C: Column, labels_C: Column, weights_C: Column) -> float:
    """The mean negative log-likelihood of the labels, in nats.

    ``LL = Σ w·(−y·ln p − (1−y)·ln(1−p)) / Σ w``. Nothing is smoothed: p is clipped only to what float64 can hold, at
    4.9e-324 below and 1 − 2⁻⁵³ above, so that a certain and wrong prediction costs 744 nats at 0 and 37 at 1.

    Args:
        probabilities_C: In [0, 1].
        labels_C: 0 or 1.
        weights_C: At least 0.

    Returns:
        Nats, at least 0; NaN with `UndefinedMetricWarning` where no row has weight.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> round(log_loss([.5, .25], [1, 0], [1, 1]), 6)  # (ln 2 + ln 4/3) / 2
    0.490415
    """
    return log_loss_of(Sample.of(probabilities_C, labels_C, weights_C))


def log_loss_of(sample: Sample) -> float:
    """`log_loss` of a sample."""
    if not len(sample):
        return undefined("log loss", "no row has a positive weight")
    return sample.mean(row_log_losses(sample.probabilities_C, sample.labels_C))


def log_loss_from_logits(logits_C: Column, labels_C: Column, weights_C: Column) -> float:
    """`log_loss` of ``σ(logit)``, exact for logits of any size.

    ``LL = Σ w·ln(1 + exp(−z)) / Σ w`` with z the logit for a positive and its negative for a negative.

    Args:
        logits_C: Finite log-odds.
        labels_C: 0 or 1.
        weights_C: At least 0.

    Returns:
        Nats, at least 0; NaN with `UndefinedMetricWarning` where no row has weight.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> log_loss_from_logits([1000.0, 0.0], [0, 1], [1, 0])
    1000.0
    """
    checked_C = number_column("logits_C", logits_C)
    sample = Sample.of(np.zeros(len(checked_C)), labels_C, weights_C)
    if not len(sample):
        return undefined("log loss", "no row has a positive weight")
    return sample.mean(np.logaddexp(0, (1 - 2 * sample.labels_C) * sample.kept(checked_C)))


def normalized_entropy(probabilities_C: Column, labels_C: Column, weights_C: Column) -> float:
    """The log loss as a share of the log loss of always predicting the mean label.

    ``NE = LL / (−r·ln r − (1−r)·ln(1−r))`` with r = Σ w·y / Σ w. Below 1 is better than the mean.

    Args:
        probabilities_C: In [0, 1].
        labels_C: 0 or 1.
        weights_C: At least 0.

    Returns:
        A number of at least 0; NaN with `UndefinedMetricWarning` where a class is absent.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> normalized_entropy([.5, .5], [0, 1], [1, 1])
    1.0

    Source: He et al., 2014, "Practical Lessons from Predicting Clicks on Ads at Facebook", section 3.
    """
    return normalized_entropy_of(Sample.of(probabilities_C, labels_C, weights_C))


def normalized_entropy_of(sample: Sample) -> float:
    """`normalized_entropy` of a sample."""
    positive = float((sample.weights_C * sample.labels_C).sum())
    negative = float((sample.weights_C * (1 - sample.labels_C)).sum())
    if positive <= 0 or negative <= 0:
        return undefined("normalized entropy", "it needs positives and negatives")
    rate, rest = positive / (positive + negative), negative / (positive + negative)
    return log_loss_of(sample) / -(rate * math.log(rate) + rest * math.log(rest))


def brier(probabilities_C: Column, labels_C: Column, weights_C: Column) -> float:
    """The mean squared distance of probability and label.

    ``Brier = Σ w·(p − y)² / Σ w``.

    Args:
        probabilities_C: In [0, 1].
        labels_C: 0 or 1.
        weights_C: At least 0.

    Returns:
        A number in [0, 1]; NaN with `UndefinedMetricWarning` where no row has weight.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> brier([.5, 1.0], [1, 0], [1, 1])  # (.25 + 1) / 2
    0.625

    Source: Brier, 1950, "Verification of forecasts expressed in terms of probability".
    """
    return brier_of(Sample.of(probabilities_C, labels_C, weights_C))


def brier_of(sample: Sample) -> float:
    """`brier` of a sample."""
    if not len(sample):
        return undefined("Brier score", "no row has a positive weight")
    return sample.mean((sample.probabilities_C - sample.labels_C) ** 2)
