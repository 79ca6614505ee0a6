"""Every estimator of a policy's value, held to one contract.

An estimator is any public class of a module in `rankwell.evaluation` whose call takes ``(feedback, *, level)``. A new
one is found without an edit here.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil

import numpy as np
import pytest

import rankwell.evaluation
from rankwell.errors import UndefinedMetricWarning
from rankwell.evaluation.logged_feedback import LoggedFeedback
from rankwell.evaluation.off_policy import DirectMethod, InversePropensity, PolicyValue, ValueEstimator


def found_estimators() -> list[ValueEstimator]:
    found = []
    for module_info in pkgutil.iter_modules(rankwell.evaluation.__path__):
        module = importlib.import_module(f"rankwell.evaluation.{module_info.name}")
        for name in module.__all__:
            member = getattr(module, name)
            if not inspect.isclass(member) or getattr(member, "_is_protocol", False):
                continue
            call = vars(member).get("__call__")
            if call is None or list(inspect.signature(call).parameters) != ["self", "feedback", "level"]:
                continue
            # a setting without a default is a limit of the ratio
            needed = [p.name for p in inspect.signature(member).parameters.values() if p.default is p.empty]
            found.append(member(**dict.fromkeys(needed, 3.0)))
    return found


ESTIMATORS = found_estimators()
for_each = pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)


def columns(seed: int, num_requests: int = 200) -> dict[str, np.ndarray]:
    """Requests of 1 to 5 impressions of three choices, with a model that is somewhat right."""
    generator = np.random.default_rng(seed)
    request_C = np.repeat(np.arange(num_requests) * 7, generator.integers(1, 6, num_requests))
    num = len(request_C)
    logging_CA, target_CA = generator.dirichlet(np.full(3, 3.0), num), generator.dirichlet(np.full(3, 3.0), num)
    choice_C = (logging_CA.cumsum(axis=1) < generator.random((num, 1))).sum(axis=1)
    truth_CA = np.array([0.1, 0.3, 0.6]) * np.ones((num, 1))
    model_CA = truth_CA + 0.05 * generator.standard_normal((num, 3))
    rows = np.arange(num)
    return {
        "rewards_C": (generator.random(num) < truth_CA[rows, choice_C]).astype(float),
        "propensities_C": logging_CA[rows, choice_C],
        "target_C": target_CA[rows, choice_C],
        "weights_C": generator.choice([0.5, 1.0, 2.0], num),
        "estimates_C": model_CA[rows, choice_C],
        "target_estimates_C": (target_CA * model_CA).sum(axis=1),
        "request_C": request_C,
    }


def feedback(given: dict[str, np.ndarray], rows: np.ndarray | slice = slice(None)) -> LoggedFeedback:
    return LoggedFeedback.of(**{name: column[rows] for name, column in given.items()}, least_effective=0)


def assert_same(mine: PolicyValue, theirs: PolicyValue) -> None:
    assert mine.value == pytest.approx(theirs.value, abs=1e-12)
    assert (mine.interval.low, mine.interval.high) == pytest.approx(
        (theirs.interval.low, theirs.interval.high), abs=1e-12
    )
    assert mine.effective_sample_size == pytest.approx(theirs.effective_sample_size)
    assert (mine.num_limited, mine.num_requests) == (theirs.num_limited, theirs.num_requests)


def test_the_search_finds_all_five() -> None:
    assert {type(estimator).__name__ for estimator in ESTIMATORS} >= {
        "InversePropensity", "SelfNormalised", "DirectMethod", "DoublyRobust", "SwitchDoublyRobust",
    }  # fmt: skip


@for_each
def test_the_order_of_rows_and_the_names_of_requests_are_nothing(estimator: ValueEstimator) -> None:
    given = columns(0)
    rows = np.random.default_rng(1).permutation(len(given["rewards_C"]))
    names = given | {"request_C": 1000 - given["request_C"]}
    assert_same(estimator(feedback(names, rows)), estimator(feedback(given)))


@for_each
def test_weight_0_is_absent_and_the_scale_of_weights_is_nothing(estimator: ValueEstimator) -> None:
    given = columns(1)
    thinned = given | {
        "weights_C": given["weights_C"] * (np.random.default_rng(2).random(len(given["target_C"])) < 0.7)
    }
    assert_same(estimator(feedback(thinned)), estimator(feedback(thinned, thinned["weights_C"] > 0)))
    scaled = given | {"weights_C": given["weights_C"] * 2.0**-40}
    assert_same(estimator(feedback(scaled)), estimator(feedback(given)))


@for_each
def test_an_impression_of_weight_2_is_two_of_its_request(estimator: ValueEstimator) -> None:
    given = columns(2)
    rows = np.arange(len(given["rewards_C"]))
    twice = rows[::3]
    doubled = given | {"weights_C": given["weights_C"] * np.where(rows % 3 == 0, 2, 1)}
    one, two = estimator(feedback(doubled)), estimator(feedback(given, np.concatenate([rows, twice])))
    assert one.value == pytest.approx(two.value, abs=1e-12)
    assert one.interval.low == pytest.approx(two.interval.low, abs=1e-12)


@for_each
def test_a_copied_log_is_as_sure_as_the_log_if_requests_are_known(estimator: ValueEstimator) -> None:
    given = columns(3)
    rows = np.arange(len(given["rewards_C"]))
    assert estimator(feedback(given, np.tile(rows, 4))).interval.width == pytest.approx(
        estimator(feedback(given)).interval.width
    )
    alone = {name: column for name, column in given.items() if name != "request_C"}
    narrower = estimator(feedback(alone, np.tile(rows, 4))).interval.width / estimator(feedback(alone)).interval.width
    assert narrower == pytest.approx(0.5, rel=0.01)


@for_each
def test_a_wider_level_is_a_wider_interval_around_the_value(estimator: ValueEstimator) -> None:
    sample = feedback(columns(4))
    usual, wide = estimator(sample), estimator(sample, level=0.99)
    assert wide.interval.low < usual.interval.low < usual.value < usual.interval.high < wide.interval.high


@for_each
def test_95_percent_intervals_cover_the_truth(estimator: ValueEstimator) -> None:
    if isinstance(estimator, DirectMethod):
        return  # its interval is not of its model's error
    num_logs, num = 400, 0
    for seed in range(100, 100 + num_logs):
        given = columns(seed, num_requests=120)
        # both policies are drawn afresh for each impression, alike: the target chooses each of three equally often
        num += estimator(feedback(given)).interval.contains((0.1 + 0.3 + 0.6) / 3)
    assert 0.91 <= num / num_logs <= 0.985


@for_each
def test_nothing_is_undefined(estimator: ValueEstimator) -> None:
    with pytest.warns(UndefinedMetricWarning, match="NaN"):
        assert math.isnan(estimator(feedback(columns(5), slice(0, 0))).value)


@for_each
def test_one_request_has_a_value_and_no_interval(estimator: ValueEstimator) -> None:
    given = columns(6)
    with pytest.warns(UndefinedMetricWarning, match="two independent requests"):
        value = estimator(feedback(given | {"request_C": np.zeros_like(given["request_C"])}))
    assert math.isfinite(value.value)
    assert math.isnan(value.interval.low)


@for_each
def test_it_says_where_it_comes_from_and_shows_itself(estimator: ValueEstimator) -> None:
    text = inspect.getdoc(type(estimator)) or ""
    assert ">>>" in text
    assert "``" in text
    assert isinstance(estimator, DirectMethod) or "Source:" in text


def test_the_same_columns_give_the_same_value_twice() -> None:
    sample = feedback(columns(7))
    assert InversePropensity()(sample) == InversePropensity()(sample)
