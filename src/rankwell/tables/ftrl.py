"""Follow the regularized leader: rows of exact zeros until the evidence outweighs the penalty.

Letters: U unique rows lent · W row width · S state columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from rankwell.errors import TrainingError
from rankwell.tables.clock import Clock
from rankwell.tables.native import native
from rankwell.tables.row_optimizer import RowOptimizer

__all__ = ["Ftrl"]


@final
@dataclass(frozen=True, kw_only=True)
class Ftrl(RowOptimizer):
    """FTRL-proximal, element by element.

    With σ = (√(n + g²) - √n) / α::

        z ← z + (η / α) g - σ w,    n ← n + g²
        w ← 0 where |z| ≤ λ₁, else -(z - sgn(z) λ₁) / ((β + √n) / α + λ₂)

    α is the rule's own `learning_rate`, and η what is in force. While they are equal this is the algorithm of the
    source. A loop that lowers η weighs the later gradients less, and leaves the curvature that z and n stand for as it
    is: without penalties the move is w ← w - η g / (β + √n) whatever η does, a gradient of 0 moves nothing, and a
    row is a function of its state alone. So z and n belong to the α they were trained with: to go on from stored
    rows, keep `learning_rate` and set the learning rate in force.

    Gradients here are those of a batch's mean loss, some 1 / (batch size) of one example's, and so are the β and λ₁
    that suit them: the source's β = 1 is for gradients of single examples.

    Source: McMahan et al. 2013, "Ad click prediction: a view from the trenches", Algorithm 1 (KDD).

    Args:
        learning_rate: α.
        beta: β > 0.
        l1: λ₁ ≥ 0. A sum of gradients that stays below it in size leaves an exact 0.
        l2: λ₂ ≥ 0.
        decay, group_lasso: 0; the rule has penalties of its own.

    Raises:
        TrainingError: A setting is out of range.

    >>> rule, clock = Ftrl(learning_rate=0.5, beta=1.0, l1=0.4), Clock()
    >>> rows, state = torch.zeros(1, 2), torch.zeros(1, 4)
    >>> clock.tick(0.5)
    >>> rule.update(rows, torch.tensor([[1.0, -0.3]]), state, torch.tensor([0]), clock)
    >>> rows  # -(1 - .4) / ((1 + 1) / .5), and |-.3| ≤ .4
    tensor([[-0.1500,  0.0000]])
    """

    learning_rate: float = 0.1
    beta: float = 1e-4
    l1: float = 0.0
    l2: float = 0.0

    starts_at_zero: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(1e-30 <= self.beta < 1e30, "beta", "1e-30 ≤ beta < 1e30")
        self._require(0 <= self.l1 < 1e30, "l1", "0 ≤ l1 < 1e30")
        self._require(0 <= self.l2 < 1e30, "l2", "0 ≤ l2 < 1e30")
        if self.decay or self.group_lasso:
            raise TrainingError(
                "Ftrl computes a row from its sums, so a row that is shrunk beside them comes back at its next update",
                found={"decay": self.decay, "group_lasso": self.group_lasso},
                allowed=0,
                do="use its own l2 instead of decay, and l1 instead of group_lasso",
            )

    def state_width(self, width: int) -> int:
        """z and n, each one an element."""
        return 2 * width

    def _move(self, rows_UW: Tensor, grads_UW: Tensor, state_US: Tensor, last_U: Tensor, clock: Clock) -> None:
        z_UW, n_UW = state_US.chunk(2, dim=1)
        root_before_UW = n_UW.sqrt()
        n_UW.addcmul_(grads_UW, grads_UW).clamp_(max=torch.finfo(n_UW.dtype).max)
        root_UW = n_UW.sqrt()
        z_UW.add_(grads_UW, alpha=clock.rate / self.learning_rate)
        z_UW.addcmul_(root_UW - root_before_UW, rows_UW, value=-1 / self.learning_rate)
        excess_UW = z_UW.abs().sub_(self.l1)
        curvature_UW = root_UW.add_(self.beta).div_(self.learning_rate).add_(self.l2)
        rows_UW.copy_(torch.where(excess_UW > 0, -excess_UW.copysign(z_UW) / curvature_UW, 0.0))

    def compiled(self) -> Any:
        """See `RowOptimizer`."""
        return None if native is None else native.Ftrl(self.learning_rate, self.beta, self.l1, self.l2)
