"""The loop: what it repeats, what it keeps, what it restores, what it learns."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from training_example import (
    JOBS,
    LOOP,
    PLAN,
    Shifted,
    drawing_model,
    everything,
    fitted,
    in_order,
    jobs_log,
    jobs_table,
    logistic,
    same,
    shuffled,
    statistics_of,
    without_times,
)

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.batches import Batches
from rankwell.data.log import RequestLog, log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import NumericStatistics, measure_numerics
from rankwell.errors import LogError, TrainingError, UndefinedMetricWarning
from rankwell.evaluation.discrimination import auc, log_loss_from_logits
from rankwell.models.model import Model, ModelSettings
from rankwell.models.wide_deep import Logistic, LogisticSettings
from rankwell.schema import Schema
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.history import TrainingHistory
from rankwell.training.loop import LoopSettings, StepReport, fit
from rankwell.training.objectives import Objective, PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.predictions import predict, predict_action
from rankwell.training.stepper import Autocast
from rankwell.types import Batch, Encoded, Features


@pytest.fixture(scope="module")
def every_kind() -> RequestLog:
    return log_from_table(every_kind_table(120, 1), EVERY_KIND, layout="requests")


@pytest.fixture(scope="module")
def every_kind_tune() -> RequestLog:
    return log_from_table(every_kind_table(60, 2), EVERY_KIND, layout="requests")


@pytest.fixture(scope="module")
def jobs() -> RequestLog:
    return jobs_log(400, 1)


@pytest.fixture(scope="module")
def jobs_tune() -> RequestLog:
    return jobs_log(300, 2)


def tune_log_loss(model: Model, tune: RequestLog) -> float:
    return log_loss_from_logits(*predict_action(model, (batch for _, batch in in_order(tune).epoch(0)), 0))


# --- repeats ---------------------------------------------------------------------------------------------------------


def test_one_seed_gives_one_model_to_the_bit(every_kind: RequestLog, every_kind_tune: RequestLog) -> None:
    def run(seed: int) -> tuple[dict[str, Tensor], TrainingHistory]:
        model = drawing_model(every_kind)
        history = fitted(model, shuffled(every_kind, 16), in_order(every_kind_tune), seed=seed)
        return everything(model), history

    (one, history), (other, again) = run(seed=4), run(seed=4)
    assert same(one, other)
    assert without_times(history) == without_times(again)
    assert history.best_epoch == again.best_epoch
    assert not same(one, run(seed=5)[0])  # the same start and the same batches: the seed alone drops other units


def test_random_state_around_the_loop_changes_nothing_in_it(jobs: RequestLog, jobs_tune: RequestLog) -> None:
    def run() -> dict[str, Tensor]:
        model = drawing_model(jobs)
        fitted(model, shuffled(jobs, 64), in_order(jobs_tune), dataclasses.replace(LOOP, max_epochs=1))
        return everything(model)

    torch.manual_seed(1)
    one = run()
    torch.manual_seed(2)
    assert same(one, run())


@pytest.mark.parametrize("fails", [False, True])
def test_random_state_and_matmul_precision_are_put_back(fails: bool, jobs: RequestLog, jobs_tune: RequestLog) -> None:
    during: list[str] = []

    def on_step(report: StepReport) -> None:
        during.append(torch.get_float32_matmul_precision())
        if fails:
            raise KeyboardInterrupt

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    try:
        fitted(drawing_model(jobs), shuffled(jobs, 64), in_order(jobs_tune), on_step=on_step)
    except KeyboardInterrupt:
        assert fails
    else:
        assert not fails
    assert torch.get_float32_matmul_precision() == "highest"
    assert during[0] == "medium"
    assert torch.equal(torch.rand(3), expected)
    torch.set_float32_matmul_precision(before)


# --- best weights ----------------------------------------------------------------------------------------------------


EXACT = dataclasses.replace(LOOP, matmul_precision="highest", drop_factor=1.0)
"""The precision that is in force outside of the loop too: logits can be compared to the bit."""


def worsening(num_rows: int = 300) -> RequestLog:
    """Labels of tune turned round, so that each epoch of training makes tune worse."""
    table, _ = jobs_table(num_rows, 3)
    return log_from_table(table.set_column(2, "click", pa.array(1 - table["click"].to_numpy())), JOBS)


@pytest.mark.parametrize("monitor", ["log_loss", "auc"])
@pytest.mark.parametrize("patience", [2, 9], ids=["patience ends it", "max_epochs ends it"])
def test_best_weights_come_back(monitor: str, patience: int, jobs: RequestLog) -> None:
    tune = worsening()
    loop = dataclasses.replace(EXACT, max_epochs=4, patience=patience, monitor=monitor)
    model = drawing_model(jobs)
    history = fitted(model, shuffled(jobs, 32), in_order(tune), loop)
    values = [-e.tune_auc if monitor == "auc" else e.tune_log_loss for e in history.epochs]
    assert history.best_epoch == values.index(min(values)) == 0
    assert len(values) == (3 if patience == 2 else 4)
    assert values[-1] > values[0]
    assert not model.training
    assert tune_log_loss(model, tune) == history.best.tune_log_loss
    logits_C, labels_C, weights_C = predict_action(model, (b for _, b in in_order(tune).epoch(0)), 0)
    assert auc(torch.sigmoid(logits_C.double()), labels_C, weights_C) == history.best.tune_auc


def test_the_last_epoch_may_be_the_best(jobs: RequestLog, jobs_tune: RequestLog) -> None:
    model = logistic(jobs)
    history = fitted(model, shuffled(jobs, 64), in_order(jobs_tune), LoopSettings(max_epochs=2))
    assert history.best_epoch == 1
    assert tune_log_loss(model, jobs_tune) == history.best.tune_log_loss


def test_the_weights_of_the_last_epoch_are_not_copied(jobs: RequestLog, jobs_tune: RequestLog, tmp_path: Path) -> None:
    """Of a table that fills the memory there is no room for a copy, and no step is left to change it."""
    model = logistic(jobs)
    history = fitted(model, shuffled(jobs, 64), in_order(jobs_tune), LoopSettings(max_epochs=1), checkpoints=tmp_path)
    newest = max(tmp_path.glob("*.safetensors"))
    assert not [name for name in load_file(newest) if name.startswith("best/")]
    again = logistic(jobs)
    assert fitted(again, shuffled(jobs, 64), in_order(jobs_tune), LoopSettings(max_epochs=1), checkpoints=tmp_path) == (
        history
    )
    assert same(everything(model), everything(again))
    assert tune_log_loss(again, jobs_tune) == history.best.tune_log_loss


def test_autocast_rounds_in_training_only(jobs: RequestLog, jobs_tune: RequestLog) -> None:
    """bfloat16 has 8 bits of significand: training goes nearly the same way, and what is said after it is float32."""
    dtypes: set[torch.dtype] = set()

    class Watching(Objective):
        def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
            loss, count = PointwiseObjective(JOBS)(encoded, logits_CA, batch)
            dtypes.update({logits_CA.dtype, loss.dtype})
            return loss, count

    losses = []
    for autocast in get_args(Autocast):
        model = drawing_model(jobs)
        loop = LoopSettings(max_epochs=3, autocast=autocast)
        fit(model, Watching(), PLAN, shuffled(jobs, 32), in_order(jobs_tune), loop, seed=0)
        losses.append(tune_log_loss(model, jobs_tune))
        _, batch = next(in_order(jobs_tune).epoch(0))
        logits_CA = model(batch.features)
        assert logits_CA.dtype == torch.float32
        assert not torch.equal(logits_CA, logits_CA.bfloat16().float())
    assert dtypes == {torch.float32}
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.01)


def test_a_row_of_a_later_epoch_is_unknown_again(jobs: RequestLog) -> None:
    """The best epoch had not admitted any id; the next ones did, and were worse."""
    tune = worsening()
    few = log_from_table(pa.table({"job": [1, 2, 3, 4], "match": np.zeros(4, np.float32), "click": [1, 1, 1, 0]}), JOBS)
    settings = LogisticSettings(admission=3)
    model = Logistic(JOBS, statistics_of(jobs), settings, seed=0)
    history = fitted(model, shuffled(few, 4), in_order(tune), LoopSettings(max_epochs=4, patience=9), plan=PLAN)
    assert history.best_epoch == 0
    assert tune_log_loss(model, tune) == history.best.tune_log_loss


def test_an_error_leaves_the_best_weights_so_far(jobs: RequestLog) -> None:
    tune = worsening()

    def on_step(report: StepReport) -> None:
        if report.epoch == 2 and report.num_requests > 100:
            raise RuntimeError("enough")

    model, whole = drawing_model(jobs), drawing_model(jobs)
    with pytest.raises(RuntimeError, match="enough"):
        fitted(model, shuffled(jobs, 4), in_order(tune), EXACT, on_step=on_step)  # half of all rows owe some decay
    history = fitted(whole, shuffled(jobs, 4), in_order(tune), EXACT)
    assert history.best_epoch == 0
    assert tune_log_loss(model, tune) == history.best.tune_log_loss
    assert not model.training


def test_the_objectives_own_parameters_come_back_too(jobs: RequestLog) -> None:
    tune, loop = worsening(), LoopSettings(max_epochs=2)
    objective, after_one = Shifted(), Shifted()
    fit(logistic(jobs), objective, PLAN, shuffled(jobs, 32), in_order(tune), loop, seed=0)
    fit(logistic(jobs), after_one, PLAN, shuffled(jobs, 32), in_order(tune), LoopSettings(max_epochs=1), seed=0)
    assert objective.shift.item() == after_one.shift.item() != 0


# --- rates -----------------------------------------------------------------------------------------------------------


def test_a_bad_epoch_drops_the_rates_and_patience_ends_it(jobs: RequestLog) -> None:
    rates: list[float] = []
    model = logistic(jobs)

    def on_step(report: StepReport) -> None:
        if report.num_requests == report.num_requests_total:
            rates.append(model.tables["wide"].learning_rate)

    loop = LoopSettings(max_epochs=9, patience=3, drop_factor=0.5)
    history = fitted(model, shuffled(jobs, 64), in_order(worsening()), loop, on_step=on_step)
    assert [e.learning_rate for e in history.epochs] == [0.02, 0.02, 0.01, 0.005]  # epochs 1, 2 and 3 were worse
    assert rates == [0.1, 0.1, 0.05, 0.025]


def test_rates_fall_in_a_line_step_by_step(jobs: RequestLog, jobs_tune: RequestLog) -> None:
    rates: list[float] = []
    model = logistic(jobs)
    loop = LoopSettings(max_epochs=2, anneal_to=0.2)
    fitted(model, shuffled(jobs, 100), in_order(jobs_tune), loop, on_step=lambda _: rates.append(_rate(model)))
    # 2 epochs of 4 steps: step s of 8 has gone s / 8 of the way from 1 to 0.2
    assert rates == pytest.approx([0.1 * (1 - s / 8 * 0.8) for s in range(8)])


def test_drops_multiply_with_the_line(jobs: RequestLog) -> None:
    rates: list[float] = []
    model = logistic(jobs)
    loop = LoopSettings(max_epochs=3, anneal_to=0.4, drop_factor=0.5)
    tune = in_order(worsening())
    fitted(model, shuffled(jobs, 200), tune, loop, on_step=lambda _: rates.append(_rate(model)))
    drops = [1, 1, 1, 1, 0.5, 0.5]  # epoch 1 is the first bad one
    assert rates == pytest.approx([0.1 * drop * (1 - s / 6 * 0.6) for s, drop in enumerate(drops)])


def _rate(model: Model) -> float:
    return model.tables["wide"].learning_rate


# --- steps -----------------------------------------------------------------------------------------------------------


class Steps(Objective):
    """Keeps what it gave, and multiplies the loss of one step."""

    def __init__(self, schema: Schema, bad_step: int | None = None, factor: float = math.nan) -> None:
        super().__init__()
        self.plain, self.bad_step, self.factor = PointwiseObjective(schema), bad_step, factor
        self.given: list[tuple[float, float]] = []

    def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        loss, count = self.plain(encoded, logits_CA, batch)
        self.given.append((float(loss.detach()), float(count)))
        return (loss * self.factor if len(self.given) == self.bad_step else loss), count


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_training(factor: float, jobs: RequestLog, jobs_tune: RequestLog) -> None:
    model, before = logistic(jobs), logistic(jobs)
    two = LoopSettings(max_epochs=1)
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) in step 3;\n.*lower the learning rates"):
        fit(model, Steps(JOBS, 3, factor), PLAN, shuffled(jobs, 64), in_order(jobs_tune), two, seed=0)
    # two steps were taken and the third moved nothing
    taken: list[dict[str, Tensor]] = []

    def on_step(report: StepReport) -> None:
        if len(taken) < 2:
            taken.append(everything(before))

    fitted(before, shuffled(jobs, 64), in_order(jobs_tune), two, on_step=on_step)
    for name in ("dense/bias", "wide/job.rows_nW", "wide/job.state_nS", "wide/clock"):
        assert torch.equal(everything(model)[name], taken[1][name]), name
    # and its loans are forgotten: a step now moves no row
    rows = everything(model)["wide/job.rows_nW"]
    model.tables["wide"].apply()
    assert torch.equal(everything(model)["wide/job.rows_nW"], rows)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_error_within_a_pass_forgets_the_loans(jobs: RequestLog, jobs_tune: RequestLog) -> None:
    class Failing(Objective):
        def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
            logits_CA.sum().backward()
            raise LogError("no")

    model = logistic(jobs)
    with pytest.raises(LogError):
        fit(model, Failing(), PLAN, shuffled(jobs, 64), in_order(jobs_tune), LOOP, seed=0)
    rows = everything(model)["wide/job.rows_nW"]
    model.tables["wide"].apply()
    assert torch.equal(everything(model)["wide/job.rows_nW"], rows)


def test_logits_that_are_not_finite_end_training(jobs: RequestLog, jobs_tune: RequestLog) -> None:
    """A finite gradient, and a rate that is infinite in float32: weights that are none after the epoch's one step."""
    model = logistic(jobs)
    plan = OptimizerPlan(dense=DenseAdamW(learning_rate=1e39))
    with pytest.raises(TrainingError, match="logits on tune are not finite after epoch 0; found: 300 of 300"):
        fit(model, PointwiseObjective(JOBS), plan, shuffled(jobs, 400), in_order(jobs_tune), LOOP, seed=0)


