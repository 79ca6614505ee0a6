"""Adam whose moments and rows move only when a row is lent.

Letters: U unique rows lent · W row width · S state columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor

from rankwell.tables.clock import Clock
from rankwell.tables.native import native
from rankwell.tables.row_optimizer import RowOptimizer

__all__ = ["LazyAdam"]


@final
@dataclass(frozen=True, kw_only=True)
class LazyAdam(RowOptimizer):
    """m ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g², w ← w - η √(1 - β₂ᵗ) / (1 - β₁ᵗ) · m / (√v + ε).

    No row moves without a gradient, which is what sets it apart from `Adam`. With the settings as they stand it is
    `torch.optim.SparseAdam`. Two things may be otherwise:

    - `bias_step="row"`: t counts the updates of the row instead of all steps, so that the first move of a row that
      comes late is η long, like that of a row that was there at the start, and not (1 - β₁) / √(1 - β₂) times η.
    - `fade_moments`: in a step that the row misses its moments shrink by β₁ and β₂, as if its gradient had been 0, so
      what a row brings along from long ago counts little. With both, t counts the missed steps too, from the row's
      first update on.

    Source: Kingma & Ba 2015, "Adam: a method for stochastic optimization", Algorithm 1, in the efficient form that
    ends §2 (ICLR).

    Args:
        learning_rate, decay, group_lasso: See `RowOptimizer`.
        beta1, beta2: β₁ and β₂ in [0, 1).
        epsilon: ε > 0.
        bias_step: Whose steps the bias correction counts.
        fade_moments: Whether the moments shrink in the steps that a row misses.

    Raises:
        TrainingError: A setting is out of range.

    >>> import torch
    >>> rule = LazyAdam(learning_rate=0.1, bias_step="row")
    >>> rows, state, clock = torch.zeros(1, 2), torch.zeros(1, rule.state_width(2)), Clock()
    >>> for _ in range(5):
    ...     clock.tick(0.1)
    >>> rule.update(rows, torch.tensor([[3.0, -0.5]]), state, torch.tensor([0]), clock)
    >>> rows
    tensor([[-0.1000,  0.1000]])
    """

    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    bias_step: Literal["global", "row"] = "global"
    fade_moments: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(0 <= self.beta1 < 1, "beta1", "0 ≤ beta1 < 1")
        self._require(0 <= self.beta2 < 1, "beta2", "0 ≤ beta2 < 1")
        self._require(1e-30 <= self.epsilon < 1e30, "epsilon", "1e-30 ≤ epsilon < 1e30")
        self._require(self.bias_step in ("global", "row"), "bias_step", "'global' or 'row'")

    def state_width(self, width: int) -> int:
        """Two moments an element; with `bias_step="row"` one more column, the row's own t."""
        return 2 * width + (self.bias_step == "row")

    def _move(self, rows_UW: Tensor, grads_UW: Tensor, state_US: Tensor, last_U: Tensor, clock: Clock) -> None:
        if self.fade_moments:
            self._fade(state_US, rows_UW.shape[1], clock.step - 1 - last_U)
        m_UW, v_UW, t_U1 = state_US.tensor_split((rows_UW.shape[1], 2 * rows_UW.shape[1]), dim=1)
        m_UW.mul_(self.beta1).add_(grads_UW, alpha=1 - self.beta1)
        v_UW.mul_(self.beta2).addcmul_(grads_UW, grads_UW, value=1 - self.beta2)
        v_UW.clamp_(max=torch.finfo(v_UW.dtype).max)
        t_U1.add_(1)
        steps = t_U1.double() if self.bias_step == "row" else torch.tensor(clock.step, dtype=torch.float64)
        pace = clock.rate * (1 - self.beta2**steps).sqrt() / (1 - self.beta1**steps)
        rows_UW.addcdiv_(m_UW * pace.to(rows_UW.dtype), v_UW.sqrt().add_(self.epsilon), value=-1)

    def refresh(self, rows_UW: Tensor, state_US: Tensor, last_U: Tensor, clock: Clock) -> None:
        """Pay decay and lasso, and fade the moments if they fade: from here on the row counts as up to date."""
        super().refresh(rows_UW, state_US, last_U, clock)
        if self.fade_moments:
            self._fade(state_US, rows_UW.shape[1], clock.step - last_U)

    def _fade(self, state_US: Tensor, width: int, missed_U: Tensor) -> None:
        missed_U1 = missed_U.double().unsqueeze(1)
        m_UW, v_UW, t_U1 = state_US.tensor_split((width, 2 * width), dim=1)
        m_UW.mul_((self.beta1**missed_U1).to(m_UW.dtype))
        v_UW.mul_((self.beta2**missed_U1).to(v_UW.dtype))
        t_U1.add_(torch.where(t_U1 > 0, missed_U1, 0.0).to(t_U1.dtype))

    def compiled(self) -> Any:
        """See `RowOptimizer`."""
        if native is None:
            return None
        return native.LazyAdam(
            self.beta1, self.beta2, self.epsilon, self.bias_step == "row", self.fade_moments,
            decay=self.decay, group_lasso=self.group_lasso,
        )  # fmt: skip
