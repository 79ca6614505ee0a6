"""Settings of torch's optimizers: their formulas, what decays, what they remember, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rankwell.errors import TrainingError
from rankwell.training.dense_optimizers import DenseAdaGrad, DenseAdamW, DenseOptimizer, DenseSgd

EVERY = (
    DenseAdamW(), DenseAdamW(decay=0.1), DenseSgd(), DenseSgd(momentum=0.0, l2=0.1), DenseSgd(l2=0.1), DenseAdaGrad()
)  # fmt: skip


def layer() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()


def steps(module: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int = 3) -> list[dict[str, Tensor]]:
    """So many steps; the gradients of each."""
    grads = []
    for t in range(1, num_steps + 1):
        optimizer.zero_grad()
        module(torch.arange(12.0, dtype=torch.float64).view(4, 3).sin() * t).pow(3).sum().backward()
        grads.append({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})
        optimizer.step()
    return grads


def test_adamw_is_that_of_the_paper_and_only_matrices_decay() -> None:
    """Element by element, in float64."""
    module = layer()
    expected = {name: p.detach().clone() for name, p in module.named_parameters()}
    settings = DenseAdamW(learning_rate=0.1, betas=(0.8, 0.95), epsilon=1e-6, decay=0.5)
    grads = steps(module, settings.build(list(module.parameters())))
    for name, parameter in module.named_parameters():
        mean, square, value = torch.zeros_like(parameter), torch.zeros_like(parameter), expected[name]
        for t, grad in enumerate(grads, 1):
            mean = 0.8 * mean + 0.2 * grad[name]
            square = 0.95 * square + 0.05 * grad[name] ** 2
            if name == "0.weight":
                value = value * (1 - 0.1 * 0.5)
            value = value - 0.1 * (mean / (1 - 0.8**t)) / ((square / (1 - 0.95**t)).sqrt() + 1e-6)
        torch.testing.assert_close(parameter.detach(), value.detach(), rtol=1e-9, atol=1e-12)


def test_sgd_has_a_velocity_and_penalises_matrices_alone() -> None:
    module = layer()
    expected = {name: p.detach().clone() for name, p in module.named_parameters()}
    grads = steps(module, DenseSgd(learning_rate=0.01, momentum=0.7, l2=0.3).build(list(module.parameters())))
    for name, parameter in module.named_parameters():
        velocity, value = torch.zeros_like(parameter), expected[name]
        for grad in grads:
            penalty = 0.3 * value if name == "0.weight" else 0.0
            velocity = 0.7 * velocity + grad[name] + penalty
            value = value - 0.01 * velocity
        torch.testing.assert_close(parameter.detach(), value.detach(), rtol=1e-9, atol=1e-12)


def test_adagrad_divides_by_the_root_of_all_squares() -> None:
    module = layer()
    expected = {name: p.detach().clone() for name, p in module.named_parameters()}
    grads = steps(module, DenseAdaGrad(learning_rate=0.1, epsilon=1e-3).build(list(module.parameters())))
    for name, parameter in module.named_parameters():
        squares, value = torch.zeros_like(parameter), expected[name]
        for grad in grads:
            squares = squares + grad[name] ** 2
            value = value - 0.1 * grad[name] / (squares.sqrt() + 1e-3)
        torch.testing.assert_close(parameter.detach(), value.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("settings", EVERY, ids=repr)
def test_what_they_remember_is_what_they_say(settings: DenseOptimizer) -> None:
    module = layer()
    optimizer = settings.build(list(module.parameters()))
    steps(module, optimizer)
    remembered = sum(
        entry.numel() for entries in optimizer.state.values() for name, entry in entries.items()
        if name != "step" and entry is not None
    )  # fmt: skip
    assert remembered == settings.state_per_value * sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("module", [nn.ReLU(), nn.BatchNorm1d(3), nn.Bilinear(2, 2, 1, bias=False)], ids=repr)
@pytest.mark.parametrize("settings", EVERY, ids=repr)
def test_without_matrices_vectors_or_anything(module: nn.Module, settings: DenseOptimizer) -> None:
    optimizer = settings.build(list(module.parameters()))
    optimizer.step()
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(module.parameters()))


@pytest.mark.parametrize("kind", [DenseAdamW, DenseSgd, DenseAdaGrad])
@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_rates_out_of_range_are_refused(kind: type[DenseAdamW | DenseSgd | DenseAdaGrad], rate: float) -> None:
    with pytest.raises(TrainingError, match=f"dense learning_rate is out of range; found: {rate}"):
        kind(learning_rate=rate)


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (DenseAdamW, {"decay": -1.0}, "dense decay is out of range; found: -1.0"),
        (DenseAdamW, {"learning_rate": 0.5, "decay": 2.0}, "dense decay"),
        (DenseAdamW, {"decay": math.nan}, "dense decay"),
        (DenseAdamW, {"betas": (0.9, 1.0)}, "betas or epsilon"),
        (DenseAdamW, {"epsilon": 0.0}, "betas or epsilon"),
        (DenseSgd, {"momentum": 1.0}, "momentum or l2"),
        (DenseSgd, {"momentum": -0.1}, "momentum or l2"),
        (DenseSgd, {"l2": -0.1}, "momentum or l2"),
        (DenseSgd, {"l2": math.nan}, "momentum or l2"),
        (DenseAdaGrad, {"epsilon": 0.0}, "epsilon of the dense optimizer"),
    ],
)
def test_settings_out_of_range_are_refused(kind: type, wrong: dict[str, float], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        kind(**wrong)
