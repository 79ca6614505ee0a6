"""Every row optimizer in `rankwell.tables` keeps the contract of its kind; a new one is found without an edit."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import torch
from torch import Tensor

import rankwell.tables
from rankwell.tables.row_optimizers import AdaGrad, RowOptimizer, RowWiseAdaGrad


def discovered() -> list[type[RowOptimizer]]:
    for module in pkgutil.iter_modules(rankwell.tables.__path__, "rankwell.tables."):
        importlib.import_module(module.name)
    found: list[type[RowOptimizer]] = []
    pending: list[type[RowOptimizer]] = list(RowOptimizer.__subclasses__())
    while pending:
        kind = pending.pop()
        pending.extend(kind.__subclasses__())
        found.append(kind)
    return sorted(found, key=lambda kind: kind.__name__)


RULES = discovered()


def test_discovery_finds_the_known_ones() -> None:
    assert {AdaGrad, RowWiseAdaGrad} <= set(RULES)


def start(rule: RowOptimizer, num_rows: int = 6, width: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(num_rows, width, generator=generator, dtype=torch.float64)
    return rows, torch.zeros(num_rows, rule.state_width(width), dtype=torch.float64)


def gradients(num_steps: int, num_rows: int = 6, width: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(num_rows, width, generator=generator, dtype=torch.float64) for _ in range(num_steps)]


@pytest.mark.parametrize("kind", RULES)
def test_rows_are_moved_independently_of_each_other(kind: type[RowOptimizer]) -> None:
    rule = kind(learning_rate=0.1)
    rows, state = start(rule)
    alone_rows, alone_state = rows[2:3].clone(), state[2:3].clone()
    for step, grads in enumerate(gradients(5), 1):
        rule.update(rows, grads, state, step, 0.1)
        rule.update(alone_rows, grads[2:3], alone_state, step, 0.1)
    assert torch.allclose(rows[2:3], alone_rows, atol=1e-12)
    assert torch.allclose(state[2:3], alone_state, atol=1e-12)


@pytest.mark.parametrize("kind", RULES)
def test_a_zero_gradient_moves_nothing_without_decay(kind: type[RowOptimizer]) -> None:
    rule = kind(learning_rate=0.1)
    rows, state = start(rule)
    before = rows.clone()
    rule.update(rows, torch.zeros_like(rows), state, 1, 0.1)
    assert torch.equal(rows, before)


@pytest.mark.parametrize("kind", RULES)
def test_it_descends_a_convex_bowl(kind: type[RowOptimizer]) -> None:
    rule = kind(learning_rate=0.1)
    rows, state = start(rule)
    first = rows.square().sum()
    for step in range(1, 301):
        rule.update(rows, 2 * rows, state, step, 0.1)
    assert rows.square().sum() < 0.05 * first


@pytest.mark.parametrize("kind", RULES)
def test_extreme_gradients_stay_finite(kind: type[RowOptimizer]) -> None:
    rule = kind(learning_rate=0.1)
    for scale in (1e-30, 1e30):
        rows, state = start(rule)
        for step, grads in enumerate(gradients(3), 1):
            rule.update(rows, grads * scale, state, step, 0.1)
        assert rows.isfinite().all()


@pytest.mark.parametrize("kind", RULES)
def test_the_learning_rate_in_force_is_obeyed(kind: type[RowOptimizer]) -> None:
    rule = kind(learning_rate=0.1)
    moves = []
    for rate in (0.1, 0.05):
        rows, state = start(rule)
        before = rows.clone()
        rule.update(rows, gradients(1)[0], state, 1, rate)
        moves.append(rows - before)
    assert torch.allclose(moves[0], 2 * moves[1], atol=1e-12)


@pytest.mark.parametrize("kind", RULES)
def test_decay_at_update_and_refresh_is_one_factor_a_step(kind: type[RowOptimizer]) -> None:
    rule = kind(learning_rate=0.1, decay=0.5)
    rows, state = start(rule)
    expected = rows * 0.95**7
    missed = torch.full((6,), 6 * rule.log_shrink(0.1), dtype=torch.float64)  # six steps missed
    rule.refresh(rows, state, missed)
    rule.update(rows, torch.zeros_like(rows), state, 10, 0.1)
    assert torch.allclose(rows, expected, atol=1e-12)


def test_row_wise_adagrad_against_a_plain_loop() -> None:
    rule = RowWiseAdaGrad(learning_rate=0.3, epsilon=1e-8)
    rows, state = start(rule)
    plain, sums = rows.tolist(), [0.0] * 6
    for step, grads in enumerate(gradients(10), 1):
        rule.update(rows, grads, state, step, 0.3)
        for u, grad in enumerate(grads.tolist()):
            sums[u] += sum(g * g for g in grad) / 4
            plain[u] = [w - 0.3 * g / (sums[u] ** 0.5 + 1e-8) for w, g in zip(plain[u], grad, strict=True)]
    assert torch.allclose(rows, torch.tensor(plain, dtype=torch.float64), atol=1e-12)


def test_adagrad_against_torch() -> None:
    rule = AdaGrad(learning_rate=0.3)
    rows, state = start(rule)
    reference = torch.nn.Parameter(rows.clone())
    optimizer = torch.optim.Adagrad([reference], lr=0.3, eps=1e-10)
    for step, grads in enumerate(gradients(10), 1):
        rule.update(rows, grads, state, step, 0.3)
        reference.grad = grads
        optimizer.step()
    assert torch.allclose(rows, reference, atol=1e-9)
