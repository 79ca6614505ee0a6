"""The steps a table has taken, and the learning rate of each: what rows that were away need to catch up.

Letters: T steps taken · U rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Clock"]


@final
class Clock:
    """Counts steps and remembers their learning rates, 24 bytes a step.

    Args:
        decay: λ of the decoupled decay, whose running sum is kept.

    >>> clock = Clock(decay=0.5)
    >>> for rate in (0.1, 0.2):
    ...     clock.tick(rate)
    >>> clock.step, clock.rate, clock.rate_sums[clock.step].round(6)
    (2, 0.2, np.float64(0.3))
    >>> np.exp(clock.log_shrinks[2] - clock.log_shrinks[0]).round(6)  # (1 - .1 · .5) · (1 - .2 · .5)
    np.float64(0.855)
    """

    def __init__(self, decay: float = 0.0) -> None:
        self.decay = decay
        self.step = 0
        self._columns: NDArray[np.float64] = np.zeros((3, 1024))

    def tick(self, rate: float) -> None:
        """Begin the next step, whose learning rate η is `rate`."""
        if self.step + 1 == self._columns.shape[1]:
            self._columns = np.concatenate([self._columns, np.zeros_like(self._columns)], axis=1)
        before, now = self._columns[:, self.step], self._columns[:, self.step + 1]
        now[0] = rate
        now[1] = before[1] + rate
        now[2] = before[2] + math.log1p(-rate * self.decay)
        self.step += 1

    @property
    def rate(self) -> float:
        """η of the step under way; 0 before the first."""
        return float(self._columns[0, self.step])

    @property
    def rates(self) -> NDArray[np.float64]:
        """η of step k at place k, from 1; longer than the steps taken."""
        return self._columns[0, :]

    @property
    def rate_sums(self) -> NDArray[np.float64]:
        """Σ η of the steps up to and including k, at place k."""
        return self._columns[1, :]

    @property
    def log_shrinks(self) -> NDArray[np.float64]:
        """Σ ln(1 - η λ) of the steps up to and including k, at place k."""
        return self._columns[2, :]

    def state(self) -> dict[str, Tensor]:
        """All it knows, as tensors; `load_state` takes it."""
        return {"clock": torch.from_numpy(self._columns[:, : self.step + 1].copy())}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        columns = state["clock"].numpy()
        self.step = columns.shape[1] - 1
        self._columns = np.zeros((3, 1 << max(10, (self.step + 1).bit_length())))
        self._columns[:, : self.step + 1] = columns
