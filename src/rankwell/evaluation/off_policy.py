"""What a policy that was never shown would earn, from the log of another one.

Letters: C impressions, flat over requests.

All estimators take a `LoggedFeedback` and give a `PolicyValue`: the mean reward of an impression under the target
policy. With ρ the importance ratio, r the reward, q̂ what a model expects of the logged choice and v̂ of the target::

    InversePropensity          mean(ρ·r)                        unbiased; pays for large ρ
    SelfNormalised             Σ ρ·r / Σ ρ                      a bias of order 1/n; stays among the rewards
    DirectMethod               mean(v̂)                          as wrong as the model
    DoublyRobust               mean(v̂ + ρ·(r − q̂))              unbiased if propensities or model are right
    SwitchDoublyRobust(τ)      mean(v̂ + [ρ ≤ τ]·ρ·(r − q̂))      the model alone where ρ is large

Each is a ratio of two sums over requests, and its interval Student's by the delta method, so clicks of one request may
depend on each other. Intervals know nothing of a model's own error, nor of what clipping leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

import numpy as np

from rankwell.errors import MetricError
from rankwell.evaluation.intervals import Interval, student_quantile
from rankwell.evaluation.logged_feedback import LoggedFeedback, effective_size
from rankwell.evaluation.sample import Floats, undefined

__all__ = [
    "DirectMethod",
    "DoublyRobust",
    "InversePropensity",
    "PolicyValue",
    "SelfNormalised",
    "SwitchDoublyRobust",
    "ValueEstimator",
]


@final
@dataclass(frozen=True, slots=True)
class PolicyValue:
    """The value of a policy, and what it rests on.

    Args:
        value: Mean reward of an impression; NaN where there is no impression.
        interval: Of the value.
        effective_sample_size: Of the ratios as the estimator used them, after clipping; all rows for the direct method.
        num_limited: How many ratios were clipped, or given to the model.
        num_requests: Over how many independent requests.
    """

    value: float
    interval: Interval
    effective_sample_size: float
    num_limited: int
    num_requests: int

    def __str__(self) -> str:
        return (
            f"{self.value:.6f} [{self.interval.low:.6f}, {self.interval.high:.6f}], "
            f"effective sample size {self.effective_sample_size:,.0f}, {self.num_limited} ratios limited"
        )


class ValueEstimator(Protocol):
    """Feedback into the target policy's value."""

    def __call__(self, feedback: LoggedFeedback, *, level: float = 0.95) -> PolicyValue:
        """The value with an interval of this level.

        Args:
            feedback: Checked.
            level: In (0, 1).

        Raises:
            MetricError: The estimator needs a model's estimates, and the feedback has none.
        """


@final
@dataclass(frozen=True, slots=True)
class InversePropensity:
    """Each reward, weighted up to how often the target would have earned it.

    ``Σ w·ρ·r / Σ w``.

    Args:
        clip: The largest ratio; larger ones are cut to it. None cuts none.

    >>> feedback = LoggedFeedback.of([1, 0, 0, 1], [.5, .5, .5, .5], [1, 0, 1, 0], least_effective=1)
    >>> InversePropensity()(feedback).value  # (2·1 + 2·0) / 4
    0.5

    Source: Horvitz and Thompson 1952, JASA 47; Strehl et al. 2010, "Learning from logged implicit exploration data".
    """

    clip: float | None = None

    def __post_init__(self) -> None:
        _check_limit("clip", self.clip)

    def __call__(self, feedback: LoggedFeedback, *, level: float = 0.95) -> PolicyValue:
        """See `ValueEstimator`."""
        mass_C, num_clipped = _clipped(feedback, self.clip)
        earned_Q = feedback.by_request(mass_C * feedback.rewards_C)
        return _valued(feedback, earned_Q, feedback.weights_Q, mass_C, num_clipped, level)


@final
@dataclass(frozen=True, slots=True)
class SelfNormalised:
    """The weighted mean of the rewards: SNIPS.

    ``Σ w·ρ·r / Σ w·ρ``: a reward that all share has no variance, and ratios need be known only up to a factor.

    Args:
        clip: The largest ratio; None cuts none.

    >>> feedback = LoggedFeedback.of([1, 0, 0, 1], [.5, .25, .5, .5], [.5, .5, .5, 0], least_effective=1)
    >>> SelfNormalised()(feedback).value  # 1 / (1 + 2 + 1)
    0.25

    Source: Swaminathan and Joachims 2015, "The self-normalized estimator for counterfactual learning", NeurIPS.
    """

    clip: float | None = None

    def __post_init__(self) -> None:
        _check_limit("clip", self.clip)

    def __call__(self, feedback: LoggedFeedback, *, level: float = 0.95) -> PolicyValue:
        """See `ValueEstimator`."""
        mass_C, num_clipped = _clipped(feedback, self.clip)
        earned_Q = feedback.by_request(mass_C * feedback.rewards_C)
        return _valued(feedback, earned_Q, feedback.by_request(mass_C), mass_C, num_clipped, level)