def test_a_batch_without_weight_changes_nothing() -> None:
    weighted = JOBS.model_copy(update={"weight": "w"})
    table, _ = jobs_table(120, 5)
    weight_C = np.where(np.arange(120) < 80, 1.0, 0.0)
    log = log_from_table(table.append_column("w", pa.array(weight_C)), weighted)
    tune = log_from_table(table.append_column("w", pa.array(np.ones(120))), weighted)
    model = drawing_model(log)
    after: list[dict[str, Tensor]] = []
    train = Batches(log, WholeLog("train"), "train", num_requests=40, seed=None)  # in order: two batches, then nothing
    one = LoopSettings(max_epochs=1)
    history = fitted(model, train, in_order(tune), one, on_step=lambda _: after.append(everything(model)))
    assert not same(after[0], after[1])
    assert same(after[1], after[2])
    assert history.epochs[0].num_candidates == 120


def test_an_epoch_without_weight_has_no_loss() -> None:
    weighted = JOBS.model_copy(update={"weight": "w"})
    table, _ = jobs_table(50, 5)
    log = log_from_table(table.append_column("w", pa.array(np.zeros(50))), weighted)
    tune = log_from_table(table.append_column("w", pa.array(np.ones(50))), weighted)
    model = drawing_model(log)
    before = everything(model)
    history = fitted(model, shuffled(log, 20), in_order(tune), LoopSettings(max_epochs=2, patience=2))
    assert [math.isnan(epoch.train_loss) for epoch in history.epochs] == [True, True]
    assert torch.equal(before["dense/last.weight"], everything(model)["dense/last.weight"])


