"""Every estimator in `rankwell.training` keeps the contract of its kind; a new one is found without an edit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from every_estimator import discovered
from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.calibration.uncalibrated import Uncalibrated
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import measure_numerics
from rankwell.errors import TrainingError
from rankwell.evaluation.discrimination import auc
from rankwell.models.model import Model
from rankwell.serving.bundle import Bundle, read_bundle, write_bundle
from rankwell.training.boosting import Boosting
from rankwell.training.estimator import Estimator, fit_estimator
from rankwell.types import MISSING_ID, Batch

ESTIMATORS = discovered()
every_estimator = pytest.mark.parametrize("kind", ESTIMATORS)


def batches_of(table: pa.Table) -> list[Batch]:
    log = log_from_table(table, EVERY_KIND, layout="requests")
    return list(Batches(log, WholeLog("train"), "train", num_requests=64, seed=None))


TRAIN, TUNE = batches_of(every_kind_table(200, 1)), batches_of(every_kind_table(60, 2))
STATISTICS = measure_numerics(TRAIN, EVERY_KIND)


def fitted(kind: type[Estimator], train: list[Batch] = TRAIN, seed: int = 0) -> Model:
    return kind().fit(EVERY_KIND, STATISTICS, train, TUNE, seed=seed)


def same_state(one: Model, other: Model) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][n], states[1][n]) for n in states[0])


def test_discovery_finds_the_known_ones() -> None:
    assert Boosting in ESTIMATORS


@every_estimator
def test_gives_a_finished_model_of_its_class(kind: type[Estimator]) -> None:
    model = fitted(kind)
    assert type(model) is kind.model_class
    assert not model.training
    logits_CA = model(TUNE[0].features)
    assert logits_CA.shape == (TUNE[0].features.num_candidates, 2)
    assert logits_CA.dtype == torch.float32


@every_estimator
def test_refits_are_equal_in_every_bit(kind: type[Estimator]) -> None:
    assert same_state(fitted(kind), fitted(kind))


@every_estimator
def test_learns_what_the_log_says(kind: type[Estimator]) -> None:
    def clicked_where_matched(num_requests: int, seed: int) -> list[Batch]:
        table = every_kind_table(num_requests, seed)
        match = table["match"].combine_chunks()
        values_C = match.values.to_numpy()
        flipped_C = np.random.default_rng(seed).random(len(values_C)) < 0.1
        click = pa.ListArray.from_arrays(match.offsets, pa.array(((values_C > 0.5) ^ flipped_C).astype(np.int8)))
        return batches_of(table.set_column(table.column_names.index("click"), "click", click))

    train, tune, test = (clicked_where_matched(num, seed) for seed, num in enumerate((300, 100, 300)))
    model = kind().fit(EVERY_KIND, STATISTICS, train, tune, seed=0)
    logits_C = torch.cat([model(batch.features)[:, 0] for batch in test])
    labels_C = torch.cat([batch.targets.labels_CA[:, 0] for batch in test])
    assert auc(logits_C.double().sigmoid(), labels_C, torch.ones(len(labels_C))) > 0.85  # the truth's is 0.9


@every_estimator
def test_a_candidate_of_weight_0_or_unobserved_is_absent(kind: type[Estimator]) -> None:
    def with_noise(batch: Batch, *, weightless: bool) -> Batch:
        """Every third candidate is a lie, and does not count."""
        lie_C = torch.arange(batch.features.num_candidates) % 3 == 0
        targets = batch.targets
        if weightless:
            labels_CA = torch.where(lie_C[:, None], 1 - targets.labels_CA.clamp(max=1), targets.labels_CA)
            weights_C = torch.where(lie_C, 0.0, targets.weights_C)
            return dataclasses.replace(
                batch, targets=dataclasses.replace(targets, labels_CA=labels_CA, weights_C=weights_C)
            )
        labels_CA = torch.where(lie_C[:, None], torch.nan, targets.labels_CA)
        return dataclasses.replace(
            batch, targets=dataclasses.replace(targets, labels_CA=labels_CA, observed_CA=~labels_CA.isnan())
        )

    weightless, unobserved = ([with_noise(batch, weightless=way) for batch in TRAIN] for way in (True, False))
    assert same_state(fitted(kind, weightless), fitted(kind, unobserved))
    assert not same_state(fitted(kind), fitted(kind, unobserved))


@every_estimator
def test_what_was_never_seen_is_read_alike(kind: type[Estimator]) -> None:
    model, features = fitted(kind), TUNE[0].features

    def logits(**ids: int) -> torch.Tensor:
        filled = {name: torch.full((features.num_requests,), value) for name, value in ids.items()}
        return model(dataclasses.replace(features, context={**features.context, **filled}))  # type: ignore[no-any-return]

    assert torch.equal(logits(title=10**6), logits(title=10**12))
    assert logits(title=MISSING_ID).isfinite().all()
    empty = dataclasses.replace(
        features, candidates={**features.candidates, "salary": torch.full((features.num_candidates,), torch.nan)}
    )
    assert model(empty).isfinite().all()


@every_estimator
def test_a_bundle_brings_it_back(kind: type[Estimator], tmp_path: Path) -> None:
    model = fitted(kind)
    calibrators = {"click": Uncalibrated(), "stars": Uncalibrated()}
    write_bundle(Bundle(model=model, calibrators=calibrators, created_us=0), tmp_path / "bundle")
    again = read_bundle(tmp_path / "bundle").model
    assert type(again) is type(model)
    assert same_state(model, again)
    assert torch.equal(again(TUNE[0].features), model(TUNE[0].features))


@every_estimator
def test_lists_that_teach_nothing_are_no_error(kind: type[Estimator]) -> None:
    table = every_kind_table(60, 3, longest=1)  # of one candidate
    nothing = pa.ListArray.from_arrays(pa.array(np.arange(61, dtype=np.int32)), pa.array(np.zeros(60, np.int8)))
    without = table.set_column(table.column_names.index("click"), "click", nothing)  # and none of them clicked
    for train in (batches_of(table), batches_of(without)):
        model = fitted(kind, train)
        assert model(TUNE[0].features).isfinite().all()


@every_estimator
def test_nothing_to_fit_on_is_refused(kind: type[Estimator]) -> None:
    for train in ([], [_all_unobserved(batch) for batch in TRAIN]):
        with pytest.raises(TrainingError, match="no requests|no observed candidate"):
            fitted(kind, train)


def _all_unobserved(batch: Batch) -> Batch:
    labels_CA = torch.full_like(batch.targets.labels_CA, torch.nan)
    targets = dataclasses.replace(batch.targets, labels_CA=labels_CA, observed_CA=~labels_CA.isnan())
    return dataclasses.replace(batch, targets=targets)


@every_estimator
def test_its_history_is_one_epoch(kind: type[Estimator]) -> None:
    model, history = fit_estimator(kind(), EVERY_KIND, STATISTICS, TRAIN, TUNE, seed=0)
    assert type(model) is kind.model_class
    (record,) = history.epochs
    assert record.num_candidates == sum(batch.features.num_candidates for batch in TRAIN)
    assert 0 < record.tune_auc < 1
    assert 0 <= record.reading_s <= record.seconds
