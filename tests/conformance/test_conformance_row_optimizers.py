"""Every row rule in `rankwell.tables` keeps the contract of its kind; a new one is found without an edit.

Letters: U rows · W row width · S state columns.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import rankwell.tables
from rankwell.errors import TrainingError
from rankwell.schema import TableSpec
from rankwell.tables.adagrad import AdaGrad, RowWiseAdaGrad
from rankwell.tables.adam import Adam
from rankwell.tables.clock import Clock
from rankwell.tables.ftrl import Ftrl
from rankwell.tables.lazy_adam import LazyAdam
from rankwell.tables.momentum import Momentum
from rankwell.tables.native import native
from rankwell.tables.rms_prop import RmsProp
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.sgd import Sgd
from row_schedule import NUM_ROWS, Schedule, Twin, every_row, play
from table_play import lend, new_table, read, stored, train_on


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
each_rule = pytest.mark.parametrize("kind", RULES)


def test_discovery_finds_the_known_ones() -> None:
    assert {Sgd, AdaGrad, RowWiseAdaGrad} <= set(RULES)


def variants(kind: type[RowOptimizer]) -> list[RowOptimizer]:
    """The rule as it stands, and with what all rules share, where it takes that."""
    rules: list[RowOptimizer] = [kind(learning_rate=0.3)]
    for shared in ({"decay": 0.1}, {"group_lasso": 0.1}):
        try:
            rules.append(kind(learning_rate=0.3, **shared))
        except TrainingError:
            assert kind is Ftrl
    return rules


def one_step(rule: RowOptimizer, rows: Tensor, grads: Tensor, rate: float = 0.1) -> tuple[Tensor, Tensor]:
    """Rows and state after the first step of all."""
    clock, moved = Clock(decay=rule.decay), rows.clone()
    state = torch.zeros(len(rows), rule.state_width(rows.shape[1]), dtype=rows.dtype)
    clock.tick(rate)
    rule.update(moved, grads, state, torch.zeros(len(rows), dtype=torch.int64), clock)
    return moved, state


def torch_rows(
    kind: type[torch.optim.Optimizer], schedule: Schedule, *, sparse: bool = False, **settings: float
) -> Tensor:
    parameter = torch.nn.Parameter(schedule.start())
    optimizer = kind([parameter], lr=0.1, **settings)
    for rate, grads in zip(schedule.rates, schedule.gradients(), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = grads.to_sparse(1) if sparse else grads
        optimizer.step()
    return parameter.detach()


def plain_row_wise_adagrad(schedule: Schedule) -> Tensor:
    rows, sums = schedule.start().tolist(), [0.0] * NUM_ROWS
    for rate, grads in zip(schedule.rates, schedule.gradients(), strict=True):
        for u, grad in enumerate(grads.tolist()):
            sums[u] += sum(g * g for g in grad) / len(grad)
            step = rate / (sums[u] ** 0.5 + 1e-10)
            rows[u] = [w - step * g for w, g in zip(rows[u], grad, strict=True)]
    return torch.tensor(rows, dtype=torch.float64)


def plain_ftrl(schedule: Schedule) -> Tensor:
    """From 0 and without penalties, FTRL-proximal is w ← w - η g / (β + √n) under any learning rates."""
    rows = [[0.0] * schedule.width for _ in range(NUM_ROWS)]
    sums = [[0.0] * schedule.width for _ in range(NUM_ROWS)]
    for rate, grads in zip(schedule.rates, schedule.gradients(), strict=True):
        for u, grad in enumerate(grads.tolist()):
            for i, g in enumerate(grad):
                sums[u][i] += g * g
                rows[u][i] -= rate * g / (1e-4 + math.sqrt(sums[u][i]))
    return torch.tensor(rows, dtype=torch.float64)


REFERENCES: dict[type[RowOptimizer], Callable[[Schedule], Tensor]] = {
    Sgd: lambda schedule: torch_rows(torch.optim.SGD, schedule),
    Momentum: lambda schedule: torch_rows(torch.optim.SGD, schedule, momentum=0.9),
    AdaGrad: lambda schedule: torch_rows(torch.optim.Adagrad, schedule),
    RowWiseAdaGrad: plain_row_wise_adagrad,
    RmsProp: lambda schedule: torch_rows(torch.optim.RMSprop, schedule),
    LazyAdam: lambda schedule: torch_rows(torch.optim.SparseAdam, schedule, sparse=True),
    Adam: lambda schedule: torch_rows(torch.optim.Adam, schedule),
    Ftrl: plain_ftrl,
}
"""Rows after a schedule with all else at the rule's defaults: torch's own, or a loop that anyone can read."""


def test_every_rule_brings_its_reference() -> None:
    assert set(REFERENCES) == set(RULES)


@each_rule
@pytest.mark.parametrize("schedule", [every_row(40), every_row(40, scale=1e-3, width=1, seed=7)])
def test_with_every_row_in_every_batch_it_is_its_reference(kind: type[RowOptimizer], schedule: Schedule) -> None:
    rows, _ = play(kind(learning_rate=0.1), schedule)
    torch.testing.assert_close(rows, REFERENCES[kind](schedule), rtol=0, atol=1e-12)


@each_rule
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_compiled_twin_is_its_equal(kind: type[RowOptimizer], dtype: torch.dtype) -> None:
    if native is None:
        pytest.skip("the tables were installed without their compiled part")
    lent = [[k % NUM_ROWS] if k % 3 else [0, 1 + k % 4] for k in range(60)] + [[]] * 200
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for rule in variants(kind):
        for width in (1, 7, 16):
            schedule = Schedule(lent, [0.3 / (1 + 0.1 * k) for k in range(260)], seed=width, width=width)
            for found, expected in zip(
                play(Twin(rule), schedule, dtype=dtype), play(rule, schedule, dtype=dtype), strict=True
            ):
                torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@each_rule
def test_rows_are_moved_independently_of_each_other(kind: type[RowOptimizer]) -> None:
    for rule in variants(kind):
        schedule = every_row(5)
        rows = torch.zeros(NUM_ROWS, 3, dtype=torch.float64) if rule.starts_at_zero else schedule.start()
        alone, clock = rows[2:3].clone(), Clock(decay=rule.decay)
        state = torch.zeros(NUM_ROWS, rule.state_width(3), dtype=torch.float64)
        alone_state, last = state[2:3].clone(), torch.zeros(NUM_ROWS, dtype=torch.int64)
        for rate, grads in zip(schedule.rates, schedule.gradients(), strict=True):
            clock.tick(rate)
            rule.update(rows, grads, state, last, clock)
            rule.update(alone, grads[2:3], alone_state, last[2:3], clock)
            last += 1
        torch.testing.assert_close(rows[2:3], alone, rtol=0, atol=1e-12)
        torch.testing.assert_close(state[2:3], alone_state, rtol=0, atol=1e-12)


@each_rule
def test_a_zero_gradient_moves_nothing_at_first(kind: type[RowOptimizer]) -> None:
    rule = kind(learning_rate=0.1)
    rows = torch.zeros(2, 3) if rule.starts_at_zero else torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    moved, state = one_step(rule, rows, torch.zeros_like(rows))
    assert torch.equal(moved, rows)
    assert (state[:, :6] == 0).all()


@each_rule
def test_it_descends_a_convex_bowl(kind: type[RowOptimizer]) -> None:
    rule, clock, goal = kind(learning_rate=0.1), Clock(), torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    rows, state = torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1, rule.state_width(3), dtype=torch.float64)
    for step in range(300):
        clock.tick(0.1)
        rule.update(rows, 2 * (rows - goal), state, torch.tensor([step]), clock)
    assert (rows - goal).square().sum() < 0.05 * goal.square().sum()


@each_rule
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_gradients_leave_numbers(kind: type[RowOptimizer], scale: float) -> None:
    schedule = Schedule([range(NUM_ROWS)] * 3 + [[]] * 3 + [range(NUM_ROWS)], [0.1] * 7, 0, scale=scale)
    for rule in variants(kind):
        for player in (rule, Twin(rule)) if native is not None else (rule,):
            rows, state = play(player, schedule, dtype=torch.float32)
            assert rows.isfinite().all()
            assert state.isfinite().all()


@each_rule
def test_the_learning_rate_in_force_is_obeyed(kind: type[RowOptimizer]) -> None:
    rule, rows, grads = kind(learning_rate=0.1), torch.zeros(4, 3, dtype=torch.float64), every_row(1).gradients()[0][:4]
    moves = [one_step(rule, rows, grads, rate)[0] for rate in (0.1, 0.05)]
    assert (moves[0] != 0).all()
    torch.testing.assert_close(moves[0], 2 * moves[1], rtol=0, atol=1e-12)


@each_rule
def test_decay_is_one_factor_a_step_at_update_and_refresh(kind: type[RowOptimizer]) -> None:
    for rule in variants(kind):
        if not rule.decay:
            continue
        rows, clock = every_row(1).start(), Clock(decay=rule.decay)
        expected, state = rows.clone(), torch.zeros(NUM_ROWS, rule.state_width(3), dtype=torch.float64)
        last = torch.zeros(NUM_ROWS, dtype=torch.int64)
        for step in range(1, 8):
            clock.tick(0.3 / step)
            expected *= 1 - 0.3 / step * 0.1
        rule.refresh(rows, state, last, clock)
        clock.tick(0.2)
        rule.update(rows, torch.zeros_like(rows), state, last + 7, clock)
        torch.testing.assert_close(rows, expected * (1 - 0.2 * 0.1), rtol=0, atol=1e-12)


@each_rule
def test_two_refreshes_are_one(kind: type[RowOptimizer]) -> None:
    """Whoever reads a row in between changes nothing."""
    for rule in variants(kind):
        schedule = every_row(1)
        start = torch.zeros(NUM_ROWS, 3, dtype=torch.float64) if rule.starts_at_zero else schedule.start()
        moved, moved_state = one_step(rule, start, schedule.gradients()[0])
        often, often_state, once, once_state = moved.clone(), moved_state.clone(), moved.clone(), moved_state.clone()
        clock, last = Clock(decay=rule.decay), torch.ones(NUM_ROWS, dtype=torch.int64)
        for step in range(1, 31):
            clock.tick(0.2 / step)
            if step in (1, 4, 20, 30):
                rule.refresh(often, often_state, last, clock)
                last[:] = step
        rule.refresh(once, once_state, torch.ones(NUM_ROWS, dtype=torch.int64), clock)
        torch.testing.assert_close(often, once, rtol=0, atol=1e-12)
        torch.testing.assert_close(often_state, once_state, rtol=0, atol=1e-12)
        assert torch.equal(once, moved) != rule.catches_up
        refreshed, refreshed_state = once.clone(), once_state.clone()
        rule.refresh(once, once_state, last, clock)
        assert torch.equal(once, refreshed)
        assert torch.equal(once_state, refreshed_state)


@each_rule
def test_no_row_is_no_work(kind: type[RowOptimizer]) -> None:
    rule, clock = kind(learning_rate=0.1), Clock()
    rows, state, last = torch.zeros(0, 3), torch.zeros(0, rule.state_width(3)), torch.zeros(0, dtype=torch.int64)
    clock.tick(0.1)
    rule.update(rows, torch.zeros(0, 3), state, last, clock)
    rule.refresh(rows, state, last, clock)
    assert rows.shape == (0, 3)


@each_rule
@pytest.mark.parametrize(
    "settings",
    [{"learning_rate": 0.0}, {"learning_rate": math.nan}, {"decay": -1.0}, {"decay": 4.0, "learning_rate": 0.3},
     {"group_lasso": -1.0}, {"group_lasso": 1.0, "decay": 0.1}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(kind: type[RowOptimizer], settings: dict[str, float]) -> None:
    with pytest.raises(TrainingError):
        kind(**settings)


@each_rule
@pytest.mark.parametrize("spec", [TableSpec(name="member", growing=True), TableSpec(name="member", num_ids=20)])
def test_in_a_table_a_row_used_often_moves_once_and_a_row_not_lent_does_not_move(
    kind: type[RowOptimizer], spec: TableSpec
) -> None:
    for rule in variants(kind):
        table, once = new_table(spec, rule=rule), new_table(spec, rule=rule)
        for each in (table, once):
            train_on(each, "member", [1, 2, 3, 4])
        before = stored(table, "member", up_to_date=False)
        first, second = lend(table, "member", [3, 2, 3]), lend(table, "member", [3])
        (first.sum() + 2 * second.sum()).backward()
        table.apply()
        lend(once, "member", [2, 3]).backward(torch.tensor([[1.0], [4.0]]).expand(2, 3))
        once.apply()
        after = stored(table, "member", up_to_date=False)
        lent_n = torch.isin(after.keys_n, torch.tensor([2, 3]))
        assert torch.equal(after.last_n[lent_n], torch.tensor([2, 2], dtype=torch.int32))
        assert (after.rows_nW != before.rows_nW)[lent_n].any(dim=1).all()
        # the table's own rows are kept up to date in each step; those of ids wait until they are lent
        still_n = ~lent_n & (after.keys_n >= 0)
        assert torch.equal(after.rows_nW[still_n], before.rows_nW[still_n])
        assert torch.equal(after.state_nS[still_n], before.state_nS[still_n])
        assert torch.equal(read(table, "member", range(6)), read(once, "member", range(6)))
