"""Plain stochastic gradient descent on the rows lent.

Letters: U unique rows lent · W row width · S state columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from rankwell.tables.clock import Clock
from rankwell.tables.native import native
from rankwell.tables.row_optimizer import RowOptimizer

__all__ = ["Sgd"]


@final
@dataclass(frozen=True, kw_only=True)
class Sgd(RowOptimizer):
    """w ← w - η g.

    Decoupled decay and the gradient of an L2 penalty λ/2 · ‖w‖² are the same thing here, and paid lazily it is exact:
    the outcome is that of `torch.optim.SGD` with its `weight_decay`, over all rows at each step.

    Source: Robbins & Monro 1951, "A stochastic approximation method", Annals of Mathematical Statistics 22. The lazy
    form of the penalty: Carpenter 2008, "Lazy sparse stochastic gradient descent for regularized multinomial logistic
    regression".

    Args:
        learning_rate, decay, group_lasso: See `RowOptimizer`.

    >>> import torch
    >>> rows, state, clock = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 0), Clock()
    >>> clock.tick(0.5)
    >>> Sgd(learning_rate=0.5).update(rows, torch.tensor([[1.0, -1.0]]), state, torch.tensor([0]), clock)
    >>> rows
    tensor([[0.5000, 2.5000]])
    """

    learning_rate: float = 0.1

    def state_width(self, width: int) -> int:
        """No state."""
        return 0

    def _move(self, rows_UW: Tensor, grads_UW: Tensor, state_US: Tensor, last_U: Tensor, clock: Clock) -> None:
        rows_UW.add_(grads_UW, alpha=-clock.rate)

    def compiled(self) -> Any:
        """See `RowOptimizer`."""
        return None if native is None else native.Sgd(decay=self.decay, group_lasso=self.group_lasso)
