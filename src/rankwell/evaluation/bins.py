"""Bins of equal mass: what ECE and the reliability curve are made of.

Letters: C candidates · G groups · T ties: the distinct probabilities of a group · B bins, flat over the groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.special import gammaln, xlogy

from rankwell.evaluation.sample import Floats, Ints, Sample, Ties, check_whole_number

__all__ = ["Bins", "tie_bins"]

_ROUNDING = 1e-9  # a middle that falls on an edge goes up, whatever the last bit of its running sum


def tie_bins(ties: Ties, weights_C: Floats, num_bins: int) -> Ints:
    """The bin of each tie: where the middle of its mass falls when its group's mass is cut into equal parts.

    A tie is never cut, so that equal probabilities are judged together; a bin may stay empty.
    """
    weight_T = ties.total(weights_C)
    middle_T = (ties.below(weight_T) + weight_T / 2) / ties.by_group(weight_T)[ties.group_T]
    within_T = np.minimum((middle_T * num_bins + _ROUNDING).astype(np.int64), num_bins - 1)
    return ties.group_T * num_bins + within_T


@final
@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """The sums of each bin; `num_bins` bins a group, one group after the other.

    Args:
        count_B: int64, rows.
        weight_B: Σ w.
        predicted_B: Σ w·p.
        observed_B: Σ w·y.
        weight_squared_B: Σ w².
        variance_B: Σ w²·p·(1 − p), the variance of Σ w·y where the probabilities are true.
        lowest_B: The lowest probability; NaN for an empty bin.
        highest_B: The highest probability; NaN for an empty bin.
    """

    count_B: Ints
    weight_B: Floats
    predicted_B: Floats
    observed_B: Floats
    weight_squared_B: Floats
    variance_B: Floats
    lowest_B: Floats
    highest_B: Floats

    @classmethod
    def of(cls, sample: Sample, ties: Ties, num_bins: int) -> Bins:
        """The bins of a sample over all rows, or within groups."""
        num_bins = check_whole_number("num_bins", num_bins, at_least=1)
        bin_T = tie_bins(ties, sample.weights_C, num_bins)
        size = ties.num_groups * num_bins
        probability_T, weight_T = ties.first(sample.probabilities_C), ties.total(sample.weights_C)
        weight_squared_T = ties.total(sample.weights_C**2)

        def total(mass_T: Floats) -> Floats:
            return np.bincount(bin_T, mass_T, minlength=size).astype(np.float64, copy=False)

        lowest_B, highest_B = np.full(size, np.nan), np.full(size, np.nan)
        lowest_B[bin_T[::-1]], highest_B[bin_T] = probability_T[::-1], probability_T  # ties ascend: the last one stays
        return cls(
            count_B=total(ties.count_T.astype(np.float64)).astype(np.int64),
            weight_B=total(weight_T),
            predicted_B=total(weight_T * probability_T),
            observed_B=total(ties.total(sample.weights_C * sample.labels_C)),
            weight_squared_B=total(weight_squared_T),
            variance_B=total(weight_squared_T * probability_T * (1 - probability_T)),
            lowest_B=lowest_B,
            highest_B=highest_B,
        )

    @property
    def effective_count_B(self) -> Floats:
        """(Σ w)² / Σ w²: as many rows of equal weight would be as informative; NaN for an empty bin."""
        with np.errstate(invalid="ignore"):
            return self.weight_B**2 / self.weight_squared_B

    @property
    def gap_B(self) -> Floats:
        """\\|Σ w·p − Σ w·y\\|."""
        return np.abs(self.predicted_B - self.observed_B)

    @property
    def expected_gap_B(self) -> Floats:
        """E\\|Σ w·p − Σ w·y\\| where the probabilities are true.

        The mean absolute deviation of a binomial of the bin's effective count and mean probability (de Moivre:
        2·ν·C(n, ν)·p^ν·(1 − p)^(n − ν + 1) with ν = ⌊n·p⌋ + 1), scaled to the bin's own variance. Exact for equal
        weights and probabilities, for few rows as for many; asymptotically exact always.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            n_B, p_B = self.effective_count_B, np.minimum(self.predicted_B / self.weight_B, 1.0)
            v_B = np.floor(n_B * p_B) + 1
            log_choose_B = gammaln(n_B + 1) - gammaln(v_B + 1) - gammaln(n_B - v_B + 1)
            log_deviation_B = np.log(2 * v_B) + log_choose_B + xlogy(v_B, p_B) + xlogy(n_B - v_B + 1, 1 - p_B)
            scale_B = np.sqrt(self.variance_B / (n_B * p_B * (1 - p_B)))
            return np.where(self.variance_B > 0, np.exp(log_deviation_B) * scale_B, 0.0)
