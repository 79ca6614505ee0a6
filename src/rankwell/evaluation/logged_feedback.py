"""What a logged policy was shown to earn, checked at the door: what every off-policy value is computed from.

Letters: C impressions, flat over requests · Q requests · A what a policy may choose from (a rectangle).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from rankwell.errors import MetricError
from rankwell.evaluation.sample import (
    Column,
    Floats,
    Groups,
    category_column,
    group_rows,
    number_column,
    probability_column,
    weight_column,
)

__all__ = ["LEAST_EFFECTIVE", "LoggedFeedback", "effective_size"]

LEAST_EFFECTIVE: Final = 100.0
"""The effective sample size below which nothing is estimated unless told: a normal interval means little there."""

_SURE_ERRORS: Final = 5.0
"""By so many standard errors the mean ratio has to be short of 1 before a policy is called off the support."""
_SUM_TOLERANCE: Final = 1e-4


@final
@dataclass(frozen=True, eq=False)
class LoggedFeedback:
    """Impressions of a logged policy, with what another one, the target, would have done in their place.

    The importance ratio of an impression is ``ρ = target / propensity``, and its mean is 1 under the logging policy if
    that one can choose all that the target chooses.

    Args:
        rewards_C: Any finite numbers, such as clicks.
        ratios_C: ρ, at least 0.
        weights_C: Above 0: how many impressions a row stands for.
        estimates_C: What a model expects of the logged choice; None where no model was given.
        target_estimates_C: What it expects of the target policy in that place: Σ_a target(a) · model(a).
        requests: What is independent of each other; None where each row stands alone.

    >>> feedback = LoggedFeedback.of([1, 0, 0, 1], [.5, .5, .25, .25], [1, 0, 0, .5], least_effective=1)
    >>> feedback.ratios_C.tolist(), feedback.effective_sample_size
    ([2.0, 0.0, 0.0, 2.0], 2.0)

    Source: Owen 2013, "Monte Carlo theory, methods and examples", chapter 9, for ratios and their effective size.
    """

    rewards_C: Floats
    ratios_C: Floats
    weights_C: Floats
    estimates_C: Floats | None
    target_estimates_C: Floats | None
    requests: Groups | None

    @classmethod
    def of(
        cls,
        rewards_C: Column,
        propensities_C: Column,
        target_C: Column,
        weights_C: Column | None = None,
        *,
        estimates_C: Column | None = None,
        target_estimates_C: Column | None = None,
        request_C: Column | None = None,
        least_effective: float = LEAST_EFFECTIVE,
        most_off_support: float = 0.0,
    ) -> LoggedFeedback:
        """Check the columns of a log.

        Args:
            rewards_C: What each impression earned.
            propensities_C: The logging policy's probability of what it chose, in (0, 1].
            target_C: The target policy's probability of the same choice, in [0, 1].
            weights_C: At least 0, by default 1; a row of weight 0 is absent.
            estimates_C: What a model expects of the logged choice.
            target_estimates_C: What it expects of the target policy; with `estimates_C`, or not at all.
            request_C: The request of each impression; by default each stands alone.
            least_effective: The least effective sample size that is not refused.
            most_off_support: What share of its probability the target policy may have where the logging policy has
                none: of that share's worth nothing can be known, and the value is short of it.

        Raises:
            MetricError: A propensity is missing, 0 or no probability, with how many there are; the target is off the
                support, which is seen by ratios whose mean is 5 standard errors short of ``1 − most_off_support``; the
                effective sample size is below its floor; or a column cannot be used.
        """
        reward_C = number_column("rewards_C", rewards_C)
        like = ("rewards_C", len(reward_C))
        propensity_C = _propensities(propensities_C, like)
        chance_C = probability_column("target_C", target_C, like=like)
        weight_C = np.ones(len(reward_C)) if weights_C is None else weight_column("weights_C", weights_C, like=like)
        if (estimates_C is None) != (target_estimates_C is None):
            raise MetricError(
                "a model's estimates of the log and of the target policy belong together",
                found="one of `estimates_C` and `target_estimates_C`", allowed="both, or neither",
            )  # fmt: skip
        of_log_C = None if estimates_C is None else number_column("estimates_C", estimates_C, like=like)
        of_target_C = (
            None if target_estimates_C is None else number_column("target_estimates_C", target_estimates_C, like=like)
        )
        request = None if request_C is None else category_column("request_C", request_C, like=like)
        ratio_C = chance_C / propensity_C
        kept_C = weight_C > 0
        if not kept_C.all():
            reward_C, ratio_C, weight_C = reward_C[kept_C], ratio_C[kept_C], weight_C[kept_C]
            of_log_C = None if of_log_C is None else of_log_C[kept_C]
            of_target_C = None if of_target_C is None else of_target_C[kept_C]
            request = None if request is None else request[kept_C]
        feedback = cls(
            reward_C, ratio_C, weight_C, of_log_C, of_target_C, None if request is None else group_rows(request)
        )
        feedback._refuse_below(least_effective)
        feedback._refuse_off_support(most_off_support)
        return feedback

    @classmethod
    def of_policies(
        cls,
        rewards_C: Column,
        choices_C: Column,
        logging_CA: npt.ArrayLike | Tensor,
        target_CA: npt.ArrayLike | Tensor,
        weights_C: Column | None = None,
        *,
        estimates_CA: npt.ArrayLike | Tensor | None = None,
        request_C: Column | None = None,
        least_effective: float = LEAST_EFFECTIVE,
    ) -> LoggedFeedback:
        """The feedback where both policies are known whole; so a target off the support is known for certain.

        Args:
            rewards_C: What each impression earned.
            choices_C: What was chosen, an index into the A columns.
            logging_CA: The logging policy's probabilities; each row adds up to 1.
            target_CA: The target policy's.
            weights_C: At least 0, by default 1.
            estimates_CA: What a model expects of each choice.
            request_C: The request of each impression.
            least_effective: The least effective sample size that is not refused.

        Raises:
            MetricError: The target chooses what the logging policy never does, with how many impressions; or as `of`.

        >>> LoggedFeedback.of_policies([1.0, 0.0], [0, 1], [[.5, .5]] * 2, [[1, 0]] * 2, least_effective=1).ratios_C
        array([2., 0.])
        """
        logging, target = _policy("logging_CA", logging_CA), _policy("target_CA", target_CA)
        if logging.shape != target.shape:
            raise MetricError("the policies differ in shape", found=[logging.shape, target.shape])
        choice_C = number_column("choices_C", choices_C, like=("logging_CA", len(logging))).astype(np.int64)
        if ((choice_C < 0) | (choice_C >= logging.shape[1])).any():
            raise MetricError("a choice is no column of the policies", allowed=f"0 to {logging.shape[1] - 1}")
        off_C = (target * (logging == 0)).sum(axis=1)
        if (off_C > 0).any():
            raise _off_support(
                f"in {int((off_C > 0).sum())} of {len(off_C)} impressions, with {off_C.mean():.2%} of its probability"
            )
        rows = np.arange(len(choice_C))
        of_log_C = of_target_C = None
        if estimates_CA is not None:
            estimates = _matrix("estimates_CA", estimates_CA)
            if estimates.shape != target.shape:
                raise MetricError("estimates and policies differ in shape", found=[estimates.shape, target.shape])
            of_log_C, of_target_C = estimates[rows, choice_C], (target * estimates).sum(axis=1)
        return cls.of(
            rewards_C, logging[rows, choice_C], target[rows, choice_C], weights_C, estimates_C=of_log_C,
            target_estimates_C=of_target_C, request_C=request_C, least_effective=least_effective,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.rewards_C)

    @cached_property
    def masses_C(self) -> Floats:
        """w·ρ."""
        return self.weights_C * self.ratios_C

    @cached_property
    def weights_Q(self) -> Floats:
        """Σ w of each request."""
        return self.by_request(self.weights_C)

    @cached_property
    def effective_sample_size(self) -> float:
        """``(Σ w·ρ)² / Σ (w·ρ)²``: how many impressions of the target policy itself would be as many; 0 for none."""
        return effective_size(self.masses_C)

    def by_request(self, values_C: Floats) -> Floats:
        """The sum of a column over each request (Q); the column itself where each row stands alone."""
        if self.requests is None:
            return values_C
        return np.bincount(self.requests.index_C, values_C, len(self.requests)).astype(np.float64, copy=False)

    def ratio_of(self, parts_Q: Floats, wholes_Q: Floats) -> tuple[float, float]:
        """``R = Σ part / Σ whole`` over requests, and its standard error; that is NaN for fewer than two.

        ``√(n/(n−1) · Σ_q (part_q − R·whole_q)²) / Σ whole``, by the delta method: what belongs to one request may
        depend on each other in any way.
        """
        total, num = float(wholes_Q.sum()), len(wholes_Q)
        ratio = float(parts_Q.sum()) / total
        rest_Q = parts_Q - ratio * wholes_Q
        return ratio, (float(rest_Q @ rest_Q) * num / (num - 1)) ** 0.5 / total if num > 1 else float("nan")

    def _refuse_off_support(self, most: float) -> None:
        if not 0 <= most <= 1:
            raise MetricError("`most_off_support` is no share", found=most, allowed="[0, 1]")
        if len(self) == 0:
            return
        mean, error = self.ratio_of(self.by_request(self.masses_C), self.weights_Q)
        # without spread, as of one request, there is nothing but rounding to be sure by
        if mean + _SURE_ERRORS * np.nan_to_num(error) < 1 - most - _SUM_TOLERANCE:
            raise _off_support(f"a mean ratio of {mean:.4f}, with a standard error of {error:.4f}")

    def _refuse_below(self, least: float) -> None:
        if len(self) and self.effective_sample_size < least:
            raise MetricError(
                "the log holds too little of what the target policy chooses",
                found=f"an effective sample size of {self.effective_sample_size:.1f} among {len(self)} impressions",
                allowed=f"at least {least:g}",
                do="log more, take a target nearer to the logging policy, or say `least_effective`",
            )


def effective_size(masses_C: Floats) -> float:
    """``(Σ m)² / Σ m²`` of masses of at least 0; 0 where all are 0."""
    largest = float(masses_C.max(initial=0.0))
    if largest == 0:
        return 0.0
    if not 1e-100 < largest < 1e100:  # no square overflows, nor vanishes
        masses_C = masses_C / largest
    return float(masses_C.sum() ** 2 / (masses_C @ masses_C))


def _off_support(found: str) -> MetricError:
    return MetricError(
        "the target policy chooses what the logging policy never does, of which the log can say nothing",
        found=found,
        allowed="a target that has probability only where the logging policy has some",
        do="restrict the target to what was logged, or say how much may be missing with `most_off_support`",
    )


def _propensities(column: Column, like: tuple[str, int]) -> Floats:
    """The column, in (0, 1]; refused with how many are not."""
    array = column.detach().cpu().numpy() if isinstance(column, Tensor) else np.asarray(column)
    if array.dtype.kind == "O":
        array = np.array([np.nan if entry is None else entry for entry in array.flat], dtype=np.float64)
    if array.dtype.kind == "f":
        num_missing, num_zero = int(np.isnan(array).sum()), int((array == 0).sum())
        if num_missing or num_zero:
            raise MetricError(
                f"{num_missing + num_zero} of {len(array)} impressions have no propensity",
                found=f"{num_missing} missing, {num_zero} zero",
                allowed="the probability, above 0, with which the logging policy chose what it chose",
                do="log it, or estimate it; what was never chosen cannot be weighted up",
            )
    numbers = probability_column("propensities_C", array, like=like)
    if (numbers == 0).any():
        raise MetricError("propensities of 0", found=int((numbers == 0).sum()), allowed="above 0")
    return numbers


def _matrix(name: str, matrix: npt.ArrayLike | Tensor) -> Floats:
    array = matrix.detach().cpu().numpy() if isinstance(matrix, Tensor) else np.asarray(matrix)
    if array.ndim != 2 or array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise MetricError(f"`{name}` is no table of finite numbers", found=f"{array.dtype} of shape {array.shape}")
    return array.astype(np.float64, copy=False)


def _policy(name: str, matrix: npt.ArrayLike | Tensor) -> Floats:
    array = _matrix(name, matrix)
    wrong_C = (array < 0).any(axis=1) | (np.abs(array.sum(axis=1) - 1) > _SUM_TOLERANCE)
    if wrong_C.any():
        raise MetricError(
            f"`{name}` is no policy in {int(wrong_C.sum())} of {len(array)} impressions",
            found=f"row {int(np.argmax(wrong_C))} adds up to {array[np.argmax(wrong_C)].sum():.6f}",
            allowed="probabilities that add up to 1",
        )
    return array
