"""The plan: who is moved by what, how fast, how that is told, and that it survives.

Letters: C candidates, flat.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from training_example import JOBS, PLAN, Shifted, drawing_model, everything, in_order, jobs_log, logistic, same

from rankwell.errors import RecipeError
from rankwell.models.model import Model
from rankwell.tables.adagrad import AdaGrad, RowWiseAdaGrad
from rankwell.tables.loan import IdColumn
from rankwell.training.dense_optimizers import DenseAdaGrad, DenseAdamW, DenseSgd
from rankwell.training.objectives import Objective, PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan, Optimizers
from rankwell.types import Batch
from table_state import load_state, state_of

LOG = jobs_log(60, 1)
GROUPED = OptimizerPlan(
    dense=DenseAdamW(learning_rate=0.02), dense_groups={"deep": DenseSgd(learning_rate=0.1),
                                                        "deep.layers.0": DenseAdaGrad(learning_rate=0.3)}
)  # fmt: skip


def batch() -> Batch:
    return next(batch for _, batch in in_order(LOG).epoch(0))


def step(model: Model, optimizers: Optimizers, objective: Objective | None = None) -> None:
    torch.manual_seed(int(optimizers.learning_rate * 1e6))  # dropout
    model.train()
    objective, given = objective or PointwiseObjective(JOBS), batch()
    encoded = model.encode(given.features)
    loss, count = objective(encoded, model.head(encoded), given)
    (loss / count).backward()
    optimizers.step()


# --- tables ----------------------------------------------------------------------------------------------------------


def test_a_plan_for_a_table_that_is_not_there() -> None:
    rows = OptimizerPlan(rows={"deep": RowWiseAdaGrad(), "broad": AdaGrad()})
    with pytest.raises(
        RecipeError, match=r"tables that the model hasn't; found: \['broad', 'deep'\]; allowed: \['wide'\]"
    ):
        rows.start(logistic(LOG), PointwiseObjective(JOBS))
    with pytest.raises(RecipeError, match=r"tables that the model hasn't; found: \['broad'\]"):
        OptimizerPlan(clip_rows={"broad": 1.0}).describe(logistic(LOG), PointwiseObjective(JOBS))


def test_tables_get_the_rule_of_their_name_or_that_of_their_kind() -> None:
    linear, other, named = (RowWiseAdaGrad(learning_rate=rate) for rate in (0.1, 0.2, 0.3))
    for rows, expected in (
        ({}, {"wide": linear, "deep": other}),
        ({"deep": named}, {"wide": linear, "deep": named}),
        ({"wide": named}, {"wide": named, "deep": other}),
    ):
        model = drawing_model(LOG)
        plan = OptimizerPlan(rows=rows, linear_rows=linear, default_rows=other)
        plan.start(model, PointwiseObjective(JOBS))
        assert {part: table.rule for part, table in model.tables.items()} == expected


# --- groups of dense parameters --------------------------------------------------------------------------------------


def test_each_parameter_moves_by_the_longest_prefix_that_fits() -> None:
    """One step of a model whose groups have rules that are told apart by how far they move."""
    model = drawing_model(LOG)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizers = GROUPED.start(model, PointwiseObjective(JOBS))
    model.train()
    grads: dict[str, Tensor] = {}
    model(batch().features).sum().backward()
    for name, parameter in model.named_parameters():
        grads[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
    optimizers.step()
    seen = set()
    for name, parameter in model.named_parameters():
        grad, moved = grads[name], parameter.detach() - before[name]
        if name.startswith("deep.layers.0."):
            expected, group = -0.3 * grad.sign(), "adagrad"  # the first step of AdaGrad is η in every coordinate
        elif name.startswith("deep."):
            expected, group = -0.1 * grad, "sgd"
        else:
            expected, group = -0.02 * grad.sign(), "adamw"  # and so is Adam's
        large = (grad.abs() > 1e-4) | (grad == 0)
        torch.testing.assert_close(moved[large], expected[large], rtol=2e-3, atol=1e-6)
        seen |= {group} if large.any() and grad.any() else set()
    assert seen == {"adagrad", "sgd", "adamw"}


def test_a_prefix_ends_at_a_dot() -> None:
    """``deep.layers.1`` is not the beginning of ``deep.layers.10``."""
    model = drawing_model(LOG)
    lines = OptimizerPlan(dense_groups={"deep.layers.1": DenseSgd()}).describe(model, PointwiseObjective(JOBS))
    (line,) = [line for line in lines if line.name == "deep.layers.1"]
    norm = dict(model.named_modules())["deep.layers.1"]
    assert line.count == sum(p.numel() for p in norm.parameters()) > 0


@pytest.mark.parametrize("prefix", ["deep.layer", "wide.lookups", "deep.layers.0.weight.", "objective"])
def test_a_group_without_parameters_is_refused(prefix: str) -> None:
    plan = OptimizerPlan(dense_groups={prefix: DenseSgd()})
    with pytest.raises(RecipeError, match=r"hold no parameter of the model; found: \['.*'\]; allowed: \['wide.request"):
        plan.start(drawing_model(LOG), PointwiseObjective(JOBS))


def test_a_group_whose_parameters_are_all_in_longer_ones_is_refused() -> None:
    plan = OptimizerPlan(dense_groups={"last": DenseSgd(), "last.weight": DenseSgd(), "last.bias": DenseSgd()})
    with pytest.raises(RecipeError, match=r"found: \['last'\]"):
        plan.start(drawing_model(LOG), PointwiseObjective(JOBS))


def test_the_objectives_own_parameters_are_a_group_by_their_name() -> None:
    model, objective = logistic(LOG), Shifted()
    optimizers = OptimizerPlan(dense_groups={"objective.shift": DenseSgd(learning_rate=1e-30)}).start(model, objective)
    step(model, optimizers, objective)
    assert abs(objective.shift.item()) < 1e-29
    assert model.bias.item() != 0


def test_a_parameter_of_model_and_objective_is_moved_once() -> None:
    model = logistic(LOG)
    objective = Shifted()
    objective.shift = model.bias
    (*_, rest) = OptimizerPlan().describe(model, objective)
    assert rest.count == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"warm_up_steps": -1}, "warm_up_steps of the plan is out of range; found: -1"),
        ({"clip_norm": 0.0}, r"clips to norms that are out of range; found: {'clip_norm': 0.0}"),
        ({"clip_rows": {"wide": math.nan}}, r"out of range; found: {'wide': nan}"),
        ({"clip_dense": {"last": math.inf}}, r"out of range; found: {'last': inf}"),
        ({"clip_dense": {"last": 1.0}}, r"clips groups that it hasn't; found: \['last'\]; allowed: \[\]"),
        ({"dense_groups": {"": DenseSgd()}}, "a group of the plan has no prefix"),
    ],
)
def test_plans_out_of_range_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        OptimizerPlan(**wrong)  # type: ignore[arg-type]


# --- what is told at the start ---------------------------------------------------------------------------------------


def test_each_line_counts_what_is_there() -> None:
    plan = OptimizerPlan(
        dense=DenseAdamW(), dense_groups={"last": DenseSgd(momentum=0.0)}, rows={"deep": AdaGrad(learning_rate=0.3)},
        linear_rows=RowWiseAdaGrad(learning_rate=0.7), clip_rows={"wide": 2.0}, clip_dense={"last": 3.0},
    )  # fmt: skip
    model = drawing_model(LOG)
    lines = plan.describe(model, PointwiseObjective(JOBS))
    assert [(line.kind, line.name, line.clip_norm) for line in lines] == [
        ("rows", "wide", 2.0), ("rows", "deep", None), ("dense", "last", 3.0), ("dense", "", None)
    ]  # fmt: skip
    wide, deep, last, rest = lines
    assert (wide.rule, deep.rule, last.rule, rest.rule) == (
        plan.linear_rows, plan.rows["deep"], plan.dense_groups["last"], plan.dense
    )  # fmt: skip
    # 8 jobs, the default row and the missing one; a row of the wide part is one weight and one sum of squares
    assert (wide.count, wide.width, wide.value_bytes, wide.state_bytes) == (10, 1, 40, 40)
    assert (deep.count, deep.width, deep.value_bytes, deep.state_bytes) == (10, 4, 160, 160)
    assert (last.count, last.width, last.value_bytes, last.state_bytes) == (8 + 1, 1, 36, 0)
    num_parameters = sum(p.numel() for p in model.parameters())
    assert (rest.count, rest.state_bytes) == (num_parameters - 9, 2 * 4 * (num_parameters - 9))


def test_a_model_whose_every_parameter_has_a_group_has_no_rest() -> None:
    model = logistic(LOG)
    plan = OptimizerPlan(dense_groups={"wide": DenseSgd(), "bias": DenseSgd()})
    assert [line.name for line in plan.describe(model, PointwiseObjective(JOBS))] == ["wide", "wide", "bias"]
    step(model, plan.start(model, PointwiseObjective(JOBS)))
    assert model.bias.item() != 0


def test_settings_tell_plans_apart_but_not_the_order_of_names() -> None:
    one, other = DenseSgd(), DenseSgd(l2=0.1)
    plans = [OptimizerPlan(dense_groups=groups) for groups in ({"a": one, "b": other}, {"b": other, "a": one})]
    assert str(plans[0].settings()) == str(plans[1].settings())
    assert str(plans[0].settings()) != str(OptimizerPlan(dense_groups={"a": other, "b": one}).settings())
    assert set(plans[0].settings()) == {
        "dense", "dense_groups", "rows", "linear_rows", "default_rows", "storage", "warm_up_steps", "clip_norm",
        "clip_rows", "clip_dense",
    }  # fmt: skip


# --- rates -----------------------------------------------------------------------------------------------------------


def rates(model: Model, optimizers: Optimizers) -> list[float]:
    return [optimizers.learning_rate, *(model.tables[part].learning_rate for part in ("deep", "wide"))]


def rated(warm_up_steps: int = 0) -> OptimizerPlan:
    """Rates that are exact in binary."""
    return OptimizerPlan(
        dense=DenseAdamW(learning_rate=0.25), rows={"deep": AdaGrad(learning_rate=0.5)},
        linear_rows=RowWiseAdaGrad(learning_rate=1.0), warm_up_steps=warm_up_steps,
    )  # fmt: skip


def test_rates_are_shares_of_the_plans() -> None:
    model = drawing_model(LOG)
    optimizers = rated().start(model, PointwiseObjective(JOBS))
    for factor in (0.5, 0.25, 1.0):  # of the plan's, not of what was in force
        optimizers.set_rate(factor)
        assert rates(model, optimizers) == [0.25 * factor, 0.5 * factor, 1.0 * factor]


def test_rates_warm_up_linearly_and_multiply_with_the_loops_factor() -> None:
    model = drawing_model(LOG)
    optimizers = rated(warm_up_steps=4).start(model, PointwiseObjective(JOBS))
    for t, factor in enumerate((1.0, 1.0, 0.5, 0.5, 0.5, 1.0), 1):
        if factor != 1 or t == 6:
            optimizers.set_rate(factor)
        share = min(1.0, t / 4) * factor
        assert rates(model, optimizers) == [0.25 * share, 0.5 * share, 1.0 * share]
        step(model, optimizers)


def test_a_warm_up_moves_by_the_rate_of_its_step() -> None:
    """Adam's first step is η long whatever the gradient; so is AdaGrad's."""
    for warm_up_steps, share in ((0, 1.0), (1, 1.0), (8, 1 / 8)):
        model = logistic(LOG)
        plan = OptimizerPlan(dense=DenseAdamW(learning_rate=0.5), linear_rows=AdaGrad(learning_rate=0.25),
                             warm_up_steps=warm_up_steps)  # fmt: skip
        step(model, plan.start(model, PointwiseObjective(JOBS)))
        assert abs(model.bias.item()) == pytest.approx(0.5 * share, rel=1e-4)
        jobs = torch.unique(batch().features.candidates["job"])
        rows = model.tables["wide"].read([[IdColumn("job", jobs)]]).blocks[0]
        torch.testing.assert_close(rows.abs(), torch.full_like(rows, 0.25 * share), rtol=1e-4, atol=0)


# --- state -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plan",
    [PLAN, GROUPED, OptimizerPlan(dense=DenseSgd(momentum=0.0), warm_up_steps=3)],
    ids=["one group", "groups", "warm-up"],
)
def test_state_goes_on_bit_equal(plan: OptimizerPlan) -> None:
    """Two steps, the state through files' tensors into a fresh model, two more: as four in a row."""
    through, begun, fresh = (drawing_model(LOG) for _ in range(3))
    optimizers = {model: plan.start(model, PointwiseObjective(JOBS)) for model in (through, begun, fresh)}
    for _ in range(4):
        step(through, optimizers[through])
    for _ in range(2):
        step(begun, optimizers[begun])
    fresh.load_state_dict(begun.state_dict())
    state = optimizers[begun].state()
    assert all(isinstance(tensor, Tensor) for tensor in state.values())
    optimizers[fresh].load_state(state)
    for part, table in fresh.tables.items():
        load_state(table, state_of(begun.tables[part]))
    for _ in range(2):
        step(fresh, optimizers[fresh])
    assert same(everything(through), everything(fresh))
    again = optimizers[fresh].state()
    assert same(optimizers[through].state(), again)


