"""Every metric, held to one contract.

A metric is any public function of a module in `rankwell.evaluation` whose signature starts with
``(probabilities_C, labels_C, weights_C)``, or gains in the place of labels, and that returns a float. A new file is
found without an edit here.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

import rankwell.evaluation
from rankwell.errors import MetricError, UndefinedMetricWarning

MetricFunction = Callable[..., float]


def found_metrics() -> list[MetricFunction]:
    metrics = []
    for module_info in pkgutil.iter_modules(rankwell.evaluation.__path__):
        module = importlib.import_module(f"rankwell.evaluation.{module_info.name}")
        for name in module.__all__:
            member = getattr(module, name)
            if not inspect.isfunction(member) or member.__module__ != module.__name__:
                continue
            signature = inspect.signature(member)
            first = list(signature.parameters)[:3]
            labels = ("labels_C", "gains_C")
            if (
                len(first) == 3
                and first[0] == "probabilities_C"
                and first[1] in labels
                and first[2] == "weights_C"
                and signature.return_annotation in ("float", float)
            ):
                metrics.append(member)
    return metrics


def required_keywords(metric: MetricFunction) -> set[str]:
    parameters = list(inspect.signature(metric).parameters.values())[3:]
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters), "options are keyword-only"
    required = {parameter.name for parameter in parameters if parameter.default is parameter.empty}
    assert required <= {"request_C", "k"}, f"the contract knows request_C and k, {metric.__name__} wants {required}"
    return required


@dataclass
class _Sample:
    """24 requests of 1 to 6 candidates; ties are many; weights are alike within a request, and some are 0."""

    probabilities_C: np.ndarray
    labels_C: np.ndarray
    weights_C: np.ndarray
    request_C: np.ndarray

    def at(self, rows: np.ndarray) -> _Sample:
        return _Sample(self.probabilities_C[rows], self.labels_C[rows], self.weights_C[rows], self.request_C[rows])

    def with_weights(self, weights_C: np.ndarray) -> _Sample:
        return _Sample(self.probabilities_C, self.labels_C, weights_C, self.request_C)

    def measured(self, metric: MetricFunction) -> float:
        keywords: dict[str, object] = {"request_C": self.request_C, "k": 3}
        given = {name: keywords[name] for name in required_keywords(metric)}
        return metric(self.probabilities_C, self.labels_C, self.weights_C, **given)


def drawn_sample(seed: int) -> _Sample:
    generator = np.random.default_rng(seed)
    length_R = generator.integers(1, 7, 24)
    request_C = np.repeat(generator.permutation(24) * 1000, length_R)
    probabilities_C = generator.integers(1, 8, len(request_C)) / 8
    labels_C = (generator.random(len(request_C)) < probabilities_C).astype(np.int64)
    weights_C = np.repeat(generator.choice([0.0, 0.5, 1.0, 2.0], 24), length_R)
    return _Sample(probabilities_C, labels_C, weights_C, request_C)


COUNTS_EVENTS = {"debiased_ece"}
"""What takes off the share of chance has to know how many independent events there were, which a weight does not say:
under down-sampling a kept row of weight 20 is one event. Only such a number is excepted, and only from this rule."""

METRICS = found_metrics()
for_each_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
for_each_seed = pytest.mark.parametrize("seed", range(3))


def test_the_search_finds_metrics_of_every_shape() -> None:
    found = {metric.__name__ for metric in METRICS}
    assert {"auc", "gauc", "ece", "calibration_ratio", "ndcg_at_k", "mrr", "log_loss"} <= found


@for_each_metric
@for_each_seed
def test_a_float_is_returned_and_it_is_finite(metric: MetricFunction, seed: int) -> None:
    value = drawn_sample(seed).measured(metric)
    assert type(value) is float
    assert math.isfinite(value)


@for_each_metric
@for_each_seed
def test_the_order_of_rows_is_nothing(metric: MetricFunction, seed: int) -> None:
    sample = drawn_sample(seed)
    rows = np.random.default_rng(seed + 100).permutation(len(sample.request_C))
    assert sample.at(rows).measured(metric) == pytest.approx(sample.measured(metric), abs=1e-12)


@for_each_metric
@for_each_seed
def test_weight_0_means_absent(metric: MetricFunction, seed: int) -> None:
    sample = drawn_sample(seed)
    assert (sample.weights_C == 0).any()
    present = np.flatnonzero(sample.weights_C)
    assert sample.at(present).measured(metric) == pytest.approx(sample.measured(metric), abs=1e-12)
    generator = np.random.default_rng(seed)  # single rows too, whatever else is in their request
    weights_C = np.where(generator.random(len(present)) < 0.3, 0.0, sample.weights_C[present])
    thinned = sample.at(present).with_weights(weights_C)
    assert thinned.at(np.flatnonzero(weights_C)).measured(metric) == pytest.approx(thinned.measured(metric), abs=1e-12)


def as_weight_2_and_as_twice(metric: MetricFunction, sample: _Sample, is_twice_C: np.ndarray) -> tuple[float, float]:
    """The rows of weight 2, and the rows given again with the next request id."""
    twice = sample.at(np.concatenate([np.arange(len(is_twice_C)), np.flatnonzero(is_twice_C)]))
    twice.request_C[len(is_twice_C) :] += 1
    doubled = sample.with_weights(np.where(is_twice_C, 2, 1) * sample.weights_C)
    return doubled.measured(metric), twice.measured(metric)


@pytest.mark.parametrize(
    "metric",
    [metric for metric in METRICS if metric.__name__ not in COUNTS_EVENTS],
    ids=lambda metric: metric.__name__,
)
@for_each_seed
def test_weight_2_means_twice(metric: MetricFunction, seed: int) -> None:
    sample = drawn_sample(seed)
    doubled, twice = as_weight_2_and_as_twice(metric, sample, (sample.request_C // 1000) % 3 == 0)
    assert doubled == pytest.approx(twice, abs=1e-12)
    if "request_C" not in required_keywords(metric):  # any row, where requests do not matter
        is_twice_C = np.random.default_rng(seed).random(len(sample.request_C)) < 0.5
        doubled, twice = as_weight_2_and_as_twice(metric, sample, is_twice_C)
        assert doubled == pytest.approx(twice, abs=1e-12)


@pytest.mark.parametrize("name", sorted(COUNTS_EVENTS))
def test_what_is_excepted_from_weight_2_means_twice_needs_it_and_says_so(name: str) -> None:
    [metric] = [metric for metric in METRICS if metric.__name__ == name]
    sample = drawn_sample(0)
    doubled, twice = as_weight_2_and_as_twice(metric, sample, np.ones(len(sample.request_C), dtype=bool))
    assert doubled < twice  # fewer events, more chance to take off
    assert "one event that counts" in (inspect.getdoc(metric) or "")


@for_each_metric
def test_the_scale_of_weights_is_nothing(metric: MetricFunction) -> None:
    sample = drawn_sample(0)
    scaled = sample.with_weights(sample.weights_C * 2.0**-40)
    assert scaled.measured(metric) == pytest.approx(sample.measured(metric), abs=1e-12)


@for_each_metric
@pytest.mark.parametrize("rows", [slice(0, 0), slice(0, 9)], ids=["no row", "no weight"])
def test_nothing_is_undefined(metric: MetricFunction, rows: slice) -> None:
    sample = drawn_sample(0).at(np.arange(9)[rows])
    nothing = sample.with_weights(np.zeros(len(sample.request_C)))
    with pytest.warns(UndefinedMetricWarning, match="NaN"):
        assert math.isnan(nothing.measured(metric))


@for_each_metric
@pytest.mark.parametrize("column", ["probabilities_C", "labels_C", "weights_C"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_a_bad_value_is_refused_by_name(metric: MetricFunction, column: str, bad: float) -> None:
    sample = drawn_sample(0)
    columns = {name: getattr(sample, name).astype(np.float64) for name in ("probabilities_C", "labels_C", "weights_C")}
    columns[column][4] = bad
    named = column if column != "labels_C" else list(inspect.signature(metric).parameters)[1]
    with pytest.raises(MetricError, match=f"`{named}`.*at row 4"):
        _Sample(**columns, request_C=sample.request_C).measured(metric)


@for_each_metric
@pytest.mark.parametrize("column", ["labels_C", "weights_C", "request_C"])
def test_unequal_lengths_are_refused(metric: MetricFunction, column: str) -> None:
    sample = drawn_sample(0)
    if column == "request_C" and "request_C" not in required_keywords(metric):
        return
    setattr(sample, column, getattr(sample, column)[:-1])
    with pytest.raises(MetricError, match="entries"):
        sample.measured(metric)


@for_each_metric
def test_what_is_given_is_left_as_it_was(metric: MetricFunction) -> None:
    sample = drawn_sample(1)
    before = [column.copy() for column in vars(sample).values()]
    for column in vars(sample).values():
        column.setflags(write=False)
    sample.measured(metric)
    for column, kept in zip(vars(sample).values(), before, strict=True):
        np.testing.assert_array_equal(column, kept)


@for_each_metric
def test_it_says_where_it_comes_from_and_shows_itself(metric: MetricFunction) -> None:
    text = inspect.getdoc(metric) or ""
    for part in ("Args:", "Returns:", "Raises:", ">>>", "NaN"):
        assert part in text, f"{metric.__name__} has no {part}"
