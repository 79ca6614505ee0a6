"""RMSProp on the rows lent: learning rates by the size of recent gradients.

Letters: U unique rows lent · W row width · S state columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from rankwell.tables.clock import Clock
from rankwell.tables.native import native
from rankwell.tables.row_optimizer import RowOptimizer

__all__ = ["RmsProp"]


@final
@dataclass(frozen=True, kw_only=True)
class RmsProp(RowOptimizer):
    """v ← β v + (1 - β) g², w ← w - η g / (√v + ε), element by element.

    "Recent" is counted in the batches that a row was in: v stands still while the row is not lent. Equal to
    `torch.optim.RMSprop`, not centered and without momentum, when each row is in each batch. Nothing corrects for v
    starting at 0, so a row's first moves are up to 1 / √(1 - β) times as long as η.

    Source: Tieleman & Hinton 2012, "Neural networks for machine learning", lecture 6.5.

    Args:
        learning_rate, decay, group_lasso: See `RowOptimizer`.
        beta: β in [0, 1).
        epsilon: ε > 0.

    Raises:
        TrainingError: A setting is out of range.

    >>> rows, state, clock = torch.zeros(1, 2), torch.zeros(1, 2), Clock()
    >>> clock.tick(0.01)
    >>> RmsProp(learning_rate=0.01).update(rows, torch.tensor([[3.0, -0.5]]), state, torch.tensor([0]), clock)
    >>> rows  # .01 / √.01
    tensor([[-0.1000,  0.1000]])
    """

    learning_rate: float = 0.01
    beta: float = 0.99
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(0 <= self.beta < 1, "beta", "0 ≤ beta < 1")
        self._require(1e-30 <= self.epsilon < 1e30, "epsilon", "1e-30 ≤ epsilon < 1e30")

    def state_width(self, width: int) -> int:
        """One mean square v an element."""
        return width

    def _move(self, rows_UW: Tensor, grads_UW: Tensor, state_US: Tensor, last_U: Tensor, clock: Clock) -> None:
        state_US.mul_(self.beta).addcmul_(grads_UW, grads_UW, value=1 - self.beta)
        state_US.clamp_(max=torch.finfo(state_US.dtype).max)
        rows_UW.addcdiv_(grads_UW, state_US.sqrt().add_(self.epsilon), value=-clock.rate)

    def compiled(self) -> Any:
        """See `RowOptimizer`."""
        if native is None:
            return None
        return native.RmsProp(self.beta, self.epsilon, decay=self.decay, group_lasso=self.group_lasso)
