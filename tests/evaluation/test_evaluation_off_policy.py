"""Values of policies against arithmetic by hand, plain loops and every log there could have been."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from rankwell.errors import MetricError
from rankwell.evaluation.logged_feedback import LoggedFeedback, effective_size
from rankwell.evaluation.off_policy import (
    DirectMethod,
    DoublyRobust,
    InversePropensity,
    SelfNormalised,
    SwitchDoublyRobust,
)

REWARD_A = np.array([0.2, 0.5, 0.9])
LOGGING_A, TARGET_A = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.3, 0.6])
TRUE_VALUE = float(TARGET_A @ REWARD_A)


def every_log(num: int) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """All logs of so many impressions of three choices and a click or none, each with its probability."""
    logs = []
    for outcome in itertools.product(range(3), (0, 1), repeat=num):
        choices, rewards = np.array(outcome[::2]), np.array(outcome[1::2])
        chance = LOGGING_A[choices] * np.where(rewards, REWARD_A[choices], 1 - REWARD_A[choices])
        logs.append((float(chance.prod()), choices, rewards.astype(float)))
    return logs


def feedback_of(choices: np.ndarray, rewards: np.ndarray, model_A: np.ndarray) -> LoggedFeedback:
    return LoggedFeedback.of(
        rewards, LOGGING_A[choices], TARGET_A[choices], estimates_C=model_A[choices],
        target_estimates_C=np.full(len(choices), TARGET_A @ model_A), least_effective=0, most_off_support=1,
    )  # fmt: skip


def test_over_every_log_inverse_propensity_and_doubly_robust_are_right_on_average() -> None:
    wrong_A = np.array([0.9, 0.1, 0.3])
    inverse = robust = total = 0.0
    for chance, choices, rewards in every_log(3):
        feedback = feedback_of(choices, rewards, wrong_A)
        total += chance
        inverse += chance * InversePropensity()(feedback).value
        robust += chance * DoublyRobust()(feedback).value
    assert total == pytest.approx(1)
    assert inverse == pytest.approx(TRUE_VALUE)
    assert robust == pytest.approx(TRUE_VALUE)


def test_doubly_robust_with_wrong_propensities_and_a_right_model_is_right_on_average() -> None:
    robust = inverse = 0.0
    for chance, choices, rewards in every_log(2):
        feedback = LoggedFeedback.of(
            rewards, np.full(len(choices), 0.9), TARGET_A[choices], estimates_C=REWARD_A[choices],
            target_estimates_C=np.full(len(choices), TRUE_VALUE), least_effective=0, most_off_support=1,
        )  # fmt: skip
        robust += chance * DoublyRobust()(feedback).value
        inverse += chance * InversePropensity()(feedback).value
    assert robust == pytest.approx(TRUE_VALUE)
    assert abs(inverse - TRUE_VALUE) > 0.2


def test_a_better_model_varies_less() -> None:
    def variance(model_A: np.ndarray) -> float:
        values = [(chance, DoublyRobust()(feedback_of(c, r, model_A)).value) for chance, c, r in every_log(2)]
        return sum(chance * (value - TRUE_VALUE) ** 2 for chance, value in values)

    nothing, right = variance(np.zeros(3)), variance(REWARD_A)
    inverse = [(chance, InversePropensity()(feedback_of(c, r, REWARD_A)).value) for chance, c, r in every_log(2)]
    assert nothing == pytest.approx(sum(chance * (value - TRUE_VALUE) ** 2 for chance, value in inverse))
    assert right < nothing / 2


def test_self_normalised_ratios_keep_a_constant_reward_and_forget_a_factor() -> None:
    generator = np.random.default_rng(0)
    propensity_C, target_C = generator.uniform(0.2, 0.4, 50), generator.uniform(0, 0.4, 50)
    value = SelfNormalised()(LoggedFeedback.of(np.full(50, 3.0), propensity_C, target_C, least_effective=0))
    assert value.value == pytest.approx(3)
    assert value.interval.width == pytest.approx(0, abs=1e-12)
    reward_C = generator.random(50)
    once = SelfNormalised()(LoggedFeedback.of(reward_C, propensity_C, target_C, least_effective=0))
    halved = SelfNormalised()(LoggedFeedback.of(reward_C, propensity_C / 2, target_C, least_effective=0))
    assert halved.value == pytest.approx(once.value)
    assert halved.interval.width == pytest.approx(once.interval.width)


def test_the_interval_is_that_of_sums_over_requests() -> None:
    rewards, propensities = [1, 0, 1, 1, 0], [0.5, 0.25, 0.5, 1.0, 0.5]
    targets, requests = [0.5, 0.25, 1.0, 0.5, 0.5], [3, 3, 8, 8, 5]
    feedback = LoggedFeedback.of(rewards, propensities, targets, request_C=requests, least_effective=0)
    found = InversePropensity()(feedback)
    value = (1 + 0 + 2 + 0.5 + 0) / 5
    sums = dict.fromkeys(requests, 0.0)
    for reward, propensity, target, request in zip(rewards, propensities, targets, requests, strict=True):
        sums[request] += (target / propensity * reward - value) / 5
    error = math.sqrt(3 / 2 * sum(value**2 for value in sums.values()))
    assert found.value == pytest.approx(value)
    assert found.interval.high - value == pytest.approx(4.302653 * error)  # Student's t of 2 degrees of freedom
    assert found.num_requests == 3


def test_clipping_and_switching_limit_the_same_ratios() -> None:
    feedback = LoggedFeedback.of(
        [1, 1, 0, 1], [0.1, 0.5, 0.5, 0.05], [0.5, 0.5, 0.25, 0.5], estimates_C=[0.5] * 4,
        target_estimates_C=[0.25] * 4, least_effective=0,
    )  # fmt: skip
    assert feedback.ratios_C.tolist() == [5, 1, 0.5, 10]
    clipped = InversePropensity(clip=2)(feedback)
    assert (clipped.value, clipped.num_limited) == ((2 + 1 + 0 + 2) / 4, 2)
    assert clipped.effective_sample_size == pytest.approx(5.5**2 / (4 + 1 + 0.25 + 4))
    assert SelfNormalised(clip=2)(feedback).value == pytest.approx(5 / 5.5)
    robust = DoublyRobust(clip=2)(feedback)
    assert (robust.value, robust.num_limited) == (0.25 + (2 * 0.5 + 0.5 - 0.25 + 2 * 0.5) / 4, 2)
    switched = SwitchDoublyRobust(threshold=2)(feedback)
    assert (switched.value, switched.num_limited) == (0.25 + (0.5 - 0.25) / 4, 2)
    for unlimited in (SwitchDoublyRobust(threshold=10), DoublyRobust(clip=10)):
        assert unlimited(feedback).value == DoublyRobust()(feedback).value
    assert SwitchDoublyRobust(threshold=0.1)(feedback).value == DirectMethod()(feedback).value


@pytest.mark.parametrize("limited", [InversePropensity, SelfNormalised, DoublyRobust, SwitchDoublyRobust])
@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_a_limit_that_leaves_nothing_is_refused(limited: type, limit: float) -> None:
    with pytest.raises(MetricError, match="would leave no ratio"):
        limited(limit)


def test_missing_and_zero_propensities_are_refused_with_how_many() -> None:
    for column in (
        [0.5, math.nan, 0.0, math.nan],
        [0.5, None, 0.0, None],
        torch.tensor([0.5, torch.nan, 0.0, torch.nan]),
    ):
        with pytest.raises(MetricError, match=r"3 of 4 impressions have no propensity; found: 2 missing, 1 zero"):
            LoggedFeedback.of([0, 1, 0, 1], column, [0.5] * 4)  # type: ignore[arg-type]
    for wrong in (-0.1, 1.5, math.inf):
        with pytest.raises(MetricError, match="`propensities_C`.*at row 1"):
            LoggedFeedback.of([0, 1], [0.5, wrong], [0.5, 0.5])
    with pytest.raises(MetricError, match="propensities of 0"):
        LoggedFeedback.of([0, 1], [1, 0], [0.5, 0.5])


def test_weights_that_explode_are_refused_unless_told() -> None:
    generator = np.random.default_rng(0)
    rare_C = np.arange(20_000) < 4
    propensity_C = np.where(rare_C, 2e-4, 1 - 2e-4)
    columns = (generator.random(20_000) < 0.1, propensity_C, np.where(rare_C, 1.0, 0.0))
    with pytest.raises(MetricError, match=r"effective sample size of 4\.0 among 20000 impressions"):
        LoggedFeedback.of(*columns)
    assert LoggedFeedback.of(*columns, least_effective=4).effective_sample_size == pytest.approx(4)
    # clipping is no way around the floor: it is the log that holds too little
    assert effective_size(np.array([1e300, 1e300, 0.0])) == 2
    assert effective_size(np.zeros(3)) == effective_size(np.zeros(0)) == 0


def test_a_target_off_the_support_shows_in_the_ratios() -> None:
    generator = np.random.default_rng(1)
    logging_A, target_A = np.array([0.5, 0.5, 0.0]), np.array([0.5, 0.3, 0.2])
    choice_C = generator.choice(3, 5_000, p=logging_A)
    columns = (np.ones(5_000), logging_A[choice_C], target_A[choice_C])
    with pytest.raises(MetricError, match="never does.*found: a mean ratio of 0.8"):
        LoggedFeedback.of(*columns)
    assert LoggedFeedback.of(*columns, most_off_support=0.25).ratios_C.mean() == pytest.approx(0.8, abs=0.01)
    with pytest.raises(MetricError, match="no share"):
        LoggedFeedback.of(*columns, most_off_support=-1)
    with pytest.raises(MetricError, match="never does"):  # nothing that it chooses was logged
        LoggedFeedback.of([1.0, 0.0], [0.5, 0.5], [0.0, 0.0], least_effective=0)


def test_a_target_on_the_support_is_not_refused_by_chance() -> None:
    for seed in range(300):
        generator = np.random.default_rng(seed)
        choice_C = generator.choice(3, 2_000, p=LOGGING_A)
        LoggedFeedback.of(np.ones(2_000), LOGGING_A[choice_C], TARGET_A[choice_C])


def test_whole_policies_off_the_support_are_refused_for_certain() -> None:
    logging_CA = np.array([[0.5, 0.5, 0.0], [0.4, 0.3, 0.3]])
    target_CA = np.array([[0.5, 0.3, 0.2], [0.0, 0.5, 0.5]])
    with pytest.raises(MetricError, match="in 1 of 2 impressions, with 10.00% of its probability"):
        LoggedFeedback.of_policies([1, 0], [0, 1], logging_CA, target_CA, least_effective=0)
    model_CA = np.array([[0.1, 0.2, 0.3]] * 2)
    on_C = LoggedFeedback.of_policies([1, 0], [1, 2], logging_CA[[1, 1]], target_CA[[1, 1]], estimates_CA=model_CA,
                                      least_effective=0)  # fmt: skip
    assert on_C.ratios_C == pytest.approx([0.5 / 0.3] * 2)
    assert on_C.estimates_C is not None
    assert on_C.target_estimates_C is not None
    assert on_C.estimates_C.tolist() == [0.2, 0.3]
    assert on_C.target_estimates_C == pytest.approx([0.25, 0.25])
    with pytest.raises(MetricError, match="`logging_CA` is no policy in 1 of 2 impressions"):
        LoggedFeedback.of_policies([1, 0], [0, 1], [[0.5, 0.4], [0.5, 0.5]], [[1.0, 0.0]] * 2)
    with pytest.raises(MetricError, match="no column of the policies"):
        LoggedFeedback.of_policies([1], [3], logging_CA[:1], logging_CA[:1])
    with pytest.raises(MetricError, match="no table"):
        LoggedFeedback.of_policies([1], [0], [0.5], [0.5])
    with pytest.raises(MetricError, match="differ in shape"):
        LoggedFeedback.of_policies([1], [0], [[0.5, 0.5]], [[1.0]])


@pytest.mark.parametrize("estimator", [DirectMethod(), DoublyRobust(), SwitchDoublyRobust(threshold=1.0)])
def test_what_needs_a_model_says_so(estimator: DirectMethod) -> None:
    with pytest.raises(MetricError, match="needs a model"):
        estimator(LoggedFeedback.of([1.0, 0.0], [0.5, 0.5], [0.5, 0.5], least_effective=0))
    with pytest.raises(MetricError, match="belong together"):
        LoggedFeedback.of([1.0], [0.5], [0.5], estimates_C=[0.5])


def test_columns_of_unequal_length_are_refused_by_name() -> None:
    for name in ("weights_C", "estimates_C", "request_C"):
        columns = {name: [1, 1, 1]} | ({"target_estimates_C": [1, 1]} if name == "estimates_C" else {})
        with pytest.raises(MetricError, match=f"`{name}` has another length than `rewards_C`"):
            LoggedFeedback.of([1.0, 0.0], [0.5, 0.5], [0.5, 0.5], **columns)  # type: ignore[arg-type]


def test_a_target_that_is_the_logging_policy_earns_what_was_logged() -> None:
    reward_C = np.random.default_rng(2).random(500)
    feedback = LoggedFeedback.of(reward_C, np.full(500, 0.3), np.full(500, 0.3))
    assert feedback.effective_sample_size == pytest.approx(500)
    for estimator in (InversePropensity(), SelfNormalised()):
        assert estimator(feedback).value == pytest.approx(reward_C.mean())
    assert str(InversePropensity()(feedback)).endswith("effective sample size 500, 0 ratios limited")
