"""Adam and AdamW as over all rows at each step, while a step touches only the rows lent.

Letters: U unique rows lent · W row width · S state columns · N rows still away at one step of the replay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from rankwell.tables.clock import Clock
from rankwell.tables.native import native
from rankwell.tables.row_optimizer import RowOptimizer, shrink_norms

__all__ = ["Adam"]

_NEGLIGIBLE = 1e-7


@final
@dataclass(frozen=True, kw_only=True)
class Adam(RowOptimizer):
    """m ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g², w ← w - η m̂ / (√v̂ + ε), m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ).

    Dense Adam moves each row at each step, whether or not it was in the batch: its first moment runs on. A row that
    was away replays those moves in `refresh`, one by one, each with the learning rate and the bias corrections of its
    step, so what anybody reads is what `torch.optim.Adam` gives; with `decay`, `torch.optim.AdamW`. Bias corrections
    aside, the j-th of them is (β₁ / √β₂)ʲ times as long as the last real one. Where that is below 1e-7 the replay ends:
    the first moment becomes 0, and what is left (the second moment, decay, lasso) has a closed form. It takes 154 steps
    at most with the β as they stand.

    Source: Kingma & Ba 2015, "Adam: a method for stochastic optimization", Algorithm 1 (ICLR); for `decay` Loshchilov &
    Hutter 2019, "Decoupled weight decay regularization", Algorithm 2 (ICLR).

    Args:
        learning_rate, decay, group_lasso: See `RowOptimizer`.
        beta1, beta2: 0 ≤ β₁ < √β₂ < 1, for otherwise the moves without a gradient never become short.
        epsilon: ε > 0.

    Raises:
        TrainingError: A setting is out of range.

    >>> rule, clock = Adam(learning_rate=0.1), Clock()
    >>> rows, state = torch.zeros(1, 1), torch.zeros(1, 2)
    >>> clock.tick(0.1)
    >>> rule.update(rows, torch.tensor([[2.0]]), state, torch.tensor([0]), clock)
    >>> rows
    tensor([[-0.1000]])
    >>> clock.tick(0.1)  # the row is not in this batch
    >>> rule.refresh(rows, state, torch.tensor([1]), clock)
    >>> rows  # m̂ = .9 · .2 / (1 - .81), v̂ = .999 · .004 / (1 - .998001)
    tensor([[-0.1670]])
    """

    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(0 < self.beta2 < 1, "beta2", "0 < beta2 < 1")
        self._require(0 <= self.beta1 < math.sqrt(self.beta2), "beta1", "0 ≤ beta1 < √beta2")
        self._require(1e-30 <= self.epsilon < 1e30, "epsilon", "1e-30 ≤ epsilon < 1e30")

    @property
    def catches_up(self) -> bool:
        """Always: moves go on without a gradient."""
        return True

    @property
    def replayed_steps(self) -> int:
        """The most steps that a row replays: the first j with (β₁ / √β₂)ʲ < 1e-7.

        >>> Adam().replayed_steps
        154
        """
        return math.ceil(math.log(_NEGLIGIBLE) / math.log(self.beta1 / math.sqrt(self.beta2))) if self.beta1 else 0

    def state_width(self, width: int) -> int:
        """Two moments an element."""
        return 2 * width

    def _move(self, rows_UW: Tensor, grads_UW: Tensor, state_US: Tensor, last_U: Tensor, clock: Clock) -> None:
        m_UW, v_UW = state_US.chunk(2, dim=1)
        m_UW.mul_(self.beta1).add_(grads_UW, alpha=1 - self.beta1)
        v_UW.mul_(self.beta2).addcmul_(grads_UW, grads_UW, value=1 - self.beta2)
        v_UW.clamp_(max=torch.finfo(v_UW.dtype).max)
        spread = 1 / math.sqrt(1 - self.beta2**clock.step)
        pace = clock.rate / (1 - self.beta1**clock.step)
        rows_UW.addcdiv_(m_UW, v_UW.sqrt().mul_(spread).add_(self.epsilon), value=-pace)

    def refresh(self, rows_UW: Tensor, state_US: Tensor, last_U: Tensor, clock: Clock) -> None:
        """Replay the steps missed, as if each had had a gradient of 0; see the class."""
        if not len(last_U):
            return
        missed_U, order_U = (clock.step - last_U).sort(descending=True)  # those still away at a step stand first
        w_UW, last_U = rows_UW[order_U], last_U[order_U]
        m_UW, v_UW = state_US[order_U].chunk(2, dim=1)
        root_UW, rates = v_UW.sqrt(), torch.from_numpy(clock.rates)
        for j in range(1, min(self.replayed_steps, int(missed_U[0])) + 1):
            num_away = int(torch.searchsorted(-missed_U, -j, right=True))
            w_NW, step_N = w_UW[:num_away], last_U[:num_away] + j
            rate_N = rates[step_N]
            pace_N = rate_N * self.beta1**j / (1 - self.beta1 ** step_N.double())
            spread_N = (self.beta2**j / (1 - self.beta2 ** step_N.double())).sqrt()
            if self.decay:
                w_NW.mul_(_column(1 - rate_N * self.decay, w_NW))
            w_NW.addcdiv_(
                m_UW[:num_away] * _column(pace_N, w_NW),
                root_UW[:num_away] * _column(spread_N, w_NW) + self.epsilon,
                value=-1,
            )
            if self.group_lasso:
                shrink_norms(w_NW, rate_N * self.group_lasso)
        kept_U = torch.where(missed_U <= self.replayed_steps, self.beta1 ** missed_U.double(), 0.0)
        m_UW.mul_(_column(kept_U, m_UW))
        v_UW.mul_(_column(self.beta2 ** missed_U.double(), v_UW))
        super().refresh(w_UW, state_US, (last_U + self.replayed_steps).clamp(max=clock.step), clock)
        rows_UW[order_U] = w_UW
        state_US[order_U] = torch.cat([m_UW, v_UW], dim=1)

    def compiled(self) -> Any:
        """See `RowOptimizer`."""
        if native is None:
            return None
        return native.Adam(
            self.beta1, self.beta2, self.epsilon, self.replayed_steps, decay=self.decay, group_lasso=self.group_lasso
        )


def _column(values_N: Tensor, like: Tensor) -> Tensor:
    return values_N.unsqueeze(1).to(like.dtype)
