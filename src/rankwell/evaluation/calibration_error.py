"""How far probabilities are from what happened: ECE, its value under calibration, and the reliability curve.

Letters: C candidates · B bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np

from rankwell.evaluation.bins import Bins, tie_bins
from rankwell.evaluation.intervals import wilson_bounds
from rankwell.evaluation.sample import Column, Sample, check_whole_number, probability_column, undefined

__all__ = [
    "EceNull",
    "ReliabilityCurve",
    "debiased_ece",
    "debiased_ece_of",
    "ece",
    "ece_null",
    "ece_null_of",
    "ece_of",
    "reliability_curve",
    "reliability_curve_of",
]

_NUM_CELLS: Final = 4096


def ece(probabilities_C: Column, labels_C: Column, weights_C: Column, *, num_bins: int = 15) -> float:
    """The expected calibration error over bins of equal mass.

    ``ECE = Σ_b W_b/W · |p̄_b − ȳ_b|``. Equal probabilities stay in one bin: a distinct probability belongs to the bin
    that the middle of its mass falls into.

    Even the truth has an ECE above 0, from the chance in the labels: read it beside `ece_null`, or use `debiased_ece`.

    Args:
        probabilities_C: In [0, 1].
        labels_C: 0 or 1.
        weights_C: At least 0.
        num_bins: How many parts the mass is cut into.

    Returns:
        A number in [0, 1]; NaN with `UndefinedMetricWarning` where no row has weight.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> round(ece([.1, .3, .6, .8], [0, 1, 1, 1], [1, 1, 1, 1], num_bins=2), 12)  # ½·|.2 − .5| + ½·|.7 − 1|
    0.3

    Source: Naeini, Cooper and Hauskrecht, 2015, "Obtaining well calibrated probabilities using Bayesian binning";
    equal mass after Nguyen and O'Connor, 2015, "Posterior calibration and exploratory analysis".
    """
    sample = Sample.of(probabilities_C, labels_C, weights_C)
    return ece_of(Bins.of(sample, sample.ties, num_bins))


def ece_of(bins: Bins) -> float:
    """`ece` of the bins of a sample."""
    if not bins.count_B.any():
        return undefined("ECE", "no row has a positive weight")
    return float(bins.gap_B.sum() / bins.weight_B.sum())


def debiased_ece(probabilities_C: Column, labels_C: Column, weights_C: Column, *, num_bins: int = 15) -> float:
    """The ECE less what true probabilities would show on the same bins by chance.

    ``ECE − Σ_b W_b/W · E|p̄_b − ȳ_b|``, the expectation over labels drawn from the probabilities, in closed form
    (no seed). Its mean is 0 where the probabilities are true, so single values fall below 0 too; where they are far
    off it takes off more than chance adds there, on average by no more than the null's own mean.

    Chance depends on how many rows there are, not on their weight alone: a row of weight 2 is one event that counts
    twice, with four times the variance, as after down-sampling. So here, unlike in other metrics, it is not the same
    as the row given twice, which is two events.

    Args:
        probabilities_C: In [0, 1].
        labels_C: 0 or 1.
        weights_C: At least 0.
        num_bins: How many parts the mass is cut into.

    Returns:
        A number in [-1, 1]; NaN with `UndefinedMetricWarning` where no row has weight.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> debiased_ece([.5, .5], [0, 1], [1, 1], num_bins=1)  # ECE 0; by chance 1/4·½ + ½·0 + 1/4·½
    -0.25

    Source: after Kumar, Liang and Ma, 2019, "Verified uncertainty calibration", section 5 (there for squared error).
    """
    sample = Sample.of(probabilities_C, labels_C, weights_C)
    return debiased_ece_of(Bins.of(sample, sample.ties, num_bins))


def debiased_ece_of(bins: Bins) -> float:
    """`debiased_ece` of the bins of a sample."""
    if not bins.count_B.any():
        return undefined("debiased ECE", "no row has a positive weight")
    return float((bins.gap_B - bins.expected_gap_B).sum() / bins.weight_B.sum())


@final
@dataclass(frozen=True, slots=True)
class EceNull:
    """The ECE that true probabilities show by chance: its mean and its 95th percentile."""

    mean: float
    p95: float


def ece_null(
    probabilities_C: Column, weights_C: Column, *, num_bins: int = 15, num_draws: int = 400, seed: int
) -> EceNull:
    """The ECE of these very probabilities if they were true, by drawing labels from them.

    Up to some 4,000 rows every label is drawn by itself. Beyond, neighbours of (nearly) one weight and probability
    are drawn together as a binomial that keeps their exact variance.

    Args:
        probabilities_C: In [0, 1].
        weights_C: At least 0.
        num_bins: As for `ece`.
        num_draws: How many times all labels are drawn.
        seed: Of the draws.

    Returns:
        Mean and 95th percentile; NaN with `UndefinedMetricWarning` where no row has weight.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> ece_null([.5, .5], [1, 1], num_bins=1, seed=0).p95  # both labels equal, as happens half of the time
    0.5
    """
    checked_C = probability_column("probabilities_C", probabilities_C)
    sample = Sample.of(checked_C, np.zeros(len(checked_C)), weights_C)
    return ece_null_of(sample, num_bins, num_draws=num_draws, seed=seed)


def ece_null_of(sample: Sample, num_bins: int = 15, *, num_draws: int = 400, seed: int) -> EceNull:
    """`ece_null` of a sample, whose labels are not looked at."""
    num_bins = check_whole_number("num_bins", num_bins, at_least=1)
    num_draws = check_whole_number("num_draws", num_draws, at_least=1)
    if not len(sample):
        nothing = undefined("the null of ECE", "no row has a positive weight")
        return EceNull(nothing, nothing)
    order_C = sample.ties.order_C
    bin_C = np.repeat(tie_bins(sample.ties, sample.weights_C, num_bins), sample.ties.count_T)
    weight_C, p_C = sample.weights_C[order_C], sample.probabilities_C[order_C]
    if weight_C.min() < weight_C.max():  # rows of one weight together, by probability within it
        again_C = np.lexsort((weight_C, bin_C))
        bin_C, weight_C, p_C = bin_C[again_C], weight_C[again_C], p_C[again_C]
    count_B = np.bincount(bin_C)
    place_C = np.arange(len(sample)) - (np.cumsum(count_B) - count_B)[bin_C]  # within the bin
    start_L = np.flatnonzero(place_C % -(-len(sample) // _NUM_CELLS) == 0)  # L: cells
    count_L = np.diff(start_L, append=len(sample))
    rate_L = np.clip(np.add.reduceat(p_C, start_L) / count_L, 0.0, 1.0)
    variance_L = np.add.reduceat(weight_C**2 * p_C * (1 - p_C), start_L)
    plain_L = count_L * rate_L * (1 - rate_L)
    scale_L = np.sqrt(np.divide(variance_L, plain_L, out=np.zeros_like(plain_L), where=plain_L > 0))
    drawn_DL = np.random.default_rng(seed).binomial(count_L, rate_L, size=(num_draws, len(start_L)))  # D: draws
    residual_DL = (drawn_DL - count_L * rate_L) * scale_L
    bin_L = bin_C[start_L]
    first_B = np.flatnonzero(np.append(True, bin_L[1:] != bin_L[:-1]))
    ece_D = np.abs(np.add.reduceat(residual_DL, first_B, axis=1)).sum(axis=1) / sample.total_weight
    return EceNull(float(ece_D.mean()), float(np.quantile(ece_D, 0.95)))


@final
@dataclass(frozen=True, slots=True)
class ReliabilityCurve:
    """Mean prediction against mean label, by bins of equal mass; one entry for each bin that holds a row.

    Args:
        count: How many rows.
        weight: Σ w.
        mean_predicted: Σ w·p / Σ w.
        mean_observed: Σ w·y / Σ w.
        low: The low end of the Wilson interval around `mean_observed`.
        high: Its high end.
        lowest: The lowest probability of the bin.
        highest: The highest.
        level: Of the intervals.
    """

    count: tuple[int, ...]
    weight: tuple[float, ...]
    mean_predicted: tuple[float, ...]
    mean_observed: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    level: float

    def __len__(self) -> int:
        return len(self.count)


def reliability_curve(
    probabilities_C: Column, labels_C: Column, weights_C: Column, *, num_bins: int = 15, level: float = 0.95
) -> ReliabilityCurve:
    """Mean label against mean probability in bins of equal mass, with Wilson intervals.

    Args:
        probabilities_C: In [0, 1].
        labels_C: 0 or 1.
        weights_C: At least 0; the intervals take (Σw)²/Σw² as the number of trials of a bin.
        num_bins: How many parts the mass is cut into, as in `ece`.
        level: Of the intervals, in (0, 1).

    Returns:
        The curve; without entries, and with `UndefinedMetricWarning`, where no row has weight.

    Raises:
        MetricError: The columns cannot be evaluated.

    >>> curve = reliability_curve([.1, .3, .6, .8], [0, 1, 1, 1], [1, 1, 1, 1], num_bins=2)
    >>> curve.mean_observed, [round(high, 2) for high in curve.high]
    ((0.5, 1.0), [0.91, 1.0])
    """
    sample = Sample.of(probabilities_C, labels_C, weights_C)
    return reliability_curve_of(Bins.of(sample, sample.ties, num_bins), level=level)


def reliability_curve_of(bins: Bins, *, level: float = 0.95) -> ReliabilityCurve:
    """`reliability_curve` of the bins of a sample."""
    if not bins.count_B.any():
        undefined("the reliability curve", "no row has a positive weight")
        return ReliabilityCurve((), (), (), (), (), (), (), (), level)
    is_used_B = bins.count_B > 0
    weight_B = bins.weight_B[is_used_B]
    observed_B = np.minimum(bins.observed_B[is_used_B] / weight_B, 1.0)
    low_B, high_B = wilson_bounds(observed_B, bins.effective_count_B[is_used_B], level=level)
    return ReliabilityCurve(
        count=tuple(bins.count_B[is_used_B].tolist()),
        weight=tuple(weight_B.tolist()),
        mean_predicted=tuple((bins.predicted_B[is_used_B] / weight_B).tolist()),
        mean_observed=tuple(observed_B.tolist()),
        low=tuple(low_B.tolist()),
        high=tuple(high_B.tolist()),
        lowest=tuple(bins.lowest_B[is_used_B].tolist()),
        highest=tuple(bins.highest_B[is_used_B].tolist()),
        level=level,
    )
