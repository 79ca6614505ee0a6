"""Boosted trees say what LightGBM says, order lists, and go the whole way from a log to a report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pytest
import torch

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.app.run import evaluate_run, report_run, train_runs
from rankwell.calibration.platt import fit_platt
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import HashSplit, WholeLog
from rankwell.data.statistics import NumericStatistics, measure_numerics
from rankwell.errors import MissingExtraError, RecipeError, TrainingError
from rankwell.evaluation.ranking_quality import ndcg_at_k
from rankwell.models.boosted_trees import BoostedTrees
from rankwell.models.model import Model
from rankwell.schema import Action, Categorical, Numeric, Schema
from rankwell.serving.bundle import read_bundle
from rankwell.serving.inspection import inspect_bundle
from rankwell.serving.ranker import Ranker
from rankwell.training.boosting import Boosting
from rankwell.training.own_table import recipe_of_table
from rankwell.training.predictions import predict
from rankwell.training.recipe import Recipe
from rankwell.training.trained import judge, train
from rankwell.types import Batch

GRADED = Schema(
    features=(Categorical(name="doc"), Numeric(name="a", missing="indicator"), Numeric(name="b")),
    actions=(Action(name="grade", kind="graded", threshold=2),),
    item="doc",
    member_id=None,
    time=None,
)


def graded_table(num_requests: int, seed: int) -> pa.Table:
    """Lists of 2 … 12 documents whose grade, 0 to 4, follows a + b/2; a is missing in a tenth."""
    rng = np.random.default_rng(seed)
    request_C = np.repeat(np.arange(num_requests), rng.integers(2, 13, num_requests))
    a_C, b_C = rng.normal(size=(2, len(request_C)))
    grade_C = np.clip(np.round(1 + a_C + b_C / 2 + 0.5 * rng.normal(size=len(request_C))), 0, 4)
    return pa.table(
        {
            "request_id": request_C,
            "doc": np.arange(len(request_C)),
            "a": pa.array(a_C, mask=rng.random(len(request_C)) < 0.1),
            "b": b_C,
            "grade": grade_C.astype(np.int8),
        }
    )


def batches_of(table: pa.Table, schema: Schema = GRADED) -> list[Batch]:
    layout = "requests" if schema is EVERY_KIND else "flat"
    log = log_from_table(table, schema, layout=layout)
    return list(Batches(log, WholeLog("train"), "train", num_requests=50, seed=None))


@pytest.fixture
def boosters(monkeypatch: pytest.MonkeyPatch) -> list[lightgbm.Booster]:
    """What LightGBM trains during a test, in order."""
    seen: list[lightgbm.Booster] = []
    plain = lightgbm.train

    def watched(*args: Any, **kwargs: Any) -> lightgbm.Booster:
        seen.append(plain(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(lightgbm, "train", watched)
    return seen


@pytest.mark.parametrize("objective", ["lambdarank", "rank_xendcg", "binary"])
@pytest.mark.parametrize("missing_in_train", [True, False])
def test_sums_are_those_of_lightgbm(
    boosters: list[lightgbm.Booster], objective: Any, *, missing_in_train: bool
) -> None:
    """With categories, numbers missing in train, and numbers missing only later."""
    train, tune = (batches_of(every_kind_table(num, num), EVERY_KIND) for num in (300, 80))
    if not missing_in_train:
        train = [_filled(batch) for batch in train]
    boosting = Boosting(objective=objective, num_rounds=25, patience=None, min_leaf_rows=5, learning_rate=0.2)
    model = boosting.fit(EVERY_KIND, measure_numerics(train, EVERY_KIND), train, tune, seed=3)
    assert isinstance(model, BoostedTrees)
    assert len(model.category_keys) > 0
    inputs_CN = torch.cat([model.inputs(batch.features) for batch in tune])
    assert inputs_CN.isnan().any(0).sum() >= 3
    for a, booster in enumerate(boosters):
        expected_C = booster.predict(inputs_CN.numpy(), raw_score=True)
        assert np.abs(model.sums_of(inputs_CN)[:, a].numpy() - expected_C).max() < 1e-12
    logits_CA = torch.cat([model(batch.features) for batch in tune])
    assert torch.equal(logits_CA, model.sums_of(inputs_CN).float())
    assert logits_CA.std(0).min() > 0.01


def _filled(batch: Batch) -> Batch:
    def filled(columns: Any) -> dict[str, Any]:
        return {n: torch.nan_to_num(c) if n in ("years", "salary") else c for n, c in columns.items()}

    features = replace(batch.features, context=filled(batch.features.context),
                       candidates=filled(batch.features.candidates))  # fmt: skip
    return replace(batch, features=features)


def test_patience_keeps_the_best_round(boosters: list[lightgbm.Booster]) -> None:
    train, tune = batches_of(graded_table(60, 0)), batches_of(graded_table(30, 1))
    model = _fit(Boosting(num_rounds=200, patience=5), train, tune)
    best = boosters[0].best_iteration
    assert 0 < best < 200
    without = _fit(Boosting(num_rounds=best, patience=None), train, [])
    assert without.settings.num_trees == (best,)  # type: ignore[attr-defined]
    assert torch.equal(model.values_n, without.values_n)  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", ["lambdarank", "rank_xendcg", "binary"])
def test_orders_unseen_lists(objective: Any) -> None:
    train, tune, test = (batches_of(graded_table(num, seed)) for seed, num in enumerate((300, 60, 200)))
    model = _fit(Boosting(objective=objective, num_rounds=100, patience=20), train, tune)
    predictions = predict(model, test)
    order_C = predictions.logits_CA[:, 0].double().sigmoid()
    gains_C = predictions.gains["grade"]
    ones_C, request_C = torch.ones(len(gains_C)), predictions.request_C
    at_random = ndcg_at_k(torch.full_like(order_C, 0.5), gains_C, ones_C, request_C=request_C, k=5)
    assert ndcg_at_k(order_C, gains_C, ones_C, request_C=request_C, k=5) > at_random + 0.25


def _fit(boosting: Boosting, train: list[Batch], tune: list[Batch], seed: int = 0) -> Model:
    return boosting.fit(GRADED, NumericStatistics(), train, tune, seed=seed)


def test_lambdarank_counts_the_declared_gains() -> None:
    """With a gain for grade 1 alone, lists are ordered by it, whatever the other grades."""
    only_ones = Action(name="grade", kind="graded", threshold=1, gains=(0, 1, 0, 0, 0))
    schema = GRADED.model_copy(update={"actions": (only_ones,)})
    train, test = batches_of(graded_table(300, 0), schema), batches_of(graded_table(100, 1), schema)
    model = Boosting(num_rounds=60, patience=None).fit(schema, NumericStatistics(), train, [], seed=0)
    predictions = predict(model, test)
    order_C, gains_C = predictions.logits_CA[:, 0].double().sigmoid(), predictions.gains["grade"]
    assert set(gains_C.tolist()) == {0.0, 1.0}
    ones_C, request_C = torch.ones(len(gains_C)), predictions.request_C
    at_random = ndcg_at_k(torch.full_like(order_C, 0.5), gains_C, ones_C, request_C=request_C, k=3)
    assert ndcg_at_k(order_C, gains_C, ones_C, request_C=request_C, k=3) > at_random + 0.08
    with pytest.raises(RecipeError, match="rank_xendcg cannot count the gains"):
        Boosting(objective="rank_xendcg").fit(schema, NumericStatistics(), train, test, seed=0)


def test_seeds_draw_and_the_order_of_batches_is_kept() -> None:
    train, tune = batches_of(graded_table(80, 0)), batches_of(graded_table(30, 1))
    drawing = Boosting(num_rounds=10, patience=None, row_rate=0.5, input_rate=0.5)
    one, same, other = (_fit(drawing, train, tune, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["values_n"], other["values_n"])


@pytest.mark.parametrize(
    "setting",
    [{"objective": "ranknet"}, {"num_rounds": 0}, {"patience": 0}, {"learning_rate": 0.0}, {"num_leaves": 1},
     {"min_leaf_rows": 0}, {"l2": -1.0}, {"input_rate": 0.0}, {"row_rate": 1.5}, {"truncation": 0}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(setting))):
        Boosting(**setting)


def test_lists_beyond_what_lightgbm_takes_are_refused() -> None:
    num = 10_001
    table = pa.table({"request_id": np.zeros(num, np.int64), "doc": np.arange(num), "a": np.arange(num) / num,
                      "b": np.zeros(num), "grade": (np.arange(num) % 3).astype(np.int8)})  # fmt: skip
    with pytest.raises(TrainingError, match="LightGBM refuses"):
        _fit(Boosting(patience=None), batches_of(table), [])


def test_without_lightgbm_one_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lightgbm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'rankwell\[trees\]'"):
        _fit(Boosting(), batches_of(graded_table(5, 0)), batches_of(graded_table(5, 1)))


def recipe_in(folder: Path, boosting: Boosting) -> Recipe:
    split = HashSplit(0.6, 0.1, 0.15, 0.15)
    recipe = recipe_of_table(graded_table(500, 0), GRADED, boosting, folder, split=split)
    return replace(recipe, calibrate=fit_platt)


def test_a_recipe_with_an_estimator_goes_the_whole_way(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path / "data", Boosting(num_rounds=60, patience=10))
    run = train_runs(recipe, tmp_path / "data", seeds=(0, 1), out=tmp_path / "bundle")
    assert run.numbers["calibrated/auc/mean"] > 0.75
    bundle = read_bundle(tmp_path / "bundle")
    assert isinstance(bundle.model, BoostedTrees)
    (epoch,) = bundle.provenance["epochs"]
    assert epoch["train_loss"] is None
    again = evaluate_run(bundle, recipe, tmp_path / "data")
    trained = train(recipe, tmp_path / "data", seed=0)
    judgement = judge(recipe, trained.model, trained.calibrators, tmp_path / "data")
    assert again.numbers == pytest.approx(judgement.numbers(), nan_ok=True, abs=0)
    # what lambdarank gives only orders; what comes out is a probability
    assert judgement.calibrated.log_loss < judgement.raw.log_loss
    assert abs(judgement.calibrated.calibration_ratio - 1) < 0.2
    page = report_run(bundle, recipe, tmp_path / "data", tmp_path / "report.html").read_text()
    assert "BoostedTrees" in page
    ranking = Ranker(tmp_path / "bundle").rank(
        {"request_id": 1, "context": {}, "candidates": {"doc": [1, 2, 3], "a": [-2.0, 2.0, None], "b": [0.0, 0.0, 0.0]}}
    )
    assert ranking.impressions[0].item_id == 2
    assert all(0 < impression.probability < 1 for impression in ranking.impressions)
    inspection = inspect_bundle(tmp_path / "bundle")
    assert inspection.tables == ()
    json.dumps(inspection.numbers(), allow_nan=False)


def test_a_recipe_undoes_no_smoothing_that_was_not_done(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, Boosting())
    with pytest.raises(RecipeError, match="label smoothing that its estimator does not do"):
        replace(recipe, label_smoothing=0.1)
