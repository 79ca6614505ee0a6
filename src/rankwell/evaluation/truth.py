"""Distances to the true probabilities, where a simulator knows them.

Letters: C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import numpy as np
from scipy.special import entr, kl_div, xlogy

from rankwell.evaluation.discrimination import log_loss_of
from rankwell.evaluation.sample import Column, Floats, Sample, clipped_inside, probability_column, undefined

__all__ = [
    "TruthDistances",
    "bayes_log_loss",
    "excess_log_loss",
    "mean_absolute_error_to_truth",
    "realised_log_loss",
]

_LEAST_DIVISOR = 1e-300  # 1 / p is infinite not far below; there the quotient's logarithm is taken apart


def mean_absolute_error_to_truth(probabilities_C: Column, true_probabilities_C: Column, weights_C: Column) -> float:
    """The mean distance of the probabilities to the true ones.

    ``Σ w·|p − q| / Σ w`` with q the truth.

    Args:
        probabilities_C: In [0, 1].
        true_probabilities_C: In [0, 1].
        weights_C: At least 0.

    Returns:
        A number in [0, 1]; NaN with `UndefinedMetricWarning` where no row has weight.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> mean_absolute_error_to_truth([.5, .5], [.25, .5], [1, 3])
    0.0625
    """
    sample, truth_C = _with_truth(probabilities_C, true_probabilities_C, weights_C)
    if not len(sample):
        return undefined("distance to the truth", "no row has a positive weight")
    return sample.mean(np.abs(sample.probabilities_C - truth_C))


def bayes_log_loss(true_probabilities_C: Column, weights_C: Column) -> float:
    """The log loss that the truth itself has in expectation: no model that sees as much can do better.

    ``Σ w·(−q·ln q − (1−q)·ln(1−q)) / Σ w``.

    Args:
        true_probabilities_C: In [0, 1].
        weights_C: At least 0.

    Returns:
        Nats, in [0, ln 2]; NaN with `UndefinedMetricWarning` where no row has weight.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> round(bayes_log_loss([.5, 1.0], [1, 1]), 6)  # ln 2 / 2
    0.346574
    """
    truth_C = probability_column("true_probabilities_C", true_probabilities_C)
    sample = Sample.of(truth_C, np.zeros(len(truth_C)), weights_C)
    truth_C = sample.probabilities_C
    if not len(sample):
        return undefined("Bayes log loss", "no row has a positive weight")
    return sample.mean(entr(truth_C) - (1 - truth_C) * np.log1p(-clipped_inside(truth_C)))


def realised_log_loss(true_probabilities_C: Column, labels_C: Column, weights_C: Column) -> float:
    """The log loss that the truth had on these very labels: what a model's log loss on them compares with.

    ``Σ w·(−y·ln q − (1−y)·ln(1−q)) / Σ w``.

    Args:
        true_probabilities_C: In [0, 1].
        labels_C: 0 or 1.
        weights_C: At least 0.

    Returns:
        Nats, at least 0; NaN with `UndefinedMetricWarning` where no row has weight.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> round(realised_log_loss([.5, .25], [1, 0], [1, 1]), 6)
    0.490415
    """
    truth_C = probability_column("true_probabilities_C", true_probabilities_C)
    return log_loss_of(Sample.of(truth_C, labels_C, weights_C))


def excess_log_loss(probabilities_C: Column, true_probabilities_C: Column, weights_C: Column) -> float:
    """The log loss above the truth's, in expectation over labels: the mean Kullback-Leibler distance.

    ``Σ w·(q·ln(q/p) + (1−q)·ln((1−q)/(1−p))) / Σ w``, p clipped to what float64 can hold as in `log_loss`.

    Args:
        probabilities_C: In [0, 1].
        true_probabilities_C: In [0, 1].
        weights_C: At least 0.

    Returns:
        Nats, at least 0, and 0 only at the truth; NaN with `UndefinedMetricWarning` where no row has weight.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> round(excess_log_loss([.5], [1.0], [1]), 6)  # ln 2
    0.693147
    """
    sample, truth_C = _with_truth(probabilities_C, true_probabilities_C, weights_C)
    if not len(sample):
        return undefined("excess log loss", "no row has a positive weight")
    p_C = clipped_inside(sample.probabilities_C)
    # each term has p − q added: the sum is the same, and no term is below 0
    of_positives_C = np.where(
        p_C < _LEAST_DIVISOR, xlogy(truth_C, truth_C) - truth_C * np.log(p_C) - truth_C + p_C, kl_div(truth_C, p_C)
    )
    return sample.mean(of_positives_C + kl_div(1 - truth_C, 1 - p_C))


def _with_truth(probabilities_C: Column, true_probabilities_C: Column, weights_C: Column) -> tuple[Sample, Floats]:
    checked_C = probability_column("probabilities_C", probabilities_C)
    truth_C = probability_column("true_probabilities_C", true_probabilities_C, like=("probabilities_C", len(checked_C)))
    sample = Sample.of(checked_C, np.zeros(len(checked_C)), weights_C)
    return sample, sample.kept(truth_C)


@final
@dataclass(frozen=True, slots=True)
class TruthDistances:
    """How far predictions are from the true probabilities; log losses in nats.

    Args:
        mean_absolute_error: Mean |p − q|.
        bayes_log_loss: What the truth has in expectation.
        realised_log_loss: What the truth had on these labels.
        excess_log_loss: Mean Kullback-Leibler distance from the truth.
    """

    mean_absolute_error: float
    bayes_log_loss: float
    realised_log_loss: float
    excess_log_loss: float

    @classmethod
    def of(cls, sample: Sample, truth_C: Floats) -> Self:
        """Those of a sample whose rows have these true probabilities."""
        p_C, weight_C = sample.probabilities_C, sample.weights_C
        return cls(
            mean_absolute_error=mean_absolute_error_to_truth(p_C, truth_C, weight_C),
            bayes_log_loss=bayes_log_loss(truth_C, weight_C),
            realised_log_loss=realised_log_loss(truth_C, sample.labels_C, weight_C),
            excess_log_loss=excess_log_loss(p_C, truth_C, weight_C),
        )
