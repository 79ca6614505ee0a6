"""What was served apart from what was scored: a model can be right of all candidates and wrong of those it chooses.

Letters: C candidates, flat over requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from rankwell.errors import MetricError
from rankwell.evaluation.calibration_ratio import calibration_ratio_interval, calibration_ratio_of
from rankwell.evaluation.intervals import Interval
from rankwell.evaluation.sample import Column, Sample, check_whole_number, group_rows, number_column, weight_column

__all__ = ["ServedAndScored", "best_of_each", "served_and_scored"]


@final
@dataclass(frozen=True, slots=True)
class ServedAndScored:
    """Calibration ratios of the best k of each request and of all, with their intervals.

    `curse` is their quotient: above 1 the choice itself adds confidence that is not deserved.
    """

    served: float
    served_interval: Interval
    scored: float
    scored_interval: Interval

    @property
    def curse(self) -> float:
        """served / scored."""
        return self.served / self.scored


def best_of_each(utilities_C: Column, request_C: Column, *, k: int) -> npt.NDArray[np.bool_]:
    """Which rows are among the best k of their request; ties go to the earlier row.

    >>> best_of_each([1.0, 3.0, 2.0, 5.0], [7, 7, 7, 8], k=2).tolist()
    [False, True, True, True]
    """
    k = check_whole_number("k", k, at_least=1)
    utility_C = number_column("utilities_C", utilities_C)
    request = number_column("request_C", request_C, like=("utilities_C", len(utility_C)))
    order_C = np.lexsort((-utility_C, group_rows(request).index_C))
    ordered, place_C = request[order_C], np.arange(len(order_C))
    is_first_C = np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]
    rank_C = place_C - np.maximum.accumulate(np.where(is_first_C, place_C, 0))
    best_C = np.zeros(len(order_C), dtype=bool)
    best_C[order_C[rank_C < k]] = True
    return best_C


def served_and_scored(
    probabilities_C: Column,
    labels_C: Column,
    weights_C: Column,
    *,
    utilities_C: Column,
    request_C: Column,
    k: int,
    propensity_C: Column | None = None,
    level: float = 0.95,
) -> ServedAndScored:
    """The calibration ratio of the best k of each request, by utility, beside that of all candidates.

    In production only what was shown has a label. Then give the rows of exploration traffic, with the propensity of
    each to have been shown: a row weighs w / propensity and stands for those that were not.

    Args:
        probabilities_C: In [0, 1].
        labels_C: 0 or 1.
        weights_C: At least 0.
        utilities_C: By which the best are chosen, such as EVC.
        request_C: The request of each row; intervals respect it.
        k: How many of a request are served.
        propensity_C: In (0, 1]; 1 for all by default.
        level: Of the intervals.

    Raises:
        MetricError: The columns cannot be evaluated, or a propensity is not in (0, 1].

    >>> both = served_and_scored([.5, .25, .5, .25], [1, 0, 0, 0], [1] * 4, utilities_C=[5, 1, 5, 1],
    ...                          request_C=[0, 0, 1, 1], k=1)
    >>> both.served, both.scored
    (1.0, 1.5)
    """
    weight_C = weight_column("weights_C", weights_C)
    if propensity_C is not None:
        chance_C = number_column("propensity_C", propensity_C, like=("weights_C", len(weight_C)))
        bad_C = ~((chance_C > 0) & (chance_C <= 1)) & (weight_C > 0)
        if bad_C.any():
            raise MetricError(
                f"{int(bad_C.sum())} of {len(chance_C)} rows have no propensity", found=chance_C[bad_C][:5].tolist(),
                allowed="numbers in (0, 1]", do="leave out what could not have been shown",
            )  # fmt: skip
        weight_C = np.divide(weight_C, chance_C, out=np.zeros_like(weight_C), where=weight_C > 0)
    best_C = best_of_each(utilities_C, request_C, k=k)
    found = []
    for some_C in (weight_C * best_C, weight_C):
        ratio = calibration_ratio_of(Sample.of(probabilities_C, labels_C, some_C))
        interval = calibration_ratio_interval(probabilities_C, labels_C, some_C, request_C=request_C, level=level)
        found.append((ratio, interval))
    return ServedAndScored(*found[0], *found[1])
