"""AdaGrad on the rows lent: learning rates that fall with the gradients seen, an element's own or a row's.

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

__all__ = ["AdaGrad", "RowWiseAdaGrad"]


@final
@dataclass(frozen=True, kw_only=True)
class AdaGrad(RowOptimizer):
    """A ← A + g², w ← w - η g / (√A + ε), element by element.

    Equal to `torch.optim.Adagrad` when each row is in each batch; a gradient of 0 moves nothing, so it is also equal
    when most rows are in no batch.

    Source: Duchi, Hazan & Singer 2011, "Adaptive subgradient methods for online learning and stochastic optimization",
    JMLR 12, §1.3.

    Args:
        learning_rate, decay, group_lasso: See `RowOptimizer`.
        epsilon: ε > 0.

    Raises:
        TrainingError: A setting is out of range.

    >>> rows, state, clock = torch.zeros(1, 2), torch.zeros(1, 2), Clock()
    >>> clock.tick(0.1)
    >>> AdaGrad(learning_rate=0.1).update(rows, torch.tensor([[3.0, -0.5]]), state, torch.tensor([0]), clock)
    >>> rows
    tensor([[-0.1000,  0.1000]])
    """

    learning_rate: float = 0.05
    epsilon: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(1e-30 <= self.epsilon < 1e30, "epsilon", "1e-30 ≤ epsilon < 1e30")

    def state_width(self, width: int) -> int:
        """One sum of squares A an element."""
        return width

    def _move(self, rows_UW: Tensor, grads_UW: Tensor, state_US: Tensor, last_U: Tensor, clock: Clock) -> None:
        # A sum of squares that has overflowed stays a number, here and in the rules beside.
        state_US.addcmul_(grads_UW, grads_UW).clamp_(max=torch.finfo(state_US.dtype).max)
        rows_UW.addcdiv_(grads_UW, state_US.sqrt().add_(self.epsilon), value=-clock.rate)

    def compiled(self) -> Any:
        """See `RowOptimizer`."""
        if native is None:
            return None
        return native.AdaGrad(self.epsilon, decay=self.decay, group_lasso=self.group_lasso)


@final
@dataclass(frozen=True, kw_only=True)
class RowWiseAdaGrad(RowOptimizer):
    """a ← a + mean_w(g²), w ← w - η g / (√a + ε): one accumulator a row.

    Source: Mudigere et al. 2022, "Software-hardware co-design for fast and scalable training of deep learning
    recommendation models", §4.1.4 (ISCA).

    Args:
        learning_rate, decay, group_lasso: See `RowOptimizer`.
        epsilon: ε > 0.

    Raises:
        TrainingError: A setting is out of range.

    >>> rows, state, clock = torch.zeros(1, 2), torch.zeros(1, 1), Clock()
    >>> clock.tick(0.1)
    >>> RowWiseAdaGrad(learning_rate=0.1).update(rows, torch.tensor([[3.0, 4.0]]), state, torch.tensor([0]), clock)
    >>> state.item(), rows.norm().item()  # (9 + 16) / 2; the step's mean square is learning_rate²
    (12.5, 0.1414...)
    """

    learning_rate: float = 0.05
    epsilon: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(1e-30 <= self.epsilon < 1e30, "epsilon", "1e-30 ≤ epsilon < 1e30")

    def state_width(self, width: int) -> int:
        """One accumulator a row."""
        return 1

    def _move(self, rows_UW: Tensor, grads_UW: Tensor, state_US: Tensor, last_U: Tensor, clock: Clock) -> None:
        sums_U1 = state_US.double() + grads_UW.double().square().mean(dim=1, keepdim=True)
        state_US.copy_(sums_U1.clamp_(max=torch.finfo(state_US.dtype).max))
        rates_U1 = clock.rate / (state_US.double().sqrt() + self.epsilon)
        rows_UW.addcmul_(grads_UW, rates_U1.to(rows_UW.dtype), value=-1)

    def compiled(self) -> Any:
        """See `RowOptimizer`."""
        if native is None:
            return None
        return native.RowWiseAdaGrad(self.epsilon, decay=self.decay, group_lasso=self.group_lasso)