def test_train_loss_is_the_mean_over_all_rows_of_the_epoch(jobs: RequestLog, jobs_tune: RequestLog) -> None:
    objective = Steps(JOBS)
    reports: list[StepReport] = []
    history = fit(
        logistic(jobs), objective, PLAN, shuffled(jobs, 150), in_order(jobs_tune), LoopSettings(max_epochs=1),
        seed=0, on_step=reports.append,
    )  # fmt: skip
    assert [count for _, count in objective.given] == [133, 133, 134]
    assert history.epochs[0].train_loss == pytest.approx(sum(loss for loss, _ in objective.given) / 400, rel=1e-6)
    assert [report.num_requests for report in reports] == [133, 266, 400]
    assert reports[-1].loss == history.epochs[0].train_loss
    assert {(report.epoch, report.num_requests_total) for report in reports} == {(0, 400)}


def test_a_step_is_one_of_the_mean_loss(jobs: RequestLog, jobs_tune: RequestLog) -> None:
    """One batch of everything, one epoch, against the gradient of the mean by hand."""
    model = logistic(jobs)
    fitted(
        model, shuffled(jobs, 400), in_order(jobs_tune), LoopSettings(max_epochs=1),
        plan=OptimizerPlan(linear_rows=RowWiseAdaGrad(learning_rate=0.1)),
    )  # fmt: skip
    table, _ = jobs_table(400, 1)
    job_C, click_C = table["job"].to_numpy(), table["click"].to_numpy()
    (stored,) = model.tables["wide"].chunks("job")
    place = {key: n for n, key in enumerate(stored.keys_n.tolist())}
    for job in range(8):
        grad = np.sum(np.where(job_C == job, 0.5 - click_C, 0.0)) / 400  # all logits start at 0
        assert stored.rows_nW[place[job]].item() == pytest.approx(-0.1 * np.sign(grad), rel=1e-5)
        assert stored.state_nS[place[job]].item() == pytest.approx(grad**2, rel=1e-4)


