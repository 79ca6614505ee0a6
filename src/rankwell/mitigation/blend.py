"""How much of a fast bundle is mixed into a slow one: as much as the world drifts, in steps, and back to nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from rankwell.errors import MitigationError
from rankwell.monitoring.reading import Reading

__all__ = ["BlendWeight", "drift_intensity"]

_ROUNDING: Final = 1e-9


def drift_intensity(readings: Sequence[Reading]) -> float:
    """How hard the world drifts: 1 − limit / value of the worst alarm; 0 without one.

    It is 0 at the limit, .5 at twice the limit, and never above 1. A reading below its limit says nothing, however near
    it comes, so that noise by itself mixes nothing in.

    Args:
        readings: Of one window; those without an alarm, or with a value or a limit that is no number above 0, count 0.

    >>> from dataclasses import replace
    >>> reading = Reading("psi", "years", -4, 0.3, "nats", 0.1, 0.0, 0.1, 500, 48_000, 0, 900_000_000, True)
    >>> round(drift_intensity([reading, replace(reading, value=0.2)]), 3), drift_intensity([])
    (0.667, 0.0)
    """
    worst = 0.0
    for reading in readings:
        if reading.is_alarm and reading.limit > 0 and reading.value > reading.limit:
            worst = max(worst, 1.0 - reading.limit / reading.value if math.isfinite(reading.value) else 1.0)
    return worst


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BlendWeight:
    """The weight of the fast model, from how hard the world drifts.

    ``target = most · min(1, intensity / full_at)``, and the weight goes towards it by one step at most. Of intensity 0
    the target is 0, so that after ``⌈weight / step⌉`` windows without a signal (`num_steps_back`) it is 0 exactly.

    Args:
        most: The weight at full drift, in (0, 1].
        full_at: The intensity that counts as full, in (0, 1].
        step: From one window to the next, in (0, 1].

    Raises:
        MitigationError: A setting is out of range.

    >>> blend, weight, weights = BlendWeight(most=0.8, full_at=0.5, step=0.3), 0.0, []
    >>> for intensity in (0.4, 0.6, 0.6, 0.0, 0.0, 0.0, 0.0):
    ...     weight = blend.next_weight(weight, intensity)
    ...     weights.append(round(weight, 2))
    >>> weights
    [0.3, 0.6, 0.8, 0.5, 0.2, 0.0, 0.0]
    """

    most: float = 0.9
    full_at: float = 0.5
    step: float = 0.3

    def __post_init__(self) -> None:
        for name in ("most", "full_at", "step"):
            if not 0 < getattr(self, name) <= 1:
                raise MitigationError(
                    f"`{name}` of a blend is out of range", found=getattr(self, name), allowed="(0, 1]"
                )

    def next_weight(self, weight: float, intensity: float) -> float:
        """The weight of the next window.

        Args:
            weight: Now, in [0, 1].
            intensity: In [0, 1]; NaN, where nothing was measured, counts as 0.
        """
        target = self.most * min(1.0, intensity / self.full_at) if intensity > 0 else 0.0
        if abs(target - weight) <= self.step + _ROUNDING:
            return target
        return weight + math.copysign(self.step, target - weight)

    def num_steps_back(self, weight: float) -> int:
        """After so many windows without a signal nothing is mixed in, whatever was before."""
        return max(math.ceil((weight - _ROUNDING) / self.step), int(weight > 0))
