"""Rows that are away from most batches end where the dense rule takes them, or stand still where that is the rule.

Letters: U rows · W row width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from rankwell.errors import TrainingError
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
from row_schedule import NUM_ROWS, Schedule, Twin, every_row, play, schedules

few = settings(max_examples=25, deadline=None, derandomize=True)


def dense(
    optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer],
    schedule: Schedule,
    *,
    sparse: bool = False,
    after_step: Callable[[Tensor, float], None] = lambda rows_UW, rate: None,
) -> Tensor:
    """torch's rule over all rows at each step; a row not lent has a gradient of 0, or with `sparse` none."""
    parameter = torch.nn.Parameter(schedule.start())
    torch_rule = optimizer([parameter])
    for lent, rate, grads_UW in zip(schedule.lent, schedule.rates, schedule.gradients(), strict=True):
        torch_rule.param_groups[0]["lr"] = rate
        index = torch.tensor(lent, dtype=torch.long)
        parameter.grad = (
            torch.sparse_coo_tensor(index.unsqueeze(0), grads_UW[index], grads_UW.shape, check_invariants=False)
            if sparse
            else grads_UW
        )
        torch_rule.step()
        after_step(parameter.data, rate)
    return parameter.detach()


def lasso(strength: float) -> Callable[[Tensor, float], None]:
    """The proximal map of the group lasso, row by row."""

    def shrink(rows_UW: Tensor, rate: float) -> None:
        for row_W in rows_UW:
            norm = math.sqrt(sum(float(w) ** 2 for w in row_W))
            row_W *= max(0.0, 1 - rate * strength * math.sqrt(len(row_W)) / norm) if norm else 0.0

    return shrink


def away_for_long(num_away: int = 400) -> Schedule:
    """Five steps with some rows, then none: longer than any replay."""
    lent = [[0, 1], [0], [2, 1], [0, 3], [3]] + [[]] * num_away
    return Schedule(lent, [0.05 / (1 + 0.01 * k) for k in range(len(lent))], seed=5)


def close(found: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@few
@given(schedule=schedules())
def test_lazy_adam_with_catch_up_is_dense_adam(schedule: Schedule) -> None:
    close(play(Adam(learning_rate=0.1), schedule)[0], dense(torch.optim.Adam, schedule))


@few
@given(schedule=schedules())
def test_lazy_adam_with_catch_up_and_decay_is_dense_adamw(schedule: Schedule) -> None:
    expected = dense(lambda rows: torch.optim.AdamW(rows, weight_decay=0.4), schedule)
    close(play(Adam(learning_rate=0.1, decay=0.4), schedule)[0], expected)


@pytest.mark.parametrize("decay", [0.0, 0.4])
@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.999), (0.5, 0.9), (0.0, 0.99), (0.7, 0.6)])
def test_the_tail_of_adam_is_cut_where_it_says_nothing(decay: float, beta1: float, beta2: float) -> None:
    schedule, rule = away_for_long(), Adam(learning_rate=0.1, decay=decay, beta1=beta1, beta2=beta2)
    assert rule.replayed_steps < 400
    rows_UW, state_US = play(rule, schedule)
    expected = dense(lambda rows: torch.optim.AdamW(rows, weight_decay=decay, betas=(beta1, beta2)), schedule)
    close(rows_UW, expected, atol=1e-6)
    assert (state_US[:, :3] == 0).all()


def test_dense_adam_moves_rows_away_and_lazy_adam_does_not() -> None:
    schedule = away_for_long(20)
    still = Schedule(schedule.lent[:5], schedule.rates[:5], schedule.seed)
    ghost = play(Adam(learning_rate=0.1), schedule)[0] - play(Adam(learning_rate=0.1), still)[0]
    assert (ghost[:4].abs() > 1e-3).all()
    for rule in (LazyAdam(learning_rate=0.1), LazyAdam(learning_rate=0.1, fade_moments=True), Momentum(), RmsProp()):
        assert torch.equal(play(rule, schedule)[0], play(rule, still)[0])


