"""The one loop: epochs over `train`, an evaluation of the whole of `tune` after each, the best weights at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor

from rankwell.data.batches import Batches, Position
from rankwell.errors import TrainingError
from rankwell.evaluation.discrimination import auc, log_loss_from_logits
from rankwell.models.model import Model
from rankwell.training.best_weights import copied_weights, put_weights, tensors_under
from rankwell.training.checkpoint import Checkpoint, PeriodicCheckpoints, check_periods
from rankwell.training.history import EpochRecord, TrainingHistory
from rankwell.training.monitor import Monitor
from rankwell.training.objectives import Objective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.predictions import predict_action
from rankwell.training.resumed import Resumed
from rankwell.training.run_identity import run_identity
from rankwell.training.stepper import Autocast, MatmulPrecision, Stepper, arithmetic_of_training, check_arithmetic
from rankwell.types import Features

__all__ = ["LoopSettings", "StepReport", "fit"]


@final
@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """When to stop, when to slow down, when to save.

    Args:
        max_epochs: At most so many.
        patience: Stop after so many epochs in a row without a better `monitor` on tune.
        monitor: "log_loss" (lower is better) or "auc", of the first action on tune; or another figure of the model
            there, such as `rankwell.training.next_item.NextItemNdcg`.
        drop_factor: Learning rates are multiplied by this after each epoch without a better `monitor`.
        anneal_to: If not 1, learning rates fall linearly, step by step, to this share of themselves at the end of
            `max_epochs`; drops multiply with it.
        checkpoint_every_s: Seconds between checkpoints, when `fit` is given a folder; one is written after each epoch
            in any case.
        checkpoint_every_steps: Steps between checkpoints, besides.
        matmul_precision: torch's float32 matmul precision while training. "medium" lets oneDNN multiply: on
            processors where MKL is slow it is twice as fast at the same error; on those with bfloat16 matrix units
            it may round inputs to bfloat16.
        autocast: "bfloat16" multiplies in bfloat16 while training (``torch.autocast`` around body and head; parameters,
            rows, loss and optimizers stay float32): about twice as many rows a second where the processor has bfloat16
            instructions, for logits that are rounded to 3 significant digits in training, and not in evaluation.

    Raises:
        TrainingError: A setting is out of range.

    >>> LoopSettings(max_epochs=3, monitor="auc").patience
    2
    """

    max_epochs: int = 10
    patience: int = 2
    monitor: Literal["log_loss", "auc"] | Monitor = "log_loss"
    drop_factor: float = 0.1
    anneal_to: float = 1.0
    checkpoint_every_s: float = 300.0
    checkpoint_every_steps: int | None = None
    matmul_precision: MatmulPrecision = "medium"
    autocast: Autocast = "off"

    def __post_init__(self) -> None:
        if self.max_epochs < 1 or self.patience < 1:
            raise TrainingError("max_epochs and patience start at 1", found=(self.max_epochs, self.patience))
        for name, share in (("drop_factor", self.drop_factor), ("anneal_to", self.anneal_to)):
            if not 0 < share <= 1:
                raise TrainingError(f"{name} is out of range", found=share, allowed="(0, 1]")
        if not isinstance(self.monitor, Monitor) and self.monitor not in ("log_loss", "auc"):
            raise TrainingError("monitor has no such choice", found=self.monitor, allowed=["log_loss", "auc"])
        check_periods(self.checkpoint_every_s, self.checkpoint_every_steps)
        check_arithmetic(self.matmul_precision, self.autocast)


@final
@dataclass(frozen=True, slots=True)
class StepReport:
    """What a progress display is told after each step; the counts are of this epoch, the loss is its mean so far."""

    epoch: int
    num_requests: int
    num_candidates: int
    num_requests_total: int
    loss: float


def fit(
    model: Model,
    objective: Objective,
    plan: OptimizerPlan,
    train: Batches,
    tune: Batches,
    settings: LoopSettings,
    *,
    seed: int,
    checkpoints: Path | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_resume: Callable[[Resumed], None] | None = None,
) -> TrainingHistory:
    """Train a model in place; at the end it always holds the weights of its best epoch, in eval mode.

    Each step minimises the objective's mean over the batch, Σ w·ℓ / Σ w; a batch without weight changes nothing. Two
    runs with one seed on one machine are bit-equal, and so is a run that was killed and started again with the same
    arguments and checkpoint folder.

    An error on the way (or Ctrl-C) leaves the model with the weights of its best epoch so far, if one has ended, and
    torch's random state and matmul precision as they were.

    Args:
        model: Freshly built; its tables are given the plan's rules.
        objective: The summed loss; its own parameters are trained, and restored, with the model's.
        plan: Who moves what.
        train: Shuffled batches of train.
        tune: Batches of tune; evaluated as a whole after each epoch.
        settings: See `LoopSettings`.
        seed: Keys all that is drawn in a step (dropout) by (seed, step).
        checkpoints: Folder of checkpoints, of this run alone; None writes none.
        on_step: Called after each step.
        on_resume: Called before the first step, if there is a checkpoint to go on from.

    Returns:
        What happened, epoch by epoch.

    Raises:
        TrainingError: The loss or the logits on tune are not finite; `monitor` is undefined on tune.
        CheckpointError: No checkpoint of the folder is whole, it holds those of another run, or one can't be written.
        RecipeError: The plan names a table that the model hasn't.
        LogError: A split is empty, or a value does not keep the schema.

    >>> import pyarrow as pa
    >>> from rankwell.data.log import log_from_table
    >>> from rankwell.data.split import WholeLog
    >>> from rankwell.data.statistics import NumericStatistics
    >>> from rankwell.models.wide_deep import Logistic
    >>> from rankwell.schema import Action, Categorical, Schema
    >>> from rankwell.training.objectives import PointwiseObjective
    >>> schema = Schema(features=(Categorical(name="job", num_ids=2),), actions=(Action(name="click"),),
    ...                 request_id=None, member_id=None, time=None)
    >>> log = log_from_table(pa.table({"job": [0, 1] * 50, "click": [0, 1] * 45 + [1, 0] * 5}), schema)
    >>> model = Logistic(schema, NumericStatistics(), seed=0)
    >>> history = fit(model, PointwiseObjective(schema), OptimizerPlan(),
    ...               Batches(log, WholeLog("train"), "train", num_requests=10, seed=0),
    ...               Batches(log, WholeLog("tune"), "tune", num_requests=100, seed=None),
    ...               LoopSettings(max_epochs=4), seed=0)
    >>> round(history.best.tune_auc, 6), history.best_epoch, model.training
    (0.9, 3, False)
    """
    with arithmetic_of_training(settings.matmul_precision):
        return _Training(model, objective, plan, train, tune, settings, seed, checkpoints, on_step, on_resume).run()


class _Training:
    def __init__(
        self,
        model: Model,
        objective: Objective,
        plan: OptimizerPlan,
        train: Batches,
        tune: Batches,
        settings: LoopSettings,
        seed: int,
        checkpoints: Path | None,
        on_step: Callable[[StepReport], None] | None,
        on_resume: Callable[[Resumed], None] | None,
    ) -> None:
        self.model, self.objective, self.train, self.tune = model, objective, train, tune
        self.settings, self.on_step, self.on_resume = settings, on_step, on_resume
        self.stepper = Stepper(model, objective, plan, seed=seed, autocast=settings.autocast)
        self.checkpoints: PeriodicCheckpoints | None = None
        if checkpoints is not None:
            data = {"train": train.fingerprint, "tune": tune.fingerprint}
            self.checkpoints = PeriodicCheckpoints(
                checkpoints,
                run_identity(model, objective, plan, {**asdict(settings), "monitor": settings.monitor}, data, seed),
                model.tables,
                every_s=settings.checkpoint_every_s,
                every_steps=settings.checkpoint_every_steps,
            )
        self.epochs: list[EpochRecord] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch, self.best_value, self.num_worse = -1, math.inf, 0
        self.drop = 1.0
        self.running = _Running()

    def run(self) -> TrainingHistory:
        start = self._resume()
        try:
            for epoch in range(start.epoch, self.settings.max_epochs):
                if self.num_worse >= self.settings.patience:
                    break
                self._train_epoch(epoch, start if epoch == start.epoch else Position(epoch))
                self._end_epoch(epoch)
                self._save(Position(epoch + 1))
        finally:
            self.stepper.abandon()
            if self.best:
                put_weights(self.model, self.objective, self.best)
            self.model.eval()
        return TrainingHistory(tuple(self.epochs), self.best_epoch)

    def _train_epoch(self, epoch: int, start: Position) -> None:
        self.model.train()
        running = self.running
        num_requests = self.train.num_requests_total
        asked = time.perf_counter()
        for position, batch in self.train.epoch(epoch, start=start):
            got = time.perf_counter()
            if self.settings.anneal_to < 1:
                done = (epoch + running.num_requests / num_requests) / self.settings.max_epochs
                self.stepper.optimizers.set_rate(self.drop * (1 - done * (1 - self.settings.anneal_to)))
            stepped = self.stepper.step(batch)
            running.loss += stepped.loss
            running.weight += stepped.weight
            running.num_requests += batch.features.num_requests
            running.num_candidates += batch.features.num_candidates
            running.num_cut_histories += _num_cut(batch.features)
            if self.on_step is not None:
                self.on_step(
                    StepReport(epoch, running.num_requests, running.num_candidates, num_requests, running.mean_loss)
                )
            now = time.perf_counter()
            running.reading_s += got - asked
            running.seconds += now - asked
            if self.checkpoints is not None and self.checkpoints.is_due(self.stepper.num_steps):
                self._save(position)
            asked = time.perf_counter()

    def _end_epoch(self, epoch: int) -> None:
        started = time.perf_counter()
        logits_C, labels_C, weights_C = predict_action(self.model, self.tune, 0)
        if not logits_C.isfinite().all():
            raise TrainingError(
                f"logits on tune are not finite after epoch {epoch}",
                found=f"{int((~logits_C.isfinite()).sum())} of {len(logits_C)}",
                do="lower the learning rates, or look for outliers among the numeric columns",
            )
        tune_log_loss = log_loss_from_logits(logits_C, labels_C, weights_C)
        tune_auc = auc(torch.sigmoid(logits_C.double()), labels_C, weights_C)
        monitor = self.settings.monitor
        if isinstance(monitor, Monitor):
            self.model.eval()
            monitored = monitor.value(self.model, self.tune)
        else:
            monitored = tune_log_loss if monitor == "log_loss" else tune_auc
        if math.isnan(monitored):
            raise TrainingError(
                f"{monitor} of action {self.model.schema.actions[0].name!r} is undefined on tune",
                found=f"{len(labels_C)} observed candidates, {int(labels_C.sum())} of them positive",
                do="give tune more requests, with weight and both labels",
            )
        running, self.running = self.running, _Running()
        self.epochs.append(
            EpochRecord(
                epoch=epoch,
                train_loss=running.mean_loss,
                tune_log_loss=tune_log_loss,
                tune_auc=tune_auc,
                learning_rate=self.stepper.optimizers.learning_rate,
                num_candidates=running.num_candidates,
                num_cut_histories=running.num_cut_histories,
                seconds=running.seconds,
                reading_s=running.reading_s,
                tune_s=time.perf_counter() - started,
                monitored=monitored,
            )
        )
        value = monitored if monitor == "log_loss" else -monitored
        if value < self.best_value:
            self.best_value, self.best_epoch, self.num_worse = value, epoch, 0
            # what no step will change needs no copy, which of a large table would be all its rows
            is_last = epoch + 1 == self.settings.max_epochs
            self.best = {} if is_last else copied_weights(self.model, self.objective)
        else:
            self.num_worse += 1
            self.drop *= self.settings.drop_factor
            self.stepper.optimizers.set_rate(self.drop)

    def _save(self, position: Position) -> None:
        if self.checkpoints is None:
            return
        best = {f"best/{name}": tensor for name, tensor in self.best.items()}
        progress = {
            "position": asdict(position),
            "step": self.stepper.num_steps,
            "epochs": [asdict(record) for record in self.epochs],
            "best": [self.best_epoch, self.best_value, self.num_worse, self.drop],
            "running": asdict(self.running),
        }
        self.checkpoints.save(Checkpoint(self.stepper.num_steps, {**self.stepper.tensors(), **best}, progress))

    def _resume(self) -> Position:
        checkpoint = self.checkpoints.go_on() if self.checkpoints is not None else None
        if checkpoint is None:
            return Position(0)
        progress: Mapping[str, Any] = checkpoint.progress
        self.stepper.go_on_from(checkpoint.tensors, progress["step"])
        self.epochs = [EpochRecord(**record) for record in progress["epochs"]]
        self.best_epoch, self.best_value, self.num_worse, self.drop = progress["best"]
        # not a map of the file
        self.best = {name: tensor.clone() for name, tensor in tensors_under("best", checkpoint.tensors).items()}
        self.running = _Running(**progress["running"])
        position = Position(**progress["position"])
        if self.on_resume is not None and checkpoint.written_at is not None:
            self.on_resume(Resumed(checkpoint.step, f"epoch {position.epoch + 1}", checkpoint.written_at))
        return position


@dataclass
class _Running:
    """Sums over the epoch under way."""

    loss: float = 0.0
    weight: float = 0.0
    num_requests: int = 0
    num_candidates: int = 0
    num_cut_histories: int = 0
    seconds: float = 0.0
    reading_s: float = 0.0

    @property
    def mean_loss(self) -> float:
        return self.loss / self.weight if self.weight else math.nan


def _num_cut(features: Features) -> int:
    counts = [events.num_cut_R for events in features.history.values()]
    return sum(int((cut_R > 0).sum()) for cut_R in counts if cut_R is not None)
