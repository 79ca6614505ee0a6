"""A plan says where rows are kept; the model's answers don't depend on the place, and little on the precision."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import NumericStatistics
from rankwell.errors import RecipeError, SchemaError
from rankwell.models.model import Model
from rankwell.models.wide_deep import DeepSettings, WideDeep, WideDeepSettings
from rankwell.schema import Action, Categorical, Schema, TableSpec
from rankwell.tables.native import native
from rankwell.tables.storage import Eviction, Storage
from rankwell.training.loop import LoopSettings, fit
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan

SCHEMA = Schema(
    features=(Categorical(name="member", table="member"), Categorical(name="job", num_ids=20)),
    tables=(TableSpec(name="member", growing=True),),
    actions=(Action(name="click"),),
    request_id=None,
    member_id=None,
    time=None,
)


def trained(plan: OptimizerPlan, num_epochs: int = 2) -> Model:
    generator = torch.Generator().manual_seed(0)
    members = torch.randint(0, 2**63 - 1, (60,), generator=generator)[torch.randint(0, 60, (600,), generator=generator)]
    jobs = torch.randint(0, 20, (600,), generator=generator)
    clicks = (torch.rand(600, generator=generator) < torch.where(jobs < 10, 0.7, 0.2)).int()
    table = pa.table({"member": members.numpy(), "job": jobs.numpy(), "click": clicks.numpy()})
    log = log_from_table(table, SCHEMA)
    model = WideDeep(SCHEMA, NumericStatistics(), WideDeepSettings(deep=DeepSettings(width=4, hidden=(8,))), seed=0)
    train = Batches(log, WholeLog("train"), "train", num_requests=50, seed=0)
    tune = Batches(log, WholeLog("tune"), "tune", num_requests=600, seed=None)
    fit(model, PointwiseObjective(SCHEMA), plan, train, tune, LoopSettings(max_epochs=num_epochs), seed=0)
    return model


def answers(model: Model) -> torch.Tensor:
    members = torch.arange(10) * 10**17
    table = pa.table({"member": members.numpy(), "job": (members % 20).numpy(), "click": [0] * 10})
    batches = Batches(log_from_table(table, SCHEMA), WholeLog("test"), "test", num_requests=10, seed=None)
    with torch.no_grad():
        return torch.cat([model(batch.features) for batch in batches])


@pytest.mark.skipif(native is None, reason="files need the compiled extension")
def test_rows_in_files_answer_as_rows_in_memory(tmp_path: Path) -> None:
    in_memory = trained(OptimizerPlan())
    in_files = trained(OptimizerPlan(storage={part: Storage(folder=tmp_path) for part in ("wide", "deep")}))
    assert torch.equal(answers(in_memory), answers(in_files))
    assert (tmp_path / "deep" / "member.rows").exists()  # parts share names of tables and not their files
    assert (tmp_path / "wide" / "member.rows").exists()


def test_half_the_bytes_change_the_answers_little_but_not_nothing() -> None:
    whole, half = (
        answers(trained(OptimizerPlan())),
        answers(trained(OptimizerPlan(storage={"deep": Storage(dtype="bfloat16")}))),
    )
    assert not torch.equal(whole, half)
    assert torch.allclose(whole, half, atol=0.05)


def test_what_decides_the_outcome_tells_plans_apart_and_the_place_does_not(tmp_path: Path) -> None:
    def settings(**storage: object) -> object:
        return OptimizerPlan(storage={"deep": Storage(**storage)}).settings()["storage"]  # type: ignore[arg-type]

    assert settings(folder=tmp_path) == settings(folder=tmp_path / "elsewhere") == settings()
    assert settings(dtype="bfloat16") != settings()
    assert settings(eviction=Eviction(max_age_steps=100)) != settings()


def test_a_plan_for_a_part_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError, match="hasn't"):
        trained(OptimizerPlan(storage={"dep": Storage()}))


def test_evicting_where_nothing_grows_is_refused() -> None:
    schema = Schema(features=(Categorical(name="job", num_ids=5),), actions=(Action(name="click"),))
    model = WideDeep(schema, NumericStatistics(), seed=0)
    plan = OptimizerPlan(storage={"deep": Storage(eviction=Eviction(max_age_steps=100))})
    with pytest.raises(SchemaError, match="only growing tables"):
        plan.start(model, PointwiseObjective(schema))
