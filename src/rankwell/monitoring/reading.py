"""One look at one statistic over one window: the number, its limit, and what it could have shown at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = ["Reading"]


@final
@dataclass(frozen=True, slots=True)
class Reading:
    """What a window of time says of one column, or of one action's calibration, in one segment.

    Args:
        name: The statistic: "psi", "mean_shift", "rate", "calibration_served", "calibration_trial",
            "silence"; "kl", which raises no alarm.
        column: What was looked at: a feature, "served_logit_click", the action of a calibration, or
            "click of BUNDLE" of one on trial.
        segment: A value of the layout's segments, or `OTHER`, `NEVER_SEEN`, `MISSING`; `ALL_ROWS` of all together.
        value: The statistic; of a calibration detector the logarithm of its evidence. NaN where there was nothing to
            look at.
        unit: Of the value, in words: "nats", "standard deviations".
        limit: Above it there is an alarm. It depends on the sizes, on how much rows depend on each other, and on how
            many things are watched at once.
        p_value: The chance of a value as large when nothing has changed; NaN where the statistic has none.
        minimum_detectable: The least shift that such a window shows with a chance of .8: in the unit of the value, and
            of a calibration |observed / predicted − 1|. A quiet reading says nothing of shifts that are smaller.
        num_rows: Of the window.
        num_reference_rows: Of what it was compared with; of a calibration 0, since the predictions are its reference.
        window_start_us: UTC microseconds; the window is [start, end).
        window_end_us: UTC microseconds.
        is_alarm: Whether the value is above the limit, and what else the statistic asks for an alarm.

    >>> reading = Reading(
    ...     name="psi", column="years", segment=-4, value=0.31, unit="nats", limit=0.12, p_value=1e-9,
    ...     minimum_detectable=0.2, num_rows=500, num_reference_rows=48_000, window_start_us=0,
    ...     window_end_us=900_000_000, is_alarm=True,
    ... )
    >>> reading.window_s
    900.0
    """

    name: str
    column: str
    segment: int
    value: float
    unit: str
    limit: float
    p_value: float
    minimum_detectable: float
    num_rows: int
    num_reference_rows: int
    window_start_us: int
    window_end_us: int
    is_alarm: bool

    @property
    def key(self) -> tuple[str, str, int]:
        """What is looked at where: the same for all windows of a statistic."""
        return self.name, self.column, self.segment

    @property
    def window_s(self) -> float:
        """How long the window is, in seconds."""
        return (self.window_end_us - self.window_start_us) / 1e6
