"""nDCG of logits against scikit-learn, list by list; and a training that goes by it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import ndcg_score

from rankwell.data.split import HashSplit
from rankwell.errors import UndefinedMetricWarning
from rankwell.losses.listwise import softmax_cross_entropy
from rankwell.models.wide_deep import Logistic
from rankwell.schema import Action, Categorical, Schema
from rankwell.training.list_order import ListNdcg, ndcg_of_logits
from rankwell.training.loop import LoopSettings
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.own_table import recipe_of_table
from rankwell.training.predictions import Predictions
from rankwell.training.trained import train

NO_IDS = torch.zeros(0, dtype=torch.int64)


def drawn(seed: int) -> tuple[Predictions, np.ndarray]:
    """Ten requests of six candidates, grades of the first action, its logits apart and beyond where σ is 1."""
    numbers = np.random.default_rng(seed)
    grades_RK = numbers.integers(0, 3, (10, 6)).astype(np.float32)
    logits_CA = torch.from_numpy(numbers.permutation(120).reshape(60, 2).astype(np.float32)) + 40.0
    labels_CA = torch.stack([torch.from_numpy(grades_RK.ravel() >= 1).float(), torch.zeros(60)], dim=1)
    gains_C = torch.from_numpy(2.0 ** grades_RK.ravel() - 1)
    request_C = torch.arange(10).repeat_interleave(6)
    ids = (request_C, NO_IDS)
    return Predictions(logits_CA, labels_CA, torch.ones(60), request_C, *ids, {}, {"stars": gains_C}), grades_RK


@pytest.mark.parametrize("k", [1, 3, 10])
def test_gains_of_a_graded_action_are_counted(k: int) -> None:
    predictions, grades_RK = drawn(seed=k)
    logits_RK = predictions.logits_CA[:, 0].numpy().reshape(10, 6)
    expected = ndcg_score(2**grades_RK - 1, logits_RK, k=k)
    assert ndcg_of_logits(predictions, "stars", k) == pytest.approx(expected)
    binary = ndcg_score((grades_RK >= 1).astype(float), logits_RK, k=k)
    assert ndcg_of_logits(predictions, "click", k) == pytest.approx(binary)


def test_what_was_not_observed_is_left_out() -> None:
    predictions, grades_RK = drawn(seed=5)
    labels_CA = predictions.labels_CA.clone()
    labels_CA[0::6, 0] = torch.nan
    logits_RK = predictions.logits_CA[:, 0].numpy().reshape(10, 6)[:, 1:]
    expected = ndcg_score(2 ** grades_RK[:, 1:] - 1, logits_RK, k=10)
    assert ndcg_of_logits(dataclasses.replace(predictions, labels_CA=labels_CA), "stars", 10) == pytest.approx(expected)


def test_nothing_to_rank_is_undefined() -> None:
    none = Predictions(torch.zeros(0, 1), torch.zeros(0, 1), torch.zeros(0), NO_IDS, NO_IDS, NO_IDS, {})
    with pytest.warns(UndefinedMetricWarning):
        assert np.isnan(ndcg_of_logits(none, "click", 10))


def test_a_training_ends_with_the_weights_of_the_best_order(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    job_C = numbers.integers(0, 20, 1_200)
    request_C = np.repeat(np.arange(200), 6)
    click_C = numbers.random(1_200) < 1 / (1 + np.exp(1.0 - job_C / 5 + numbers.normal(size=200)[request_C]))
    table = pa.table({"request_id": request_C, "job": job_C, "click": click_C})
    schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), member_id=None, time=None)
    split = HashSplit(train=0.5, tune=0.2, calibrate=0.2, test=0.1)
    recipe = dataclasses.replace(
        recipe_of_table(table, schema, Logistic, tmp_path, split=split),
        objective=lambda schema: PointwiseObjective(schema, softmax_cross_entropy),
        loop=LoopSettings(max_epochs=4, patience=4, monitor=ListNdcg(k=3)),
    )
    trained = train(recipe, tmp_path, seed=0)
    found = [epoch.monitored for epoch in trained.history.epochs]
    assert trained.history.best_epoch == found.index(max(found))
    assert max(found) > 0.7
    tune = list(recipe.batches("tune", tmp_path, seed=None))
    assert ListNdcg(k=3).value(trained.model, tune) == max(found)
