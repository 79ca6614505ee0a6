"""The plan as a reader sees it."""

from __future__ import annotations

import io
import re

from rich.console import Console

from rankwell.app.plan_table import plan_printer
from rankwell.data.statistics import NumericStatistics
from rankwell.models.wide_deep import WideDeep
from rankwell.schema import Action, Categorical, Schema
from rankwell.tables.adagrad import AdaGrad, RowWiseAdaGrad
from rankwell.training.dense_optimizers import DenseAdamW, DenseSgd
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan

SCHEMA = Schema(features=(Categorical(name="job", num_ids=998),), actions=(Action(name="click"),))


def printed(plan: OptimizerPlan) -> list[list[str]]:
    """The cells of each printed line."""
    console = Console(file=io.StringIO(), width=160)
    model = WideDeep(SCHEMA, NumericStatistics(), seed=0)
    plan_printer(console, "jobs", plan)(plan.describe(model, PointwiseObjective(SCHEMA)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines()]


def test_a_line_for_each_table_and_group_with_what_they_take() -> None:
    plan = OptimizerPlan(
        dense=DenseAdamW(decay=0.5), dense_groups={"last": DenseSgd(learning_rate=0.2)},
        linear_rows=AdaGrad(learning_rate=1.0), rows={"deep": RowWiseAdaGrad(decay=2.0)},
    )  # fmt: skip
    lines = printed(plan)
    assert ["what", "moves by", "rate", "size", "values", "state", "B/row"] in lines
    assert ["rows wide", "AdaGrad", "1", "1,000 × 1", "4.00 kB", "4.00 kB", "8"] in lines
    assert ["rows deep", "RowWiseAdaGrad, decay 2.0", "0.05", "1,000 × 16", "64.0 kB", "4.00 kB", "68"] in lines
    assert ["dense last", "DenseSgd", "0.2", "129", "516 B", "516 B", "–"] in lines
    # 16 · 256 + 256 and 256 · 128 + 128, two means each; the wide part's numeric weights are 0 × 1
    assert ["dense", "DenseAdamW, decay 0.5", "0.001", "37,248", "149 kB", "298 kB", "–"] in lines
    assert not any("warm" in cell or "clip" in cell for line in lines for cell in line)


def test_clips_and_warm_up_are_said() -> None:
    lines = printed(OptimizerPlan(warm_up_steps=2000, clip_norm=1.5, clip_rows={"deep": 0.25}))
    (deep,) = [line for line in lines if line[0] == "rows deep"]
    (wide,) = [line for line in lines if line[0] == "rows wide"]
    assert "clip" in next(line for line in lines if line[0] == "what")
    assert (deep[3], wide[3]) == ("0.25", "–")
    said = " ".join(line[0] for line in lines if len(line) == 1)  # a caption is broken where the table ends
    assert "rates warm up over 2,000 steps; all gradients together are clipped to norm 1.5" in said
