"""Optimizers: who is moved by what, how fast, and that their state survives.

Letters: C candidates, flat.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from training_example import JOBS, PLAN, drawing_model, everything, in_order, jobs_log, logistic, same

from rankwell.errors import RecipeError, TrainingError
from rankwell.models.model import Model
from rankwell.tables.row_optimizers import AdaGrad, RowWiseAdaGrad
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import DenseAdamW, OptimizerPlan, Optimizers
from rankwell.types import Batch

LOG = jobs_log(60, 1)


def batch() -> Batch:
    return next(batch for _, batch in in_order(LOG).epoch(0))


def step(model: Model, optimizers: Optimizers) -> None:
    torch.manual_seed(int(optimizers.learning_rate * 1e6))  # dropout
    model.train()
    objective, given = PointwiseObjective(JOBS), batch()
    encoded = model.encode(given.features)
    loss, count = objective(encoded, model.head(encoded), given)
    (loss / count).backward()
    optimizers.step()


def test_a_plan_for_a_table_that_is_not_there() -> None:
    plan = OptimizerPlan(rows={"deep": RowWiseAdaGrad(), "broad": AdaGrad()})
    with pytest.raises(
        RecipeError, match=r"tables that the model hasn't; found: \['broad', 'deep'\]; allowed: \['wide'\]"
    ):
        plan.start(logistic(LOG), PointwiseObjective(JOBS))


def test_tables_get_the_rule_of_their_name_or_the_default() -> None:
    model = drawing_model(LOG)
    plan = OptimizerPlan(rows={"deep": AdaGrad(learning_rate=0.3)}, default_rows=RowWiseAdaGrad(learning_rate=0.7))
    plan.start(model, PointwiseObjective(JOBS))
    assert model.tables["deep"].rule == AdaGrad(learning_rate=0.3)
    assert model.tables["wide"].rule == RowWiseAdaGrad(learning_rate=0.7)


def test_dense_steps_are_those_of_adamw_and_only_matrices_decay() -> None:
    """Against the formula of the paper, element by element, in float64."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    dense = DenseAdamW(learning_rate=0.1, betas=(0.8, 0.95), epsilon=1e-6, decay=0.5).build(layer)
    expected = {name: p.detach().clone() for name, p in layer.named_parameters()}
    mean = {name: torch.zeros_like(p) for name, p in expected.items()}
    square = {name: torch.zeros_like(p) for name, p in expected.items()}
    for t in range(1, 4):
        dense.zero_grad()
        layer(torch.arange(12.0, dtype=torch.float64).view(4, 3).sin() * t).pow(3).sum().backward()
        for name, parameter in layer.named_parameters():
            grad = parameter.grad
            assert grad is not None
            mean[name] = 0.8 * mean[name] + 0.2 * grad
            square[name] = 0.95 * square[name] + 0.05 * grad**2
            if name == "0.weight":
                expected[name] = expected[name] * (1 - 0.1 * 0.5)
            step_size = (mean[name] / (1 - 0.8**t)) / ((square[name] / (1 - 0.95**t)).sqrt() + 1e-6)
            expected[name] = expected[name] - 0.1 * step_size
        dense.step()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-9, atol=1e-12)


def test_a_parameter_of_model_and_objective_is_moved_once() -> None:
    layer = nn.Linear(2, 1)
    both = DenseAdamW(learning_rate=0.1).build(layer, nn.Sequential(layer, nn.Linear(1, 1)))
    assert sum(len(group["params"]) for group in both.param_groups) == 4


@pytest.mark.parametrize("module", [nn.ReLU(), nn.BatchNorm1d(3), nn.Bilinear(2, 2, 1, bias=False)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_modules_without_matrices_vectors_or_anything(module: nn.Module, decay: float) -> None:
    optimizer = DenseAdamW(decay=decay).build(module)
    assert isinstance(optimizer, AdamW)
    optimizer.step()
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(module.parameters()))


def test_state_goes_on_bit_equal() -> None:
    """Two steps, the state through files' tensors into a fresh model, two more: as four in a row."""
    through, begun, fresh = (drawing_model(LOG) for _ in range(3))
    optimizers = {model: PLAN.start(model, PointwiseObjective(JOBS)) for model in (through, begun, fresh)}
    for _ in range(4):
        step(through, optimizers[through])
    for _ in range(2):
        step(begun, optimizers[begun])
    fresh.load_state_dict(begun.state_dict())
    state = optimizers[begun].state()
    assert all(isinstance(tensor, Tensor) for tensor in state.values())
    optimizers[fresh].load_state(state)
    for part, table in fresh.tables.items():
        table.load_state(begun.tables[part].state())
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


def test_rates_are_shares_of_the_plans() -> None:
    model = drawing_model(LOG)
    plan = OptimizerPlan(
        dense=DenseAdamW(learning_rate=0.2, decay=0.1), rows={"deep": AdaGrad(learning_rate=0.4)},
        default_rows=RowWiseAdaGrad(learning_rate=0.8),
    )  # fmt: skip
    optimizers = plan.start(model, PointwiseObjective(JOBS))
    for factor in (0.5, 0.25, 1.0):  # of the plan's, not of what was in force
        optimizers.set_rate(factor)
        rates = [optimizers.learning_rate, *(model.tables[part].learning_rate for part in ("deep", "wide"))]
        assert rates == [0.2 * factor, 0.4 * factor, 0.8 * factor]


def test_rates_survive_with_the_state() -> None:
    one, other = logistic(LOG), logistic(LOG)
    first, second = (PLAN.start(model, PointwiseObjective(JOBS)) for model in (one, other))
    first.set_rate(0.5)
    second.load_state(first.state())
    assert second.learning_rate == first.learning_rate == 0.01
    second.set_rate(1.0)
    assert second.learning_rate == 0.02


def test_abandoned_loans_and_gradients_move_nothing() -> None:
    model = logistic(LOG)
    optimizers = PLAN.start(model, PointwiseObjective(JOBS))
    bias, rows = model.bias.detach().clone(), model.tables["wide"].rows.clone()
    model.train()(batch().features).sum().backward()
    optimizers.abandon()
    optimizers.step()
    assert torch.equal(model.bias, bias)
    assert torch.equal(model.tables["wide"].rows, rows)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"learning_rate": 0.0}, "dense learning_rate is out of range; found: 0.0"),
        ({"learning_rate": math.nan}, "dense learning_rate"),
        ({"learning_rate": math.inf}, "dense learning_rate"),
        ({"decay": -1.0}, "dense decay is out of range; found: -1.0"),
        ({"learning_rate": 0.5, "decay": 2.0}, "dense decay"),
        ({"betas": (0.9, 1.0)}, "betas or epsilon"),
        ({"epsilon": 0.0}, "betas or epsilon"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        DenseAdamW(**wrong)  # type: ignore[arg-type]
