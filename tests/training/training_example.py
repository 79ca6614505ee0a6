"""A log whose truth is a logistic model, and short ways to train on it.

Letters: C candidates, flat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rankwell.data.batches import Batches
from rankwell.data.log import RequestLog, log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import NumericStatistics, measure_numerics
from rankwell.models.model import Model
from rankwell.models.wide_deep import (
    DeepSettings,
    Logistic,
    LogisticSettings,
    WideDeep,
    WideDeepSettings,
)
from rankwell.schema import Action, Categorical, Numeric, Schema
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.history import TrainingHistory
from rankwell.training.loop import LoopSettings, StepReport, fit
from rankwell.training.objectives import Objective, PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.resumed import Resumed
from rankwell.types import Batch, Encoded
from table_state import state_of

JOBS = Schema(
    features=(Categorical(name="job", num_ids=8), Numeric(name="match")),
    actions=(Action(name="click"),),
    request_id=None,
    member_id=None,
    time=None,
)
"""One job and one number a row; each row is a request."""

_ROWS = RowWiseAdaGrad(learning_rate=0.1, decay=0.02)
PLAN = OptimizerPlan(dense=DenseAdamW(learning_rate=0.02, decay=0.01), linear_rows=_ROWS, default_rows=_ROWS)
"""Everything moves, and everything decays."""

LOOP = LoopSettings(max_epochs=3, patience=3, checkpoint_every_steps=3)


def jobs_table(num_rows: int, seed: int) -> tuple[pa.Table, NDArray[np.float64]]:
    """Rows, and their true probabilities σ(w_job + 1.5·match - ½)."""
    rng = np.random.default_rng(seed)
    job_C, match_C = rng.integers(0, 8, num_rows), rng.normal(size=num_rows)
    true_C = 1 / (1 + np.exp(-(np.linspace(-2, 2, 8)[job_C] + 1.5 * match_C - 0.5)))
    clicked_C = (rng.random(num_rows) < true_C).astype(np.int8)
    return pa.table({"job": job_C, "match": match_C.astype(np.float32), "click": clicked_C}), true_C


def jobs_log(num_rows: int, seed: int) -> RequestLog:
    """A log of `jobs_table`."""
    return log_from_table(jobs_table(num_rows, seed)[0], JOBS)


def shuffled(log: RequestLog, num_requests: int, seed: int = 0) -> Batches:
    """All of a log as `train`."""
    return Batches(log, WholeLog("train"), "train", num_requests=num_requests, seed=seed)


def in_order(log: RequestLog, num_requests: int = 4096) -> Batches:
    """All of a log as `tune`."""
    return Batches(log, WholeLog("tune"), "tune", num_requests=num_requests, seed=None)


def statistics_of(log: RequestLog) -> NumericStatistics:
    """Of a whole log."""
    return measure_numerics((batch for _, batch in in_order(log).epoch(0)), log.schema)


def drawing_model(log: RequestLog, seed: int = 0) -> WideDeep:
    """Everything that draws or remembers: dropout, batch norm, dropped ids, late admission."""
    wide = LogisticSettings(default_rate=0.1, admission=2)
    deep = DeepSettings(width=4, hidden=(16, 8), dropout=0.2, batch_norm=True, default_rate=0.1, admission=2)
    return WideDeep(log.schema, statistics_of(log), WideDeepSettings(wide=wide, deep=deep), seed=seed)


def logistic(log: RequestLog, seed: int = 0) -> Logistic:
    """The class that the truth of `jobs_table` belongs to; no id is dropped, so that a step can be done by hand."""
    settings = LogisticSettings(default_rate=0.0, cross_default_rate=0.0)
    return Logistic(log.schema, statistics_of(log), settings, seed=seed)


class Shifted(Objective):
    """Cross-entropy after a bias that is the objective's own."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1))
        self.plain = PointwiseObjective(JOBS)

    def forward(self, encoded: Encoded, logits_CA: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See the class."""
        loss, count = self.plain(encoded, logits_CA + self.shift, batch)
        return loss, count


def fitted(
    model: Model,
    train: Batches,
    tune: Batches,
    loop: LoopSettings = LOOP,
    *,
    plan: OptimizerPlan = PLAN,
    seed: int = 0,
    checkpoints: Path | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_resume: Callable[[Resumed], None] | None = None,
    objective: Objective | None = None,
) -> TrainingHistory:
    """`fit`, by default with a pointwise objective."""
    objective = objective or PointwiseObjective(model.schema)
    return fit(
        model, objective, plan, train, tune, loop, seed=seed, checkpoints=checkpoints, on_step=on_step,
        on_resume=on_resume,
    )  # fmt: skip


def everything(model: Model) -> dict[str, Tensor]:
    """Copies of all that a model and its tables hold, optimizer state included."""
    held = {f"dense/{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    for part, table in model.tables.items():
        held |= {f"{part}/{name}": tensor.clone() for name, tensor in state_of(table).items()}
    return held


def without_times(history: TrainingHistory) -> list[dict[str, float]]:
    """The history, but for wall times."""
    times = {"seconds", "reading_s", "tune_s"}
    return [{k: v for k, v in asdict(record).items() if k not in times} for record in history.epochs]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether all tensors are equal in every bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
