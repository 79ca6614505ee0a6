"""Rules that move the rows lent to a batch, and no other row.

Letters: U unique rows of the batch · W row width · S state columns.

A rule is a frozen object with its settings. `update` works in place on the rows lent; the table writes them back. Rows
that were not lent can't move, because the rule never sees them.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Any, final

import numba
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rankwell.errors import TrainingError

__all__ = ["AdaGrad", "RowOptimizer", "RowWiseAdaGrad"]


@dataclass(frozen=True, kw_only=True)
class RowOptimizer(abc.ABC):
    """The contract of all rules.

    Args:
        learning_rate: η at the start; the loop may lower it and passes what is in force to `update`.
        decay: λ of the decoupled decay: each row shrinks by (1 - η λ) a step. Rows not lent are owed the decay of the
            steps they missed and pay it in `refresh`, at their next checkout.
    """

    learning_rate: float
    decay: float = 0.0

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise TrainingError(
                "a row optimizer's learning_rate is out of range", found=self.learning_rate, allowed="> 0"
            )
        if not 0 <= self.decay * self.learning_rate < 1:
            raise TrainingError("decay is out of range", found=self.decay, allowed="0 ≤ learning_rate · decay < 1")

    @abc.abstractmethod
    def state_width(self, width: int) -> int:
        """S, the number of float32 state columns for rows of `width` columns; they start at 0."""

    @abc.abstractmethod
    def update(self, rows_UW: Tensor, grads_UW: Tensor, state_US: Tensor, step: int, learning_rate: float) -> None:
        """Move the rows and their state in place.

        Args:
            rows_UW: The rows lent, each once.
            grads_UW: Gradient of the mean loss, summed over all uses of a row.
            state_US: The rows' state.
            step: The number of this update, from 1.
            learning_rate: η in force.
        """

    def log_shrink(self, learning_rate: float) -> float:
        """ln(1 - η λ), what one step of decay adds to the logarithm of a row."""
        return math.log1p(-learning_rate * self.decay)

    def refresh(self, rows_UW: Tensor, state_US: Tensor, owed_U: Tensor) -> None:
        """Bring rows up to date for the steps they missed: w ← w · e^owed, in place.

        The steps are remembered as one running sum of ln(1 - η λ), so a learning rate that changed in between costs
        nothing and is exact.

        Args:
            rows_UW: The rows about to be lent.
            state_US: Their state.
            owed_U: float64 ≤ 0, the sum of `log_shrink` over the steps that each row missed.
        """
        rows_UW.mul_(owed_U.exp().unsqueeze(1).to(rows_UW.dtype))


@final
@dataclass(frozen=True, kw_only=True)
class AdaGrad(RowOptimizer):
    """A ← A + g², w ← w - η g / (√A + ε), element by element.

    Source: Duchi, Hazan & Singer 2011, "Adaptive subgradient methods", JMLR 12. Equal to `torch.optim.Adagrad` when
    each row is in each batch.

    Args:
        learning_rate, decay: See `RowOptimizer`.
        epsilon: ε.

    >>> import torch
    >>> rows, state = torch.zeros(1, 2), torch.zeros(1, 2)
    >>> AdaGrad(learning_rate=0.1).update(rows, torch.tensor([[3.0, -0.5]]), state, 1, 0.1)
    >>> rows
    tensor([[-0.1000,  0.1000]])
    """

    learning_rate: float = 0.05
    epsilon: float = 1e-10

    def state_width(self, width: int) -> int:
        """One accumulator an element."""
        return width

    def update(self, rows_UW: Tensor, grads_UW: Tensor, state_US: Tensor, step: int, learning_rate: float) -> None:
        """See the class."""
        keep = 1.0 - learning_rate * self.decay
        _adagrad(rows_UW.numpy(), grads_UW.numpy(), state_US.numpy(), keep, learning_rate, self.epsilon)


@final
@dataclass(frozen=True, kw_only=True)
class RowWiseAdaGrad(RowOptimizer):
    """a ← a + mean_w(g²), w ← w - η g / (√a + ε): one accumulator a row.

    Source: Mudigere et al. 2022, "Software-hardware co-design for fast and scalable training of deep learning
    recommendation models", §4.1.4 (ISCA).

    Args:
        learning_rate, decay: See `RowOptimizer`.
        epsilon: ε.

    >>> import torch
    >>> rows, state = torch.zeros(1, 2), torch.zeros(1, 1)
    >>> RowWiseAdaGrad(learning_rate=0.1).update(rows, torch.tensor([[3.0, 4.0]]), state, 1, 0.1)
    >>> state.item(), rows.norm().item()  # (9 + 16) / 2; the step's mean square is learning_rate²
    (12.5, 0.1414...)
    """

    learning_rate: float = 0.05
    epsilon: float = 1e-10

    def state_width(self, width: int) -> int:
        """One accumulator a row."""
        return 1

    def update(self, rows_UW: Tensor, grads_UW: Tensor, state_US: Tensor, step: int, learning_rate: float) -> None:
        """See the class."""
        keep = 1.0 - learning_rate * self.decay
        _row_wise_adagrad(rows_UW.numpy(), grads_UW.numpy(), state_US.numpy(), keep, learning_rate, self.epsilon)


_Floats = NDArray[np.floating[Any]]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _adagrad(
    rows_UW: _Floats, grads_UW: _Floats, sums_UW: _Floats, keep: float, learning_rate: float, epsilon: float
) -> None:  # pragma: no cover - compiled
    for u in range(rows_UW.shape[0]):
        for w in range(rows_UW.shape[1]):
            grad = grads_UW[u, w]
            sums_UW[u, w] += grad * grad
            rows_UW[u, w] = keep * rows_UW[u, w] - learning_rate * grad / (np.sqrt(sums_UW[u, w]) + epsilon)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _row_wise_adagrad(
    rows_UW: _Floats, grads_UW: _Floats, sums_U1: _Floats, keep: float, learning_rate: float, epsilon: float
) -> None:  # pragma: no cover - compiled
    width = rows_UW.shape[1]
    for u in range(rows_UW.shape[0]):
        total = 0.0
        for w in range(width):
            total += np.float64(grads_UW[u, w]) * np.float64(grads_UW[u, w])
        sums_U1[u, 0] += total / width
        rate = learning_rate / (np.sqrt(np.float64(sums_U1[u, 0])) + epsilon)
        for w in range(width):
            rows_UW[u, w] = keep * rows_UW[u, w] - rate * grads_UW[u, w]