def test_weights_are_relative(jobs: RequestLog) -> None:
    """Four times every weight is the same training, to the bit: the mean is over the weight, not over the rows."""
    weighted = JOBS.model_copy(update={"weight": "w"})
    table, _ = jobs_table(200, 5)
    weight_C = np.random.default_rng(0).choice([0.0, 0.5, 1.0, 3.0], 200)

    def run(factor: float) -> dict[str, Tensor]:
        log = log_from_table(table.append_column("w", pa.array(weight_C * factor)), weighted)
        model = Logistic(weighted, statistics_of(log), seed=0)
        fitted(model, shuffled(log, 30), in_order(log), LoopSettings(max_epochs=2))
        return everything(model)

    assert same(run(1.0), run(4.0))


# --- learns ----------------------------------------------------------------------------------------------------------


def test_a_logistic_truth_is_learned() -> None:
    train, tune = jobs_log(6000, 11), jobs_log(2000, 12)
    model = logistic(train)
    fitted(model, shuffled(train, 64), in_order(tune), LoopSettings(max_epochs=4, anneal_to=0.1), plan=OptimizerPlan(
        dense=DenseAdamW(learning_rate=0.02), linear_rows=RowWiseAdaGrad(learning_rate=0.3)))  # fmt: skip
    table, true_C = jobs_table(20_000, 13)
    predictions = predict(model, (batch for _, batch in in_order(log_from_table(table, JOBS)).epoch(0)))
    said_C = torch.sigmoid(predictions.logits_CA[:, 0].double()).numpy()
    excess = np.mean(true_C * np.log(true_C / said_C) + (1 - true_C) * np.log((1 - true_C) / (1 - said_C)))
    # 9 free parameters cost 9 / (2 · 6000) = 0.00075 nats in expectation; the mean label alone is 0.2 nats off
    assert excess < 0.003
    assert np.abs(said_C - true_C).mean() < 0.03