def test_loaded_state_is_a_copy() -> None:
    one, other = logistic(LOG), logistic(LOG)
    first, second = (PLAN.start(model, PointwiseObjective(JOBS)) for model in (one, other))
    step(one, first)
    second.load_state(first.state())
    before = {name: tensor.clone() for name, tensor in first.state().items()}
    step(other, second)
    assert same(before, first.state())


def test_rates_survive_with_the_state() -> None:
    one, other = drawing_model(LOG), drawing_model(LOG)
    first, second = (rated(warm_up_steps=8).start(model, PointwiseObjective(JOBS)) for model in (one, other))
    first.set_rate(0.5)
    step(one, first)
    second.load_state(first.state())
    assert rates(one, first) == rates(other, second) == [0.25 / 8, 0.5 / 8, 1.0 / 8]  # half of 2 / 8
    second.set_rate(1.0)
    assert second.learning_rate == 0.25 * 2 / 8


def test_abandoned_loans_and_gradients_move_nothing() -> None:
    model = logistic(LOG)
    optimizers = OptimizerPlan(dense=DenseSgd(momentum=0.0), linear_rows=AdaGrad()).start(
        model, PointwiseObjective(JOBS)
    )
    jobs = batch().features.candidates["job"]
    assert isinstance(jobs, Tensor)
    step(model, optimizers)
    bias, rows = model.bias.detach().clone(), model.tables["wide"].read([[IdColumn("job", jobs)]]).blocks[0]
    assert rows.any()
    model.train()(batch().features).sum().backward()
    optimizers.abandon()
    optimizers.step()  # without decay or momentum, a step without gradients moves nothing
    assert torch.equal(model.tables["wide"].read([[IdColumn("job", jobs)]]).blocks[0], rows)
    assert torch.equal(model.bias, bias)
    assert model.bias.grad is None


def test_modules_without_parameters() -> None:
    """An objective without any, and a plan over a model's."""
    model = logistic(LOG)
    assert OptimizerPlan().describe(model, nn.Identity()) == OptimizerPlan().describe(model, PointwiseObjective(JOBS))
