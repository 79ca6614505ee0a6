"""Pool adjacent violators: the increasing step function that is nearest to the labels.

Letters in names: C candidates, flat over the sample · B blocks of rows that share one value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numba
import numpy as np
from numpy.typing import NDArray

from rankwell.calibration.sorted_labels import sorted_labels

__all__ = ["Blocks", "pool_adjacent_violators", "with_both_labels"]

_Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Blocks:
    """Neighbouring rows that share one value, by ascending logit; their shares of label 1 ascend strictly.

    Args:
        first_logits_B, last_logits_B, mean_logits_B: The least, greatest and weighted mean logit of the rows.
        positives_B, negatives_B: Σ w of the rows of either label; their sum is above 0.
    """

    first_logits_B: _Floats
    last_logits_B: _Floats
    mean_logits_B: _Floats
    positives_B: _Floats
    negatives_B: _Floats

    @property
    def weights_B(self) -> _Floats:
        """Σ w."""
        return self.positives_B + self.negatives_B

    @property
    def log_odds_B(self) -> _Floats:
        """Of the shares of label 1, ascending; for blocks of both labels."""
        log_odds_B: _Floats = np.log(self.positives_B / self.negatives_B)
        # Shares that are a rounding apart may have logarithms that are out of order.
        return np.maximum.accumulate(log_odds_B)


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
    logits_C, signed_C = sorted_labels(logits_C, labels_C, weights_C)
    starts_B, weights_B, positives_B, moments_B = _pooled(logits_C, signed_C)
    first_B, last_B = logits_C[starts_B], logits_C[np.append(starts_B[1:], len(logits_C)) - 1]
    # Clipped, because a mean of equal numbers may round to another one, and the means have to ascend.
    means_B = np.clip(moments_B / weights_B, first_B, last_B)
    return Blocks(first_B, last_B, means_B, positives_B, weights_B - positives_B)


def with_both_labels(blocks: Blocks) -> Blocks:
    """The blocks with half a row of each label more in the first and the last one, where one of the labels is missing.

    Its share becomes (k + ½) / (n + 1), the mean under Jeffreys' prior. Should that pass the neighbouring block, which
    is then too poor to tell them apart, the two are pooled instead.

    >>> blocks = pool_adjacent_violators(np.array([-1.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.0]), np.ones(3))
    >>> blocks = with_both_labels(blocks)
    >>> (blocks.positives_B / blocks.weights_B).tolist()  # ½ / 3 and 1½ / 2
    [0.16666666666666666, 0.75]
    """
    return _mirrored(_first_with_positives(_mirrored(_first_with_positives(blocks))))


def _first_with_positives(blocks: Blocks) -> Blocks:
    if blocks.positives_B[0] > 0:
        return blocks
    smoothed = 0.5 / (blocks.negatives_B[0] + 1.0)
    if len(blocks.positives_B) == 1 or smoothed < blocks.positives_B[1] / blocks.weights_B[1]:
        positives_B, negatives_B = blocks.positives_B.copy(), blocks.negatives_B.copy()
        positives_B[0] += 0.5
        negatives_B[0] += 0.5
        return replace(blocks, positives_B=positives_B, negatives_B=negatives_B)
    return Blocks(
        first_logits_B=np.delete(blocks.first_logits_B, 1),
        last_logits_B=blocks.last_logits_B[1:],
        mean_logits_B=np.append(
            np.average(blocks.mean_logits_B[:2], weights=blocks.weights_B[:2]), blocks.mean_logits_B[2:]
        ),
        positives_B=np.append(blocks.positives_B[:2].sum(), blocks.positives_B[2:]),
        negatives_B=np.append(blocks.negatives_B[:2].sum(), blocks.negatives_B[2:]),
    )


def _mirrored(blocks: Blocks) -> Blocks:
    """The blocks of the sample whose logits and labels are turned round."""
    return Blocks(
        first_logits_B=-blocks.last_logits_B[::-1],
        last_logits_B=-blocks.first_logits_B[::-1],
        mean_logits_B=-blocks.mean_logits_B[::-1],
        positives_B=blocks.negatives_B[::-1],
        negatives_B=blocks.positives_B[::-1],
    )


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