# --- odd models and splits -------------------------------------------------------------------------------------------


class ConstantSettings(ModelSettings):
    """None."""


class Constant(Model):
    """The same logit for everyone: a bias, and no table."""

    settings_class = ConstantSettings

    def __init__(self, schema: Schema) -> None:
        super().__init__(schema, NumericStatistics(), seed=0)
        self.tables = {}
        self.bias = nn.Parameter(torch.zeros(len(schema.actions)))

    def encode(self, features: Features) -> Encoded:
        return Encoded(torch.zeros(features.num_requests, 0), torch.zeros(features.num_candidates, 0), {})

    def head(self, encoded: Encoded) -> Tensor:
        return self.bias.expand(len(encoded.candidate_CD), -1)


def test_a_bias_alone_learns_the_mean(jobs: RequestLog) -> None:
    model = Constant(JOBS)
    plan = OptimizerPlan(dense=DenseAdamW(learning_rate=0.05))
    history = fitted(model, shuffled(jobs, 50), in_order(jobs), LoopSettings(max_epochs=20, anneal_to=0.01), plan=plan)
    rate = float(np.mean(jobs_table(400, 1)[0]["click"].to_numpy()))
    assert torch.sigmoid(model.bias).item() == pytest.approx(rate, abs=0.002)
    assert history.best.tune_auc == 0.5


class RowsOnly(Model):
    """No dense parameter at all: the rows of the wide part."""

    settings_class = ConstantSettings

    def __init__(self, log: RequestLog) -> None:
        super().__init__(log.schema, NumericStatistics(), seed=0)
        self.wide = Logistic(log.schema, statistics_of(log), seed=0).wide
        self.wide.candidate_weights = self.wide.request_weights = None
        self.tables = self.wide.tables

    def encode(self, features: Features) -> Encoded:
        (lookup,) = self.wide.lookups.values()
        return Encoded(torch.zeros(features.num_requests, 0), lookup(features).candidate_CW, {})

    def head(self, encoded: Encoded) -> Tensor:
        return encoded.candidate_CD