@final
@dataclass(frozen=True, slots=True)
class DirectMethod:
    """What a model expects of the target policy.

    ``Σ w·v̂ / Σ w``: the interval is that of the requests alone, not of the model.

    >>> feedback = LoggedFeedback.of([1, 0], [.5, .5], [.5, .5], estimates_C=[.9, .2], target_estimates_C=[.5, .3],
    ...                              least_effective=1)
    >>> DirectMethod()(feedback).value
    0.4
    """

    def __call__(self, feedback: LoggedFeedback, *, level: float = 0.95) -> PolicyValue:
        """See `ValueEstimator`."""
        _, of_target_C = _estimates(feedback)
        earned_Q = feedback.by_request(feedback.weights_C * of_target_C)
        return _valued(feedback, earned_Q, feedback.weights_Q, feedback.weights_C, 0, level)


@final
@dataclass(frozen=True, slots=True)
class DoublyRobust:
    """What a model expects, mended by the weighted errors that it made on the log.

    ``Σ w·(v̂ + ρ·(r − q̂)) / Σ w``.

    Args:
        clip: The largest ratio; None cuts none.

    >>> feedback = LoggedFeedback.of([1, 0], [.5, .5], [1, 0], estimates_C=[.5, .5], target_estimates_C=[.5, .5],
    ...                              least_effective=1)
    >>> DoublyRobust()(feedback).value  # .5 + (2·(1 − .5) + 0) / 2
    1.0

    Source: Dudík, Langford and Li 2011, "Doubly robust policy evaluation and learning", ICML.
    """

    clip: float | None = None

    def __post_init__(self) -> None:
        _check_limit("clip", self.clip)

    def __call__(self, feedback: LoggedFeedback, *, level: float = 0.95) -> PolicyValue:
        """See `ValueEstimator`."""
        mass_C, num_clipped = _clipped(feedback, self.clip)
        return _mended(feedback, mass_C, num_clipped, level)


@final
@dataclass(frozen=True, slots=True)
class SwitchDoublyRobust:
    """Doubly robust where the ratio is small, and the model alone where it is large.

    ``Σ w·(v̂ + [ρ ≤ τ]·ρ·(r − q̂)) / Σ w``: bounded variance for a bias of what the model gets wrong above τ.

    Args:
        threshold: τ, above 0.

    >>> feedback = LoggedFeedback.of([1, 0], [.5, .5], [1, 0], estimates_C=[.5, .5], target_estimates_C=[.5, .5],
    ...                              least_effective=1)
    >>> SwitchDoublyRobust(threshold=1.5)(feedback).value
    0.5

    Source: Wang, Agarwal and Dudík 2017, "Optimal and adaptive off-policy evaluation in contextual bandits", ICML.
    """

    threshold: float

    def __post_init__(self) -> None:
        _check_limit("threshold", self.threshold)

    def __call__(self, feedback: LoggedFeedback, *, level: float = 0.95) -> PolicyValue:
        """See `ValueEstimator`."""
        trusted_C = feedback.ratios_C <= self.threshold
        return _mended(feedback, feedback.masses_C * trusted_C, len(feedback) - int(trusted_C.sum()), level)


def _check_limit(name: str, limit: float | None) -> None:
    if limit is not None and not limit > 0:
        raise MetricError(f"`{name}` would leave no ratio", found=limit, allowed="above 0")


def _clipped(feedback: LoggedFeedback, clip: float | None) -> tuple[Floats, int]:
    """w·ρ with ρ at most `clip`, and how many were above."""
    if clip is None:
        return feedback.masses_C, 0
    return feedback.weights_C * np.minimum(feedback.ratios_C, clip), int((feedback.ratios_C > clip).sum())


def _estimates(feedback: LoggedFeedback) -> tuple[Floats, Floats]:
    if feedback.estimates_C is None or feedback.target_estimates_C is None:
        raise MetricError(
            "this estimator needs a model, and the feedback has none",
            do="give `estimates_C` and `target_estimates_C`, of a model that was fitted on other requests",
        )
    return feedback.estimates_C, feedback.target_estimates_C


def _mended(feedback: LoggedFeedback, mass_C: Floats, num_limited: int, level: float) -> PolicyValue:
    """What the model expects, and the weighted errors that it made."""
    of_log_C, of_target_C = _estimates(feedback)
    gain_C = feedback.rewards_C - of_log_C
    gain_C *= mass_C
    gain_C += feedback.weights_C * of_target_C
    return _valued(feedback, feedback.by_request(gain_C), feedback.weights_Q, mass_C, num_limited, level)


def _valued(
    feedback: LoggedFeedback, earned_Q: Floats, wholes_Q: Floats, mass_C: Floats, num_limited: int, level: float
) -> PolicyValue:
    """Σ earned / Σ whole over requests, as a value; `mass_C` is w·ρ as the estimator used it."""
    num_requests = len(wholes_Q)
    if not wholes_Q.any():
        nothing = undefined("value of a policy", "no impression has weight under the target policy")
        return PolicyValue(nothing, Interval(nothing, nothing, level), 0.0, num_limited, num_requests)
    value, error = feedback.ratio_of(earned_Q, wholes_Q)
    reach = student_quantile(level, max(num_requests - 1, 1)) * error
    if num_requests < 2:
        undefined("interval of a policy's value", "it needs two independent requests")
    size = feedback.effective_sample_size if mass_C is feedback.masses_C else effective_size(mass_C)
    return PolicyValue(value, Interval(value - reach, value + reach, level), size, num_limited, num_requests)
