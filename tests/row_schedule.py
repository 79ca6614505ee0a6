"""Rows that are lent now and then: the same schedule played lazily, by a rule or its compiled twin.

Letters: U rows · W row width · S state columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from rankwell.tables.clock import Clock
from rankwell.tables.row_optimizer import RowOptimizer

NUM_ROWS = 5


@dataclass(frozen=True)
class Schedule:
    """Which rows are lent in each step, with which gradients, at which learning rate."""

    lent: Sequence[Sequence[int]]
    rates: Sequence[float]
    seed: int
    width: int = 3
    scale: float = 1.0

    def start(self, dtype: torch.dtype = torch.float64) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(NUM_ROWS, self.width, generator=generator, dtype=torch.float64).to(dtype)

    def gradients(self, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """A step's gradients over all rows: 0 where a row is not lent."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        dense = []
        for lent in self.lent:
            drawn = torch.randn(NUM_ROWS, self.width, generator=generator, dtype=torch.float64) * self.scale
            dense.append(torch.zeros_like(drawn).index_copy(0, torch.tensor(lent, dtype=torch.long), drawn[list(lent)]))
        return [grads.to(dtype) for grads in dense]


def schedules(most_steps: int = 40) -> st.SearchStrategy[Schedule]:
    """Most rows are away from most steps, and the learning rate changes at each."""
    step = st.tuples(st.sets(st.integers(0, NUM_ROWS - 1), max_size=2), st.floats(1e-3, 0.3))
    return st.builds(
        lambda steps, seed: Schedule([sorted(lent) for lent, _ in steps], [rate for _, rate in steps], seed),
        st.lists(step, min_size=1, max_size=most_steps),
        st.integers(0, 1000),
    )


def every_row(num_steps: int, *, scale: float = 1.0, width: int = 3, seed: int = 0) -> Schedule:
    """Each row is lent in each step; the learning rate falls."""
    rates = [0.3 / (1 + 0.2 * k) for k in range(num_steps)]
    return Schedule([range(NUM_ROWS)] * num_steps, rates, seed, width, scale)


class Twin:
    """The compiled twin of a rule, called as the rule is."""

    def __init__(self, rule: RowOptimizer) -> None:
        self.rule, self.twin, self.decay = rule, rule.compiled(), rule.decay
        assert self.twin is not None
        assert (self.twin.catches_up, self.twin.starts_at_zero) == (rule.catches_up, rule.starts_at_zero)

    starts_at_zero = property(lambda self: self.twin.starts_at_zero)
    catches_up = property(lambda self: self.twin.catches_up)

    def state_width(self, width: int) -> int:
        return int(self.twin.state_width(width))

    def update(self, rows_UW: Tensor, grads_UW: Tensor, state_US: Tensor, last_U: Tensor, clock: Clock) -> None:
        self.twin.update_rows(
            rows_UW.numpy(), grads_UW.numpy(), state_US.numpy(), last_U.numpy(), *_columns(clock)
        )  # fmt: skip

    def refresh(self, rows_UW: Tensor, state_US: Tensor, last_U: Tensor, clock: Clock) -> None:
        self.twin.refresh_rows(rows_UW.numpy(), state_US.numpy(), last_U.numpy(), *_columns(clock))


def _columns(clock: Clock) -> tuple[Any, ...]:
    return clock.step, clock.rate, clock.rates, clock.rate_sums, clock.log_shrinks


def play(
    rule: RowOptimizer | Twin,
    schedule: Schedule,
    *,
    dtype: torch.dtype = torch.float64,
    always_refresh: bool = False,
    rows_UW: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Rows and state as a table would have them, all brought up to date at the end."""
    if rows_UW is None:
        rows_UW = torch.zeros(NUM_ROWS, schedule.width, dtype=dtype) if rule.starts_at_zero else schedule.start(dtype)
    state_US = torch.zeros(len(rows_UW), rule.state_width(schedule.width), dtype=dtype)
    last_U, clock = torch.zeros(len(rows_UW), dtype=torch.int64), Clock(decay=rule.decay)
    for lent, rate, grads_UW in zip(schedule.lent, schedule.rates, schedule.gradients(dtype), strict=True):
        index = torch.tensor(lent, dtype=torch.long)
        rows, state = rows_UW[index], state_US[index]
        if rule.catches_up or always_refresh:
            rule.refresh(rows, state, last_U[index], clock)
            last_U[index] = clock.step
        clock.tick(rate)
        rule.update(rows, grads_UW[index], state, last_U[index], clock)
        rows_UW[index], state_US[index], last_U[index] = rows, state, clock.step
    rule.refresh(rows_UW, state_US, last_U, clock)
    return rows_UW, state_US
