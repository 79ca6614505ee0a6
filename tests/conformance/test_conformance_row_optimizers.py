"""Every row optimizer in `rankwell.tables` keeps the contract of its kind; a new one is found without an edit."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import rankwell.tables
from rankwell.schema import TableSpec
from rankwell.tables.row_map import NUM_OWN_ROWS
from rankwell.tables.row_optimizers import AdaGrad, RowOptimizer, RowWiseAdaGrad
from rankwell.tables.table import IdColumn, Table


def discovered() -> list[type[RowOptimizer]]:
    for module in pkgutil.iter_modules(rankwell.tables.__path__, "rankwell.tables."):
        importlib.import_module(module.name)
    found: list[type[RowOptimizer]] = []
    pending: list[type[RowOptimizer]] = list(RowOptimizer.__subclasses__())
    while pending:
        kind = pending.pop()
        pending.extend(kind.__subclasses__())
        if not inspect.isabstract(kind) and kind.__module__.startswith("rankwell."):
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


def plain_adagrad(rows: Tensor, all_grads: list[Tensor], learning_rate: float) -> Tensor:
    parameter = torch.nn.Parameter(rows.clone())
    optimizer = torch.optim.Adagrad([parameter], lr=learning_rate, eps=1e-10)
    for grads in all_grads:
        parameter.grad = grads
        optimizer.step()
    return parameter.detach()


def plain_row_wise_adagrad(rows: Tensor, all_grads: list[Tensor], learning_rate: float) -> Tensor:
    plain, sums = rows.tolist(), [0.0] * len(rows)
    for grads in all_grads:
        for u, grad in enumerate(grads.tolist()):
            sums[u] += sum(g * g for g in grad) / len(grad)
            step = learning_rate / (sums[u] ** 0.5 + 1e-10)
            plain[u] = [w - step * g for w, g in zip(plain[u], grad, strict=True)]
    return torch.tensor(plain, dtype=rows.dtype)


REFERENCES: dict[type[RowOptimizer], Callable[[Tensor, list[Tensor], float], Tensor]] = {
    AdaGrad: plain_adagrad,
    RowWiseAdaGrad: plain_row_wise_adagrad,
}
"""The rows after updates with all else at the rule's defaults: torch's own, or a loop that anyone can read."""


def test_every_rule_brings_its_reference() -> None:
    assert set(REFERENCES) == set(RULES)


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("learning_rate", [0.3, 0.01])
def test_with_every_row_in_every_batch_it_is_its_reference(kind: type[RowOptimizer], learning_rate: float) -> None:
    rule = kind(learning_rate=learning_rate)
    rows, state = start(rule)
    expected = REFERENCES[kind](rows.clone(), gradients(20), learning_rate)
    for step, grads in enumerate(gradients(20), 1):
        rule.update(rows, grads, state, step, learning_rate)
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-6)


def new_table(rule: RowOptimizer) -> Table:
    table = Table([TableSpec(name="job", num_ids=20)], width=3, seed=1, init_scale=0.1)
    table.train_with(rule)
    return table


def train(table: Table, *ids: int) -> None:
    loan = table.checkout([IdColumn("job", torch.tensor(ids))])
    (loan.rows_UW[loan.index_n] - torch.tensor([1.0, -2.0, 0.5])).square().sum().backward()
    table.apply()


@pytest.mark.parametrize("kind", RULES)
def test_rows_not_lent_are_bit_equal(kind: type[RowOptimizer]) -> None:
    table = new_table(kind(learning_rate=0.5))
    train(table, 1, 2, 3)
    before = {name: tensor.clone() for name, tensor in table.state().items()}
    train(table, 3, 5, 3)
    for name in ("rows", "state"):
        moved = (table.state()[name] != before[name]).any(dim=1).nonzero().squeeze(1).tolist()
        assert moved == ([3 + NUM_OWN_ROWS, 5 + NUM_OWN_ROWS] if before[name].shape[1] else []), name


@pytest.mark.parametrize("kind", RULES)
def test_a_row_used_several_times_is_moved_once_by_the_sum(kind: type[RowOptimizer]) -> None:
    table = new_table(kind(learning_rate=0.5))
    lent = table.rows[[7 + NUM_OWN_ROWS, 3 + NUM_OWN_ROWS]].double()
    uses, goal = torch.tensor([[3.0], [1.0]], dtype=torch.float64), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for _ in range(3):
        train(table, 7, 3, 7, 7)
    expected, state = lent.clone(), torch.zeros(2, kind(learning_rate=0.5).state_width(3), dtype=torch.float64)
    for step in (1, 2, 3):
        kind(learning_rate=0.5).update(expected, uses * 2 * (expected - goal), state, step, 0.5)
    moved = table.rows[[7 + NUM_OWN_ROWS, 3 + NUM_OWN_ROWS]].double()
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-6)