def test_a_model_of_rows_alone_is_trained(jobs: RequestLog, jobs_tune: RequestLog) -> None:
    model = RowsOnly(jobs)
    assert not list(model.parameters())
    history = fitted(model, shuffled(jobs, 50), in_order(jobs_tune), LoopSettings(max_epochs=3, anneal_to=0.5))
    assert history.best.tune_auc > 0.6
    assert tune_log_loss(model, jobs_tune) == history.best.tune_log_loss


def test_one_candidate_is_a_log(jobs: RequestLog) -> None:
    one = jobs_log(1, 0)
    with pytest.warns(UndefinedMetricWarning):
        history = fitted(logistic(jobs), shuffled(one, 1), in_order(one), LoopSettings(max_epochs=1))
    assert math.isnan(history.best.tune_auc)
    assert history.best.train_loss == pytest.approx(math.log(2))


@pytest.mark.filterwarnings("ignore::rankwell.errors.UndefinedMetricWarning")
def test_tune_of_one_class_has_no_auc_to_go_by(jobs: RequestLog) -> None:
    table, _ = jobs_table(30, 0)
    clicked = log_from_table(table.set_column(2, "click", pa.array(np.ones(30, np.int8))), JOBS)
    with pytest.raises(TrainingError, match=r"auc of action 'click' is undefined on tune; found: 30 observed .* 30 of"):
        fitted(logistic(jobs), shuffled(jobs, 50), in_order(clicked), LoopSettings(monitor="auc"))
    history = fitted(logistic(jobs), shuffled(jobs, 50), in_order(clicked), LoopSettings(max_epochs=1))
    assert math.isnan(history.best.tune_auc)


def test_what_was_predicted_on_can_be_trained_on(every_kind: RequestLog, every_kind_tune: RequestLog) -> None:
    """A split that fits a buffer is decoded once: also when that was under `predict`, whose tensors stay plain."""
    train = Batches(every_kind, WholeLog("train"), "train", num_requests=60, seed=None)
    model = drawing_model(every_kind)
    predict(model, train)
    _, batch = next(train.epoch(0))
    assert not any(column.is_inference() for column in (batch.targets.weights_C, batch.features.candidates["given"]))
    assert len(fitted(model, train, in_order(every_kind_tune), LoopSettings(max_epochs=1)).epochs) == 1


def test_leftovers_of_others_are_not_trained_on(jobs: RequestLog, jobs_tune: RequestLog) -> None:
    fresh, used = logistic(jobs), logistic(jobs)
    _, batch = next(iter(in_order(jobs).epoch(0)))
    used.tables["wide"].train_with(RowWiseAdaGrad())
    used.train()(batch.features).sum().backward()
    for model in (fresh, used):
        fitted(model, shuffled(jobs, 50), in_order(jobs_tune), LoopSettings(max_epochs=1))
    assert torch.equal(fresh.bias, used.bias)
    assert torch.equal(*(everything(model)["wide/job.rows_nW"] for model in (fresh, used)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_epochs": 0}, "max_epochs and patience start at 1"),
        ({"patience": 0}, "max_epochs and patience start at 1"),
        ({"drop_factor": 0.0}, "drop_factor is out of range; found: 0.0"),
        ({"anneal_to": 1.5}, "anneal_to is out of range; found: 1.5"),
        ({"anneal_to": math.nan}, "anneal_to is out of range; found: nan"),
        ({"checkpoint_every_s": -1.0}, "time between checkpoints"),
        ({"checkpoint_every_steps": -1}, "time between checkpoints"),
        ({"monitor": "ndcg"}, "monitor has no such choice; found: ndcg"),
        ({"matmul_precision": "low"}, "matmul_precision has no such choice; found: low"),
        ({"autocast": "float16"}, "autocast has no such choice; found: float16"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        LoopSettings(**wrong)  # type: ignore[arg-type]


def test_cut_histories_are_counted_each_epoch() -> None:
    table = every_kind_table(40, 0)
    log = log_from_table(table, EVERY_KIND, layout="requests")
    model = Logistic(EVERY_KIND, measure_numerics(shuffled(log, 40), EVERY_KIND), seed=0)
    history = fit(
        model, PointwiseObjective(EVERY_KIND), OptimizerPlan(), shuffled(log, 7), in_order(log),
        LoopSettings(max_epochs=2), seed=0,
    )  # fmt: skip
    expected = sum(len(items) > 5 for items in table["history_item"].to_pylist())
    assert [record.num_cut_histories for record in history.epochs] == [expected, expected]
    assert expected > 0
