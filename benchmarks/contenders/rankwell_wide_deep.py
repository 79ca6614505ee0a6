"""Our Wide & Deep in our loop: `fit`, over batches that stand ready in memory or over our own reader of Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, final

import numpy as np
import pyarrow as pa
import torch

from contenders.turns import Turns
from contenders.wide_deep_sample import names_of
from rankwell.data.batches import Batches, Position
from rankwell.data.log import log_from_table, open_log
from rankwell.data.split import WholeLog
from rankwell.data.statistics import NumericStatistics
from rankwell.models.wide_deep import DeepSettings, LogisticSettings, WideDeep, WideDeepSettings
from rankwell.schema import Action, Categorical, Schema, TableSpec
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.loop import LoopSettings, fit
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.types import Batch

__all__ = ["model_of", "plan_of", "schema_of"]


def schema_of(num_fields: int, num_ids: int, *, growing: bool) -> Schema:
    """Fields of ids, each with a table of its own, and a click."""
    names = names_of(num_fields)
    return Schema(
        features=tuple(
            Categorical(name=name, table=name) if growing else Categorical(name=name, num_ids=num_ids) for name in names
        ),
        tables=tuple(TableSpec(name=name, growing=True) for name in names) if growing else (),
        actions=(Action(name="click"),),
        request_id=None,
        member_id=None,
        time=None,
    )


def model_of(schema: Schema, hidden: tuple[int, ...]) -> WideDeep:
    """Rows of 16 for the deep part and of 1 for the wide part; no id is dropped to the default row."""
    settings = WideDeepSettings(
        wide=LogisticSettings(default_rate=0.0), deep=DeepSettings(width=16, hidden=hidden, default_rate=0.0)
    )
    return WideDeep(schema, NumericStatistics(), settings, seed=0)


def plan_of() -> OptimizerPlan:
    """What the peers use, too."""
    rows = RowWiseAdaGrad(learning_rate=0.05)
    return OptimizerPlan(dense=DenseAdamW(learning_rate=1e-3), linear_rows=rows, default_rows=rows)


@final
class _Ready:
    """Batches that stand in memory, over and over: what a loop gets that has nothing to read."""

    def __init__(self, batches: list[Batch]) -> None:
        self._batches = batches
        self.num_requests_total = 10**12

    def epoch(self, epoch: int, *, start: Position | None = None) -> Iterator[tuple[Position, Batch]]:
        while True:
            for batch in self._batches:
                yield Position(epoch), batch


def main() -> None:
    turns = Turns()
    settings = turns.settings
    torch.set_num_threads(settings["threads"])
    schema = schema_of(settings["num_fields"], settings["size"], growing=settings["growing"])
    train = _batches_ready(settings, schema) if "ids" in settings else _batches_read(settings, schema)
    few = {name: np.zeros(2, np.int64) for name in names_of(settings["num_fields"])}
    tune_log = log_from_table(pa.table({**few, "click": np.array([0.0, 1.0], np.float32)}), schema)
    tune = Batches(tune_log, WholeLog("tune"), "tune", num_requests=2, seed=None)
    model = model_of(schema, tuple(settings["hidden"]))
    turns.facts = lambda: {"num_bytes": sum(table.num_bytes for table in model.tables.values())}
    loop = LoopSettings(
        max_epochs=1000, patience=1000, matmul_precision=settings["matmul_precision"], autocast=settings["autocast"]
    )
    turns.ready()
    fit(model, PointwiseObjective(schema), plan_of(), train, tune, loop, seed=0, on_step=lambda _: turns.step_done())


def _batches_ready(settings: dict[str, Any], schema: Schema) -> Batches:
    ready = []
    for ids_FB, labels_B in zip(np.load(settings["ids"]), np.load(settings["labels"]), strict=True):
        columns = dict(zip(names_of(len(ids_FB)), ids_FB, strict=True))
        log = log_from_table(pa.table({**columns, "click": labels_B}), schema)
        ready += list(Batches(log, WholeLog("train"), "train", num_requests=len(labels_B), seed=None))
    return cast(Batches, _Ready(ready))


def _batches_read(settings: dict[str, Any], schema: Schema) -> Batches:
    log = open_log(Path(settings["parquet"]), schema, layout="flat")
    return Batches(log, WholeLog("train"), "train", num_requests=settings["batch"], seed=0)


if __name__ == "__main__":
    main()
