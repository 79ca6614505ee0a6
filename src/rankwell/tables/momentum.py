"""Gradient descent with a memory of its direction, on the rows lent.

Letters: U unique rows lent · W row width · S state columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from rankwell.tables.clock import Clock
from rankwell.tables.native import native
from rankwell.tables.row_optimizer import RowOptimizer

__all__ = ["Momentum"]


@final
@dataclass(frozen=True, kw_only=True)
class Momentum(RowOptimizer):
    """b ← μ b + g, w ← w - η b; with `nesterov` w ← w - η (g + μ b).

    A row and its b stand still while it is not lent: no move without a gradient. Equal to `torch.optim.SGD` with its
    `momentum` when each row is in each batch.

    Source: Polyak 1964, "Some methods of speeding up the convergence of iteration methods"; for `nesterov` Sutskever,
    Martens, Dahl & Hinton 2013, "On the importance of initialization and momentum in deep learning", §2 (ICML).

    Args:
        learning_rate, decay, group_lasso: See `RowOptimizer`.
        momentum: μ in [0, 1).
        nesterov: Whether the move looks one step ahead.

    Raises:
        TrainingError: A setting is out of range.

    >>> import torch
    >>> rows, state, clock = torch.zeros(1, 1), torch.zeros(1, 1), Clock()
    >>> for last in (0, 1):
    ...     clock.tick(0.1)
    ...     Momentum(learning_rate=0.1).update(rows, torch.tensor([[1.0]]), state, torch.tensor([last]), clock)
    >>> rows  # -.1 · 1 - .1 · (.9 · 1 + 1)
    tensor([[-0.2900]])
    """

    learning_rate: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(0 <= self.momentum < 1, "momentum", "0 ≤ momentum < 1")

    def state_width(self, width: int) -> int:
        """One direction b an element."""
        return width

    def _move(self, rows_UW: Tensor, grads_UW: Tensor, state_US: Tensor, last_U: Tensor, clock: Clock) -> None:
        state_US.mul_(self.momentum).add_(grads_UW)
        move_UW = grads_UW.add(state_US, alpha=self.momentum) if self.nesterov else state_US
        rows_UW.add_(move_UW, alpha=-clock.rate)

    def compiled(self) -> Any:
        """See `RowOptimizer`."""
        if native is None:
            return None
        return native.Momentum(self.momentum, self.nesterov, decay=self.decay, group_lasso=self.group_lasso)