@few
@given(schedule=schedules())
def test_lazy_adam_is_sparse_adam(schedule: Schedule) -> None:
    close(play(LazyAdam(learning_rate=0.1), schedule)[0], dense(torch.optim.SparseAdam, schedule, sparse=True))


@few
@given(schedule=schedules())
def test_lazy_adam_with_steps_of_its_own_knows_only_its_own_batches(schedule: Schedule) -> None:
    found, _ = play(LazyAdam(learning_rate=0.1, bias_step="row"), schedule)
    for u in range(NUM_ROWS):
        parameter = torch.nn.Parameter(schedule.start()[u])
        torch_rule = torch.optim.SparseAdam([parameter], lr=0.1)
        for lent, rate, grads_UW in zip(schedule.lent, schedule.rates, schedule.gradients(), strict=True):
            if u in lent:
                torch_rule.param_groups[0]["lr"] = rate
                parameter.grad = grads_UW[u].to_sparse()
                torch_rule.step()
        close(found[u], parameter.detach())


@pytest.mark.parametrize("own_steps", [False, True])
@pytest.mark.parametrize("always_refresh", [False, True])
@few
@given(schedule=schedules())
def test_moments_that_fade_are_those_of_zero_gradients(
    own_steps: bool, always_refresh: bool, schedule: Schedule
) -> None:
    rule = LazyAdam(learning_rate=0.1, fade_moments=True, bias_step="row" if own_steps else "global")
    found, state = play(rule, schedule, always_refresh=always_refresh)
    for u, row in enumerate(schedule.start().tolist()):
        m, v, t = [0.0] * 3, [0.0] * 3, 0
        for step, (lent, rate, grads_UW) in enumerate(
            zip(schedule.lent, schedule.rates, schedule.gradients(), strict=True), 1
        ):
            t = t + 1 if t or u in lent or not own_steps else 0
            assert own_steps or t == step
            for i, g in enumerate(grads_UW[u].tolist()):
                m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g * g
                if u in lent:
                    row[i] -= rate * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m[i] / (math.sqrt(v[i]) + 1e-8)
        close(found[u], torch.tensor(row, dtype=torch.float64))
        close(state[u], torch.tensor(m + v + [t] * own_steps, dtype=torch.float64))


@few
@given(schedule=schedules())
def test_lazy_decay_of_sgd_is_the_dense_l2_penalty(schedule: Schedule) -> None:
    expected = dense(lambda rows: torch.optim.SGD(rows, lr=0.1, weight_decay=0.4), schedule)
    close(play(Sgd(learning_rate=0.1, decay=0.4), schedule)[0], expected)


@few
@given(schedule=schedules())
def test_lazy_decay_is_dense_decoupled_decay(schedule: Schedule) -> None:
    parameter = torch.nn.Parameter(schedule.start())
    torch_rule = torch.optim.Adagrad([parameter], lr=0.1)
    for rate, grads_UW in zip(schedule.rates, schedule.gradients(), strict=True):
        torch_rule.param_groups[0]["lr"] = rate
        parameter.data *= 1 - rate * 0.4
        parameter.grad = grads_UW
        torch_rule.step()
    close(play(AdaGrad(learning_rate=0.1, decay=0.4), schedule)[0], parameter.detach())


@pytest.mark.parametrize(
    ("rule", "optimizer"),
    [
        (Sgd(learning_rate=0.1, group_lasso=0.3), lambda rows: torch.optim.SGD(rows, lr=0.1)),
        (AdaGrad(learning_rate=0.1, group_lasso=0.3), torch.optim.Adagrad),
        (Adam(learning_rate=0.1, group_lasso=0.3), torch.optim.Adam),
    ],
    ids=lambda thing: type(thing).__name__,
)
@few
@given(schedule=schedules())
def test_lazy_group_lasso_is_the_dense_proximal_loop(
    rule: RowOptimizer, optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer], schedule: Schedule
) -> None:
    close(play(rule, schedule)[0], dense(optimizer, schedule, after_step=lasso(0.3)))


