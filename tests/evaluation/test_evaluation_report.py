"""`evaluate` says what the single metrics say, ranks as the ranker ranks, and travels as JSON."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import warnings

import numpy as np
import pytest
import torch
from rich.console import Console

from rankwell.errors import MetricError, UndefinedMetricWarning
from rankwell.evaluation.calibration_error import debiased_ece, ece, ece_null, reliability_curve
from rankwell.evaluation.calibration_ratio import calibration_ratio, calibration_ratio_interval
from rankwell.evaluation.discrimination import auc, brier, gauc, log_loss, normalized_entropy
from rankwell.evaluation.groups import by_segment
from rankwell.evaluation.ranking_quality import mrr, ndcg_at_k
from rankwell.evaluation.report import Evaluation, evaluate
from rankwell.evaluation.truth import (
    bayes_log_loss,
    excess_log_loss,
    mean_absolute_error_to_truth,
    realised_log_loss,
)


@dataclasses.dataclass
class _Log:
    """Whole columns of 600 candidates in 100 requests."""

    p_C: np.ndarray
    y_C: np.ndarray
    w_C: np.ndarray
    q_C: np.ndarray
    request_C: np.ndarray
    member_C: np.ndarray
    seniority_C: np.ndarray


def drawn_log(seed: int = 0) -> _Log:
    generator = np.random.default_rng(seed)
    q_C = generator.beta(1, 3, 600)
    request_C = np.repeat(np.arange(100), 6)
    return _Log(
        p_C=np.round(np.clip(q_C * 1.1, 0.01, 0.99), 1),
        y_C=(generator.random(600) < q_C).astype(int),
        w_C=generator.choice([0.0, 1.0, 2.0], 600),
        q_C=q_C,
        request_C=request_C,
        member_C=request_C // 3,
        seniority_C=generator.choice(["junior", "senior"], 600),
    )


def evaluated(log: _Log) -> Evaluation:
    return evaluate(
        log.p_C,
        None,
        log.y_C,
        log.w_C,
        request_C=log.request_C,
        member_C=log.member_C,
        segments={"seniority": log.seniority_C},
        true_probabilities_C=log.q_C,
        k=(3, 5),
        num_bins=6,
        seed=9,
    )


def test_every_number_is_that_of_its_metric() -> None:
    log = drawn_log()
    columns, requests = (log.p_C, log.y_C, log.w_C), log.request_C
    evaluation = evaluated(log)
    interval = calibration_ratio_interval(*columns, request_C=requests)
    null = ece_null(log.p_C, log.w_C, num_bins=6, seed=9)
    kept = log.w_C > 0
    expected = {
        "num_candidates": kept.sum(),
        "num_requests": 100,
        "num_positives": log.y_C[kept].sum(),
        "mean_predicted": np.average(log.p_C, weights=log.w_C),
        "mean_observed": np.average(log.y_C, weights=log.w_C),
        "auc": auc(*columns),
        "gauc": gauc(*columns, request_C=requests),
        "member_gauc": gauc(*columns, request_C=log.member_C),
        "log_loss": log_loss(*columns),
        "normalized_entropy": normalized_entropy(*columns),
        "brier": brier(*columns),
        "ndcg@3": ndcg_at_k(*columns, request_C=requests, k=3),
        "ndcg@5": ndcg_at_k(*columns, request_C=requests, k=5),
        "mrr@3": mrr(*columns, request_C=requests, k=3),
        "mrr@5": mrr(*columns, request_C=requests, k=5),
        "ece": ece(*columns, num_bins=6),
        "debiased_ece": debiased_ece(*columns, num_bins=6),
        "ece_null_mean": null.mean,
        "ece_null_p95": null.p95,
        "calibration_ratio": calibration_ratio(*columns),
        "calibration_ratio_low": interval.low,
        "calibration_ratio_high": interval.high,
        "mean_absolute_error_to_truth": mean_absolute_error_to_truth(log.p_C, log.q_C, log.w_C),
        "bayes_log_loss": bayes_log_loss(log.q_C, log.w_C),
        "realised_log_loss": realised_log_loss(log.q_C, log.y_C, log.w_C),
        "excess_log_loss": excess_log_loss(log.p_C, log.q_C, log.w_C),
    }
    assert evaluation.numbers("tune/") == pytest.approx({f"tune/{name}": value for name, value in expected.items()})
    assert all(type(value) is float for value in evaluation.numbers().values())
    assert evaluation.reliability == reliability_curve(*columns, num_bins=6)
    rows = by_segment({}, *columns, log.seniority_C, request_C=requests, num_bins=6)
    assert evaluation.segments == {"seniority": tuple(rows)}


def test_equal_probabilities_are_ranked_by_their_logits() -> None:
    generator = np.random.default_rng(1)
    logits_C = generator.normal(-1, 1, 600)
    y_C = (generator.random(600) < 1 / (1 + np.exp(-logits_C))).astype(int)
    steps_C = np.round(1 / (1 + np.exp(-logits_C)), 1)  # as an isotonic calibrator: monotone, with ties
    fine_C = 1 / (1 + np.exp(-logits_C))
    requests, ones_C = np.repeat(np.arange(100), 6), np.ones(600)
    stepped = evaluate(steps_C, logits_C, y_C, ones_C, request_C=requests, member_C=requests // 2).numbers()
    smooth = evaluate(fine_C, None, y_C, ones_C, request_C=requests, member_C=requests // 2).numbers()
    blunt = evaluate(steps_C, None, y_C, ones_C, request_C=requests, member_C=requests // 2).numbers()
    for name in ("auc", "gauc", "member_gauc", "ndcg@5", "ndcg@10", "mrr@5", "mrr@10"):
        assert stepped[name] == pytest.approx(smooth[name], abs=1e-12)
        assert stepped[name] != pytest.approx(blunt[name], abs=1e-6)
    for name in ("log_loss", "brier", "ece", "calibration_ratio"):
        assert stepped[name] == blunt[name]


def test_the_probability_comes_before_the_logit() -> None:
    """A calibrator by segments may turn two rows around: the ranker follows the probability."""
    numbers = evaluate([0.2, 0.3] * 2, [5, -5] * 2, [0, 1] * 2, [1] * 4, request_C=[0, 0, 1, 1]).numbers()
    assert numbers["auc"] == numbers["gauc"] == numbers["mrr@5"] == 1


@pytest.mark.parametrize("request_C", [None, np.arange(600)])
def test_without_lists_there_is_nothing_about_lists_and_no_warning(request_C: np.ndarray | None) -> None:
    log = drawn_log()
    evaluation = evaluate(log.p_C, None, log.y_C, np.ones(600), request_C=request_C)
    assert (evaluation.gauc, evaluation.ndcg, evaluation.mrr, evaluation.truth) == (None, {}, {}, None)
    assert not {"gauc", "member_gauc", "ndcg@5", "bayes_log_loss"} & set(evaluation.numbers())


def test_it_travels_as_json() -> None:
    evaluation = evaluated(drawn_log())
    text = json.dumps(evaluation.to_json(), allow_nan=False)
    assert Evaluation.from_json(json.loads(text)) == evaluation


def test_undefined_and_not_asked_stay_two_things_in_json() -> None:
    with pytest.warns(UndefinedMetricWarning):
        evaluation = evaluate([0.5, 0.25], None, [0, 0], [1, 1], request_C=[0, 0], segments={"s": [1, 2]})
    back = Evaluation.from_json(json.loads(json.dumps(evaluation.to_json(), allow_nan=False)))
    assert math.isnan(back.auc)
    assert back.gauc is not None
    assert math.isnan(back.gauc)
    assert back.member_gauc is None
    assert back.truth is None
    assert back.numbers() == pytest.approx(evaluation.numbers(), nan_ok=True)
    with pytest.raises(MetricError, match="evaluation"):
        Evaluation.from_json({"auc": 0.5})


def test_rows_of_weight_0_and_the_order_of_rows_change_nothing() -> None:
    log = drawn_log(2)
    whole = evaluated(log).numbers()
    order = np.random.default_rng(3).permutation(np.flatnonzero(log.w_C))
    columns = {field.name: getattr(log, field.name)[order] for field in dataclasses.fields(log)}
    assert evaluated(_Log(**columns)).numbers() == pytest.approx(whole, rel=1e-9)


def test_no_rows_at_all_are_undefined_throughout() -> None:
    with pytest.warns(UndefinedMetricWarning):
        numbers = evaluate([], None, [], [], request_C=[], segments={"s": []}, true_probabilities_C=[]).numbers()
    assert numbers.pop("num_candidates") == numbers.pop("num_requests") == numbers.pop("num_positives") == 0
    assert all(map(math.isnan, numbers.values()))


def test_tensors_are_taken() -> None:
    log = drawn_log(4)
    expected = evaluated(log)
    tensors = {
        field.name: torch.tensor(getattr(log, field.name))
        for field in dataclasses.fields(log)
        if field.name != "seniority_C"
    }
    assert evaluated(_Log(**tensors, seniority_C=log.seniority_C)) == expected


def test_a_bad_column_is_named() -> None:
    log = drawn_log()
    with pytest.raises(MetricError, match="logits_C"):
        evaluate(log.p_C, log.p_C[:-1], log.y_C, log.w_C, request_C=None)
    with pytest.raises(MetricError, match=r"segments\['age'\]"):
        evaluate(log.p_C, None, log.y_C, log.w_C, request_C=None, segments={"age": log.p_C})
    with pytest.raises(MetricError, match="true_probabilities_C"):
        evaluate(log.p_C, None, log.y_C, log.w_C, request_C=None, true_probabilities_C=log.p_C + 1)
    with pytest.raises(MetricError, match="`k`"):
        evaluate(log.p_C, None, log.y_C, log.w_C, request_C=None, k=(0,))


def test_the_tables_show_the_numbers_in_80_columns() -> None:
    evaluation = evaluated(drawn_log())
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(evaluation.table("Tune"))
    console.print(evaluation.segment_table("seniority"))
    text = console.export_text()
    for shown in (evaluation.auc, evaluation.log_loss, evaluation.ece, evaluation.ndcg[5]):
        assert f"{shown:.4f}" in text
    for shown in ("Tune", "GAUC", "observed / predicted", "Bayes log loss", "by seniority", "junior"):
        assert shown in text
    assert "…" not in text
    with pytest.raises(MetricError, match="'age'.*seniority"):
        evaluation.segment_table("age")


def test_a_table_of_the_undefined_can_be_shown() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        evaluation = evaluate([0.5], None, [0], [1], request_C=None)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(evaluation.table())
    assert "undefined" in console.export_text()


def test_ndcg_counts_gains_and_nothing_else_does() -> None:
    log = drawn_log()
    gains_C = np.random.default_rng(1).choice([0.0, 1.0, 3.0, 7.0], 600) * (log.q_C > 0.2)

    def with_gains(gains_C: np.ndarray | None) -> Evaluation:
        return evaluate(log.p_C, None, log.y_C, log.w_C, request_C=log.request_C, gains_C=gains_C)

    plain, graded = with_gains(None), with_gains(gains_C)
    for k in (5, 10):
        assert graded.ndcg[k] == ndcg_at_k(log.p_C, gains_C, log.w_C, request_C=log.request_C, k=k)
        assert graded.ndcg[k] != plain.ndcg[k] == with_gains(log.y_C).ndcg[k]
    assert dataclasses.replace(graded, ndcg={}).to_json() == dataclasses.replace(plain, ndcg={}).to_json()
    broken_by_logit = evaluate(
        np.full(600, 0.5), np.log(log.q_C), log.y_C, np.ones(600), request_C=log.request_C, gains_C=gains_C
    )
    assert broken_by_logit.ndcg[5] == ndcg_at_k(log.q_C, gains_C, np.ones(600), request_C=log.request_C, k=5)
    with pytest.raises(MetricError, match="gains_C"):
        with_gains(-gains_C)
    with pytest.raises(MetricError, match="gains_C"):
        with_gains(gains_C[1:])
