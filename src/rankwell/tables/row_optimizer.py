"""What every rule is that moves the rows lent to a batch, and no other row.

Letters: U unique rows lent · W row width · S state columns · T steps.

A rule is a frozen object with its settings. It is written twice: here in plain PyTorch, which is the reference and
works where nothing was compiled, and as a small struct of ``cpp/rules.hpp``, which works on the rows where they stand.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rankwell.errors import TrainingError
from rankwell.tables.clock import Clock

__all__ = ["RowOptimizer", "shrink_norms"]


@dataclass(frozen=True, kw_only=True)
class RowOptimizer(abc.ABC):
    """The contract of all rules.

    A step t moves a row that was lent in this order: decay w ← (1 - η λ) w, the rule's own move, and the proximal map
    of the group lasso w ← w · max(0, 1 - η γ √W / ‖w‖₂). A row that is not lent owes decay and lasso for the steps it
    missed (and whatever else its rule does in them) and pays in `refresh`, before anybody reads it; so the outcome is
    that of the dense rule, while a step touches only the rows lent.

    Args:
        learning_rate: η at the start; the loop may lower it.
        decay: λ ≥ 0 of the decoupled decay.
        group_lasso: γ ≥ 0, which sets whole rows to exact zeros. Not together with `decay`.

    Raises:
        TrainingError: A setting is out of range.

    Source of the lasso: Yuan & Lin 2006, "Model selection and estimation in regression with grouped variables".
    """

    learning_rate: float
    decay: float = 0.0
    group_lasso: float = 0.0

    starts_at_zero: ClassVar[bool] = False
    """Whether rows must start at 0, because the rule computes them from its state alone."""

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise TrainingError(
                "a row optimizer's learning_rate is out of range", found=self.learning_rate, allowed="> 0"
            )
        if not 0 <= self.decay * self.learning_rate < 1:
            raise TrainingError("decay is out of range", found=self.decay, allowed="0 ≤ learning_rate · decay < 1")
        if not 0 <= self.group_lasso < math.inf or (self.group_lasso and self.decay):
            raise TrainingError(
                "group_lasso is out of range", found={"group_lasso": self.group_lasso, "decay": self.decay},
                allowed="≥ 0, and not together with decay",
            )  # fmt: skip

    def _require(self, met: bool, setting: str, allowed: str) -> None:
        if not met:
            raise TrainingError(
                f"{type(self).__name__}'s {setting} is out of range", found=getattr(self, setting), allowed=allowed
            )

    @property
    def catches_up(self) -> bool:
        """Whether rows that were not lent owe anything for the steps they missed."""
        return self.decay > 0 or self.group_lasso > 0

    @abc.abstractmethod
    def state_width(self, width: int) -> int:
        """S, the number of state columns for rows of `width` columns; they start at 0."""

    @abc.abstractmethod
    def _move(self, rows_UW: Tensor, grads_UW: Tensor, state_US: Tensor, last_U: Tensor, clock: Clock) -> None:
        """The rule's own move at step ``clock.step``, in place; decay and lasso are not its affair."""

    @abc.abstractmethod
    def compiled(self) -> Any:
        """The rule's twin in ``rankwell.tables._native``, with the same settings; None where there is no such twin."""

    def update(self, rows_UW: Tensor, grads_UW: Tensor, state_US: Tensor, last_U: Tensor, clock: Clock) -> None:
        """Take step ``clock.step`` with the rows lent, in place.

        Args:
            rows_UW: The rows lent, each once, up to date through the step before.
            grads_UW: Gradient of the mean loss, summed over all uses of a row.
            state_US: The rows' state.
            last_U: int64, the step that last updated or refreshed each row; 0 for a new one.
            clock: Its `step` is the number of this update, from 1, and its `rate` the η in force.
        """
        if self.decay:
            rows_UW.mul_(1.0 - clock.rate * self.decay)
        self._move(rows_UW, grads_UW, state_US, last_U, clock)
        if self.group_lasso:
            shrink_norms(rows_UW, torch.tensor(clock.rate * self.group_lasso, dtype=torch.float64))

    def refresh(self, rows_UW: Tensor, state_US: Tensor, last_U: Tensor, clock: Clock) -> None:
        """Bring rows up to date through step ``clock.step``, in place, as if each step had had a gradient of 0.

        Decay is w ← w · exp(Σ ln(1 - η λ)) and lasso ‖w‖ ← max(0, ‖w‖ - γ √W Σ η), over the steps missed: running sums
        make a learning rate that changed in between cost nothing, and the closed forms are exact.

        Args:
            rows_UW, state_US, last_U, clock: As in `update`.
        """
        if self.decay:
            sums = torch.from_numpy(clock.log_shrinks)
            rows_UW.mul_((sums[clock.step] - sums[last_U]).exp().unsqueeze(1).to(rows_UW.dtype))
        if self.group_lasso:
            sums = torch.from_numpy(clock.rate_sums)
            shrink_norms(rows_UW, (sums[clock.step] - sums[last_U]) * self.group_lasso)


def shrink_norms(rows_UW: Tensor, strength: Tensor) -> None:
    """‖w‖ ← max(0, ‖w‖ - strength · √W), in place.

    Args:
        rows_UW: The rows.
        strength: float64 ≥ 0, one for all rows or one a row.

    >>> rows = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    >>> shrink_norms(rows, torch.tensor(1 / 2**0.5, dtype=torch.float64))
    >>> rows
    tensor([[2.4000, 3.2000],
            [0.0000, 0.0000]])
    """
    norms_U = rows_UW.double().norm(dim=1)
    threshold = strength * math.sqrt(rows_UW.shape[1])
    factor_U = torch.where(norms_U > threshold, 1.0 - threshold / norms_U.clamp_min(1e-300), 0.0)
    rows_UW.mul_(factor_U.unsqueeze(1).to(rows_UW.dtype))