def test_group_lasso_leaves_exact_zeros_and_live_rows() -> None:
    schedule = Schedule([[0]] * 60, [0.1] * 60, seed=3)
    rows_UW, _ = play(Sgd(learning_rate=0.1, group_lasso=0.3), schedule)
    assert torch.equal(rows_UW[1:], torch.zeros(4, 3, dtype=torch.float64))
    assert (rows_UW[0] != 0).all()


def plain_ftrl(schedule: Schedule, *, alpha: float, beta: float, l1: float, l2: float) -> Tensor:
    """Algorithm 1 of the source, a number at a time."""
    rows = [[0.0] * schedule.width for _ in range(NUM_ROWS)]
    z = [[0.0] * schedule.width for _ in range(NUM_ROWS)]
    n = [[0.0] * schedule.width for _ in range(NUM_ROWS)]
    for lent, grads_UW in zip(schedule.lent, schedule.gradients(), strict=True):
        for u in lent:
            for i, g in enumerate(grads_UW[u].tolist()):
                sigma = (math.sqrt(n[u][i] + g * g) - math.sqrt(n[u][i])) / alpha
                z[u][i] += g - sigma * rows[u][i]
                n[u][i] += g * g
                if abs(z[u][i]) <= l1:
                    rows[u][i] = 0.0
                else:
                    sign = 1 if z[u][i] > 0 else -1
                    rows[u][i] = -(z[u][i] - sign * l1) / ((beta + math.sqrt(n[u][i])) / alpha + l2)
    return torch.tensor(rows, dtype=torch.float64)


@few
@given(schedule=schedules())
def test_ftrl_is_the_algorithm_of_its_source(schedule: Schedule) -> None:
    steady = Schedule(schedule.lent, [0.2] * len(schedule.lent), schedule.seed)
    rule = Ftrl(learning_rate=0.2, beta=1.0, l1=0.7, l2=0.3)
    rows_UW, _ = play(rule, steady)
    expected = plain_ftrl(steady, alpha=0.2, beta=1.0, l1=0.7, l2=0.3)
    close(rows_UW, expected)
    assert torch.equal(rows_UW == 0, expected == 0)


def test_l1_of_ftrl_leaves_exact_zeros_where_the_evidence_is_weak() -> None:
    rule, clock = Ftrl(learning_rate=0.2, beta=1.0, l1=1.5), Clock()
    rows, state = torch.zeros(1, 3), torch.zeros(1, 6)
    for step in range(20):
        clock.tick(0.2)
        sign = 1.0 if step % 2 else -1.0
        rule.update(rows, torch.tensor([[sign, 0.07 * sign, 0.3]]), state, torch.tensor([step]), clock)
    assert rows[0, :2].numpy().tobytes() == bytes(8)
    assert rows[0, 2] < -0.1
    assert (state[:, 3:] > 0).all()


def test_lowering_the_learning_rate_moves_no_row_of_ftrl_by_itself() -> None:
    rule, clock = Ftrl(learning_rate=0.2, beta=1.0, l1=0.1, l2=0.5), Clock()
    rows, state = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    clock.tick(0.2)
    rule.update(rows, torch.ones(1, 1, dtype=torch.float64), state, torch.tensor([0]), clock)
    before = rows.clone()
    clock.tick(0.001)
    rule.update(rows, torch.zeros(1, 1, dtype=torch.float64), state, torch.tensor([1]), clock)
    assert before.item() == -0.9 / (2 / 0.2 + 0.5)
    close(rows, before)


def test_ftrl_refuses_penalties_that_are_not_its_own() -> None:
    for shared in ({"decay": 0.1}, {"group_lasso": 0.1}):
        with pytest.raises(TrainingError, match="use its own l2"):
            Ftrl(**shared)
    assert Ftrl.starts_at_zero
    assert not Sgd.starts_at_zero


