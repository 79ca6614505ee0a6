"""What was promised, charged and true in each quarter-hour of a drill, by segment.

Letters in names: W quarter-hours · G segments · C shown candidates, flat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

__all__ = ["DrillWindow", "Money", "money"]

_Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Money:
    """Charged beyond what clicks are worth, and short of it, micros: each a sum over segments' quarter-hours."""

    over_micros: float
    under_micros: float

    @property
    def off_micros(self) -> float:
        """Both."""
        return self.over_micros + self.under_micros


@final
@dataclass(frozen=True, slots=True, eq=False)
class DrillWindow:
    """One quarter-hour; sums over all that was shown in it.

    Args:
        start_us: UTC microseconds.
        segments: G names.
        true_G: Σ of the true probabilities.
        promised_G, without_G, oracle_G: Σ p(click) as served; by the same bundle without a correction; by the bundle
            that is right.
        worth_G, charged_G, charged_without_G, charged_oracle_G: The same, times bids, micros.
        num_requests: That were sent.
        correction_ids: That were in force, as the answers say.
    """

    start_us: int
    segments: tuple[int, ...]
    true_G: _Floats
    promised_G: _Floats
    without_G: _Floats
    oracle_G: _Floats
    worth_G: _Floats
    charged_G: _Floats
    charged_without_G: _Floats
    charged_oracle_G: _Floats
    num_requests: int
    correction_ids: frozenset[str]

    @classmethod
    def of(
        cls, *, start_us: int, segments: tuple[int, ...], segment_C: NDArray[np.int64], bids_C: NDArray[np.int64],
        true_C: _Floats, promised_C: _Floats, without_C: _Floats, oracle_C: _Floats, num_requests: int,
        correction_ids: frozenset[str],
    ) -> Self:  # fmt: skip
        """The sums of rows."""

        def summed(values_C: _Floats) -> _Floats:
            return np.array([values_C[segment_C == segment].sum() for segment in segments])

        columns = (true_C, promised_C, without_C, oracle_C)
        true_G, promised_G, without_G, oracle_G = (summed(values_C) for values_C in columns)
        worth_G, charged_G, charged_without_G, charged_oracle_G = (summed(values_C * bids_C) for values_C in columns)
        return cls(
            start_us, segments, true_G, promised_G, without_G, oracle_G,
            worth_G, charged_G, charged_without_G, charged_oracle_G, num_requests, correction_ids,
        )  # fmt: skip

    def ratio(self, segment: int) -> float:
        """Promised over true, of what was served."""
        g = self.segments.index(segment)
        return float(self.promised_G[g] / self.true_G[g])

    def oracle_ratio(self, segment: int) -> float:
        """The same of the bundle that is right: as near as it comes to the truth."""
        g = self.segments.index(segment)
        return float(self.oracle_G[g] / self.true_G[g])

    def moved(self, healthy: Sequence[int]) -> float:
        """By what share a correction moved the probabilities of segments that are right, at most."""
        is_healthy_G = np.isin(self.segments, healthy)
        return float(np.max(np.abs(self.promised_G / self.without_G - 1)[is_healthy_G], initial=0.0))


def money(windows: Sequence[DrillWindow], segments: Sequence[int], name: str) -> Money:
    """What was charged over and under in some segments.

    Args:
        windows: Quarter-hours.
        segments: Of them.
        name: Of the column of what was charged.
    """
    if not windows:
        return Money(0.0, 0.0)
    is_asked_G = np.isin(windows[0].segments, segments)
    off_WG = np.stack([(getattr(window, name) - window.worth_G)[is_asked_G] for window in windows])
    return Money(float(np.maximum(off_WG, 0.0).sum()), float(np.maximum(-off_WG, 0.0).sum()))
