"""Every model in `rankwell.models` keeps the contract of its kind; a new one is found without an edit."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil

import pytest
import torch
from torch import Tensor

import rankwell.models
from every_estimator import discovered as discovered_estimators
from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import NumericStatistics, measure_numerics
from rankwell.losses.pointwise import binary_cross_entropy
from rankwell.models.model import Model
from rankwell.models.wide_deep import Deep, Logistic, WideDeep
from rankwell.tables.loan import IdColumn
from rankwell.tables.table import Table
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.types import MISSING_ID, Batch, Column, Events, Ragged


def discovered() -> list[type[Model]]:
    for module in pkgutil.iter_modules(rankwell.models.__path__, "rankwell.models."):
        importlib.import_module(module.name)
    pending, found = list(Model.__subclasses__()), []
    while pending:
        kind = pending.pop()
        pending.extend(kind.__subclasses__())
        if not inspect.isabstract(kind) and kind.__module__.startswith("rankwell."):
            found.append(kind)
    return sorted(found, key=lambda kind: kind.__name__)


MODELS = discovered()
FITTED = {estimator.model_class: estimator for estimator in discovered_estimators()}
every_model = pytest.mark.parametrize("kind", MODELS)
every_learner = pytest.mark.parametrize("kind", [kind for kind in MODELS if kind not in FITTED])
"""The models that the loop trains; of the others, the suite of estimators asks the like."""


def batches(num_requests: int, seed: int = 0, **shape: int) -> list[Batch]:
    log = log_from_table(every_kind_table(num_requests, seed, **shape), EVERY_KIND, layout="requests")
    whole = Batches(log, WholeLog("train"), "train", num_requests=num_requests, seed=None)
    return [batch for _, batch in whole.epoch(0)]


@pytest.fixture(scope="module")
def statistics() -> NumericStatistics:
    return measure_numerics(batches(200, seed=9), EVERY_KIND)


def trained(kind: type[Model], statistics: NumericStatistics, batch: Batch, num_steps: int) -> Model:
    if kind in FITTED:
        return FITTED[kind]().fit(EVERY_KIND, statistics, batches(200, seed=9), batches(50, seed=8), seed=0)
    model = kind(EVERY_KIND, statistics, seed=0)  # type: ignore[call-arg]
    objective = PointwiseObjective(EVERY_KIND)
    plan = OptimizerPlan(dense=DenseAdamW(learning_rate=0.01))
    optimizers = plan.start(model, objective)
    model.train()
    for _ in range(num_steps):
        loss, count = objective(*_encoded_and_logits(model, batch), batch)
        (loss / count).backward()
        optimizers.step()
    return model.eval()


def _encoded_and_logits(model: Model, batch: Batch) -> tuple[object, Tensor]:
    encoded = model.encode(batch.features)
    return encoded, model.head(encoded)


def test_discovery_finds_the_known_ones() -> None:
    assert {Logistic, Deep, WideDeep} <= set(MODELS)


@every_model
def test_logits_have_one_column_an_action(kind: type[Model], statistics: NumericStatistics) -> None:
    (batch,) = batches(7)
    logits_CA = kind(EVERY_KIND, statistics, seed=0).eval()(batch.features)  # type: ignore[call-arg]
    assert logits_CA.shape == (batch.features.num_candidates, 2)
    assert logits_CA.dtype == torch.float32
    assert logits_CA.isfinite().all()


@every_learner
def test_gradient_reaches_every_parameter_and_every_table(kind: type[Model], statistics: NumericStatistics) -> None:
    (batch,) = batches(64)
    model = trained(kind, statistics, batch, 2).train()
    logits_CA = model(batch.features)
    logits_CA.sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    still = [name for name, gradient in gradients.items() if gradient is None or not gradient.any()]
    assert not still
    for part, table in model.tables.items():
        before = all_rows(table)
        table.apply()
        assert not torch.equal(before, all_rows(table)), part


@every_model
def test_other_requests_change_nothing(kind: type[Model], statistics: NumericStatistics) -> None:
    (batch,) = batches(20)
    model = trained(kind, statistics, batch, 3)
    together = model(batch.features)
    log = log_from_table(every_kind_table(20, 0), EVERY_KIND, layout="requests")
    alone = [
        model(one.features) for _, one in Batches(log, WholeLog("train"), "train", num_requests=1, seed=None).epoch(0)
    ]
    assert len(alone) == 20
    assert torch.allclose(torch.cat(alone), together, atol=1e-5)


@every_model
def test_requests_of_one_candidate_and_no_history(kind: type[Model], statistics: NumericStatistics) -> None:
    (batch,) = batches(5, longest=1)
    model = trained(kind, statistics, batch, 1)
    empty = {
        name: Events({field: values[:0] for field, values in events.columns.items()}, torch.zeros(6, dtype=torch.int64))
        for name, events in batch.features.history.items()
    }
    logits_CA = model(dataclasses.replace(batch.features, history=empty))
    assert logits_CA.shape == (5, 2)
    assert logits_CA.isfinite().all()


@every_learner
def test_unknown_ids_read_one_learned_row(kind: type[Model], statistics: NumericStatistics) -> None:
    (batch,) = batches(30)
    model = trained(kind, statistics, batch, 60)
    seen = {int(i) for i in batch.features.context["member"]}  # type: ignore[union-attr]
    one, other = unseen_ids(model, "member", 2)
    logits_CA = with_context(model, batch, member=one)
    assert torch.equal(logits_CA, with_context(model, batch, member=other))
    assert not torch.equal(logits_CA, with_context(model, batch, member=min(seen)))


@every_learner
def test_every_default_row_is_learned_under_the_default_settings(
    kind: type[Model], statistics: NumericStatistics
) -> None:
    (batch,) = batches(30)
    model = trained(kind, statistics, batch, 60)  # even a table read once a request is dropped to it 18 times
    still = [
        f"{part}.{spec.name}"
        for part, table in model.tables.items()
        for spec in table.specs
        if not default_row(table, spec.name).any()
    ]
    assert not still


@every_learner
def test_a_missing_id_is_no_unseen_one(kind: type[Model], statistics: NumericStatistics) -> None:
    (batch,) = batches(30)
    assert batch.features.context["title"].eq(MISSING_ID).any()  # type: ignore[union-attr]
    model = trained(kind, statistics, batch, 60)
    missing_CA, unseen_CA = (with_context(model, batch, title=i) for i in (MISSING_ID, 10**6))
    assert missing_CA.isfinite().all()
    assert (missing_CA - unseen_CA).abs().max() > 1e-3
    for part, table in model.tables.items():
        if "title" in {spec.name for spec in table.specs}:
            row = row_of(table, "title", MISSING_ID)
            assert row.any(), part
            assert not torch.equal(row, default_row(table, "title")), part


@every_learner
@pytest.mark.parametrize("name", ["years", "salary"])
def test_a_missing_number_is_none_that_stands_there(
    kind: type[Model], statistics: NumericStatistics, name: str
) -> None:
    (batch,) = batches(30)
    model = trained(kind, statistics, batch, 60)
    on_request = name in batch.features.context
    column = (batch.features.context if on_request else batch.features.candidates)[name]
    assert isinstance(column, Tensor)
    assert column.isnan().any()

    def logits(value: float) -> Tensor:
        side = "context" if on_request else "candidates"
        filled = {**getattr(batch.features, side), name: torch.full_like(column, value)}
        return model(dataclasses.replace(batch.features, **{side: filled}))  # type: ignore[no-any-return]

    missing_CA = logits(math.nan)
    assert missing_CA.isfinite().all()
    assert torch.equal(missing_CA, logits(-math.nan))
    whole = statistics.columns[name]  # at its means an indicator is all that tells a missing value from a given one
    for value in (whole.mean, math.expm1(whole.log_mean), *whole.quantiles[::64]):
        assert (missing_CA - logits(value)).abs().max() > 1e-3, value


def with_context(model: Model, batch: Batch, **ids: int) -> Tensor:
    """The logits of the batch where all requests have these ids."""
    filled = {name: torch.full((batch.features.num_requests,), value) for name, value in ids.items()}
    context = {**batch.features.context, **filled}
    return model(dataclasses.replace(batch.features, context=context))  # type: ignore[no-any-return]


def default_row(table: Table, name: str) -> Tensor:
    return next(table.chunks(name)).rows_nW[0]


def row_of(table: Table, name: str, id_: int) -> Tensor:
    return table.read([[IdColumn(name, torch.tensor([id_]))]]).blocks[0][0]


def all_rows(table: Table) -> Tensor:
    return torch.cat([piece.rows_nW for name in table.names for piece in table.chunks(name)])


def unseen_ids(model: Model, name: str, num: int) -> list[int]:
    """Ids of a hashed table that hash to no row that training has seen, in any part that reads it."""
    ids = torch.arange(10**6, 10**6 + 3000)
    unseen = torch.ones(len(ids), dtype=torch.bool)
    for table in model.tables.values():
        if name in {spec.name for spec in table.specs}:
            unseen &= (table.read([[IdColumn(name, ids)]]).blocks[0] == default_row(table, name)).all(1)
    return ids[unseen][:num].tolist()


@every_learner
def test_overfits_64_rows(kind: type[Model], statistics: NumericStatistics) -> None:
    (batch,) = batches(64, seed=3, longest=1)
    model = kind(EVERY_KIND, statistics, seed=0)  # type: ignore[call-arg]
    optimizers = OptimizerPlan(dense=DenseAdamW(learning_rate=0.03)).start(model, PointwiseObjective(EVERY_KIND))
    labels_C, request_C = batch.targets.labels_CA[:, 0], batch.features.request_C
    for _ in range(400):
        logits_CA = model(batch.features)
        loss = binary_cross_entropy(logits_CA[:, 0], labels_C, request_C=request_C, weights_C=batch.targets.weights_C)
        if loss.item() / 64 < 0.1:
            return
        (loss / 64).backward()
        optimizers.step()
    pytest.fail(f"after 400 steps the loss is {loss.item() / 64:.3f} a row")


@every_model
def test_seeds_make_models(kind: type[Model], statistics: NumericStatistics) -> None:
    (batch,) = batches(10)
    one, same = (kind(EVERY_KIND, statistics, seed=5) for _ in range(2))  # type: ignore[call-arg]
    assert torch.equal(one.eval()(batch.features), same.eval()(batch.features))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True))


@every_model
def test_settings_travel_as_json(kind: type[Model], statistics: NumericStatistics) -> None:
    model = kind(EVERY_KIND, statistics, seed=0)  # type: ignore[call-arg]
    again = kind.settings_class.model_validate_json(model.settings.model_dump_json())
    assert again == model.settings


@every_model
def test_permuting_candidates_permutes_logits(kind: type[Model], statistics: NumericStatistics) -> None:
    (batch,) = batches(1, longest=6, seed=4)
    model = trained(kind, statistics, batch, 2)
    features = batch.features
    order = torch.arange(features.num_candidates).flip(0)

    def permuted(column: Column) -> Column:
        if isinstance(column, Tensor):
            return column[order]
        lists = [column.values[column.offsets[i] : column.offsets[i + 1]] for i in order]
        return Ragged(torch.cat(lists), torch.tensor([0, *torch.tensor([len(x) for x in lists]).cumsum(0).tolist()]))

    turned = dataclasses.replace(features, candidates={n: permuted(c) for n, c in features.candidates.items()})
    assert torch.allclose(model(turned), model(features)[order], atol=1e-6)