def test_nesterov_and_plain_momentum_are_torchs() -> None:
    schedule = every_row(30)
    for nesterov in (False, True):
        expected = dense(lambda rows, n=nesterov: torch.optim.SGD(rows, lr=0.1, momentum=0.7, nesterov=n), schedule)
        close(play(Momentum(momentum=0.7, nesterov=nesterov), schedule)[0], expected)


def test_adamw_with_every_row_in_every_batch_is_torchs() -> None:
    expected = dense(lambda rows: torch.optim.AdamW(rows, weight_decay=0.4), every_row(40))
    close(play(Adam(decay=0.4), every_row(40))[0], expected)


def test_row_wise_adagrad_of_width_1_is_adagrad() -> None:
    schedule = every_row(20, width=1)
    close(play(RowWiseAdaGrad(), schedule)[0], play(AdaGrad(), schedule)[0])


@pytest.mark.parametrize(
    "rule",
    [
        Momentum(nesterov=True),
        LazyAdam(learning_rate=0.1, bias_step="row", decay=0.2),
        LazyAdam(learning_rate=0.1, bias_step="row", fade_moments=True),
        LazyAdam(learning_rate=0.1, fade_moments=True, group_lasso=0.2),
        Adam(learning_rate=0.1, decay=0.2, beta1=0.0),
        Adam(learning_rate=0.1, group_lasso=0.02, beta2=0.9),
        Ftrl(learning_rate=0.2, beta=1.0, l1=0.7, l2=0.3),
    ],
    ids=repr,
)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(schedule=schedules())
def test_compiled_twins_are_equal_in_all_their_settings(rule: RowOptimizer, schedule: Schedule) -> None:
    if native is None:
        pytest.skip("the tables were installed without their compiled part")
    for always_refresh in (False, True):
        expected = play(rule, schedule, always_refresh=always_refresh)
        for found, plain in zip(play(Twin(rule), schedule, always_refresh=always_refresh), expected, strict=True):
            close(found, plain)


def test_a_twin_refuses_arrays_that_do_not_fit() -> None:
    if native is None:
        pytest.skip("the tables were installed without their compiled part")
    twin, clock = Twin(AdaGrad()), Clock()
    clock.tick(0.1)
    rows, last = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    twin.update(rows, torch.ones(2, 3), torch.zeros(2, 3), last, clock)
    with pytest.raises(ValueError, match="grads_UW"):
        twin.update(rows, torch.ones(2, 2), torch.zeros(2, 3), last, clock)
    with pytest.raises(ValueError, match="state_US"):
        twin.update(rows, torch.ones(2, 3), torch.zeros(2, 4), last, clock)
    with pytest.raises(ValueError, match="last_U"):
        twin.update(rows, torch.ones(2, 3), torch.zeros(2, 3), last + 1, clock)
    with pytest.raises(TypeError):
        twin.update(rows, torch.ones(2, 3).double(), torch.zeros(2, 3), last, clock)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Momentum, {"momentum": 1.0}), (AdaGrad, {"epsilon": 0.0}), (RowWiseAdaGrad, {"epsilon": math.inf}),
        (RmsProp, {"beta": 1.0}), (RmsProp, {"epsilon": 0.0}), (LazyAdam, {"beta1": 1.0}), (LazyAdam, {"beta2": -0.1}),
        (LazyAdam, {"bias_step": "column"}), (Adam, {"beta1": 0.95, "beta2": 0.9}), (Adam, {"beta2": 1.0}),
        (Ftrl, {"beta": 0.0}), (Ftrl, {"l1": -1.0}), (Ftrl, {"l2": math.nan}),
    ],
)  # fmt: skip
def test_settings_of_their_own_are_checked(kind: Callable[..., RowOptimizer], wrong: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match=r"out of range; found: .*; allowed: "):
        kind(**wrong)
