"""Pool adjacent violators: the increasing step function that is nearest to the labels.

Letters in names: C candidates, flat over the sample · B blocks of rows that share one value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numba
import numpy as np
from numpy.typing import NDArray

from rankwell.calibration.radix_sort import sorted_with

__all__ = ["Blocks", "pool_adjacent_violators"]

_Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Blocks:
    """Neighbouring rows that share one value, by ascending logit; their shares of label 1 ascend strictly.

    Args:
        first_logits_B, last_logits_B, mean_logits_B: The least, greatest and weighted mean logit of the rows.
        weights_B: Σ w, above 0.
        positives_B: Σ w·y.
    """

    first_logits_B: _Floats
    last_logits_B: _Floats
    mean_logits_B: _Floats
    weights_B: _Floats
    positives_B: _Floats


def pool_adjacent_violators(logits_C: _Floats, labels_C: _Floats, weights_C: _Floats) -> Blocks:
    """The blocks of the increasing function f of the logit that minimises Σ w·(y - f(z))².

    The same f maximises the binomial likelihood. Rows of equal logit are pooled first, so they share a block.

    Args:
        logits_C: Finite, at least one.
        labels_C: 0 or 1.
        weights_C: Above 0.

    >>> blocks = pool_adjacent_violators(np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0]), np.ones(3))
    >>> (blocks.positives_B / blocks.weights_B).tolist()  # the rows at 1 and 2 violate the order
    [0.5, 1.0]

    Source: Ayer et al. 1955, "An empirical distribution function for sampling with incomplete information".
    """
    # The label rides in the sign of the weight: one companion to sort instead of two.
    logits_C, signed_C = sorted_with(logits_C, np.where(labels_C == 1.0, weights_C, -weights_C))
    starts_B, weights_B, positives_B, moments_B = _pooled(logits_C, signed_C)
    first_B, last_B = logits_C[starts_B], logits_C[np.append(starts_B[1:], len(logits_C)) - 1]
    # Clipped, because a mean of equal numbers may round to another one, and the means have to ascend.
    return Blocks(first_B, last_B, np.clip(moments_B / weights_B, first_B, last_B), weights_B, positives_B)


@numba.njit(cache=True, nogil=True)
def _pooled(logits_C, signed_C):  # type: ignore[no-untyped-def]
    """First row, Σ w, Σ w·y and Σ w·z of each block, from sorted rows whose weight is negative where y = 0."""
    num = len(logits_C)
    starts_B = np.empty(num, np.int64)
    weights_B, positives_B, moments_B = np.empty(num), np.empty(num), np.empty(num)
    num_B = 0
    row = 0
    while row < num:
        start, logit = row, logits_C[row]
        weight, positives = abs(signed_C[row]), max(signed_C[row], 0.0)
        row += 1
        while row < num and logits_C[row] == logit:
            weight += abs(signed_C[row])
            positives += max(signed_C[row], 0.0)
            row += 1
        moment = weight * logit
        # Shares are compared without dividing, so that with whole weights equal shares are equal.
        while num_B > 0 and positives_B[num_B - 1] * weight >= positives * weights_B[num_B - 1]:
            num_B -= 1
            start = starts_B[num_B]
            weight += weights_B[num_B]
            positives += positives_B[num_B]
            moment += moments_B[num_B]
        starts_B[num_B] = start
        weights_B[num_B], positives_B[num_B], moments_B[num_B] = weight, positives, moment
        num_B += 1
    return starts_B[:num_B].copy(), weights_B[:num_B].copy(), positives_B[:num_B].copy(), moments_B[:num_B].copy()
