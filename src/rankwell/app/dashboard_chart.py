"""The geometry of the dashboard's charts: what the template draws as SVG, in the units of its view box.

Letters in names: T quarter-hours · G segments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.app.server_latency import NUM_MINUTES, LatencyPoint
from rankwell.evaluation.calibration_sums import CalibrationSums
from rankwell.mitigation.watch_view import WatchView, segment_text
from rankwell.monitoring.calibration_watch import sums_of_day
from rankwell.monitoring.tick_history import TICK_US, TICKS_PER_DAY
from rankwell.monitoring.trial_readings import TRIAL

__all__ = [
    "HEIGHT", "WIDTH", "Axis", "LatencyChart", "RatioChart", "SpendChart", "latency_chart", "ratio_charts",
    "spend_chart",
]  # fmt: skip

WIDTH: Final = 320
HEIGHT: Final = 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 4, 8, 20
_HOUR: Final = 4
_Z: Final = 1.96
_REACHES: Final = (2.0, 4.0, 8.0)
_QUARTER_DAY_US: Final = 6 * 3_600_000_000

_Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Axis:
    """Marks of an axis: where, and what is written there."""

    marks: tuple[tuple[float, str], ...]


@final
@dataclass(frozen=True, slots=True)
class RatioChart:
    """The calibration ratio of a segment over a day: an hour of clicks at each point.

    Args:
        title: The segment in words.
        line, band: SVG paths; with gaps where nothing can be said.
        one: Where 1 is.
        y, x: The axes.
        latest: The last ratio; NaN where there is none.
        low, high: Its 95 % interval, for one look.
        num_clicks: Of its hour.
        is_alarm: Whether an alarm about calibration stands in the segment.
    """

    title: str
    line: str
    band: str
    one: float
    y: Axis
    x: Axis
    latest: float
    low: float
    high: float
    num_clicks: float
    is_alarm: bool


@final
@dataclass(frozen=True, slots=True)
class SpendChart:
    """What was charged in each quarter-hour of a day, over all segments that are told apart.

    Args:
        bars: x, y, width and height of each.
        y, x: The axes.
        latest_micros: Of the last quarter-hour.
    """

    bars: tuple[tuple[float, float, float, float], ...]
    y: Axis
    x: Axis
    latest_micros: int


@final
@dataclass(frozen=True, slots=True)
class LatencyChart:
    """How long requests took over two hours, minute by minute.

    Args:
        p50, p95: SVG paths; with gaps where nothing was asked.
        y, x: The axes; milliseconds, and minutes before the last one.
        latest_p50, latest_p95: Of the last minute, in words.
    """

    p50: str
    p95: str
    y: Axis
    x: Axis
    latest_p50: str
    latest_p95: str


def ratio_charts(view: WatchView) -> list[RatioChart]:
    """One for each segment, in the order of their traffic; empty before any labels are in."""
    if not len(view.outcomes):
        return []
    until_us = _until_us(view)
    sums_T = sums_of_day(view.outcomes, "served", view.segments, until_us)
    ratio_TG, low_TG, high_TG = (np.full((TICKS_PER_DAY, len(view.segments)), np.nan) for _ in range(3))
    hour = nothing = CalibrationSums.nothing(len(view.segments))
    for tick in range(TICKS_PER_DAY):
        hour = sum(sums_T[max(tick - _HOUR + 1, 0) : tick + 1], nothing)
        ratio_TG[tick], low_TG[tick], high_TG[tick] = _ratio(hour)
    accused = {run.segment for run in view.standing if run.name.startswith("calibration") and run.name != TRIAL}
    return [
        _chart(
            segment_text(view.feature, segment), ratio_TG[:, g], low_TG[:, g], high_TG[:, g], until_us,
            float(hour.observed_G[g]), segment in accused,
        )
        for g, segment in enumerate(view.segments)
    ]  # fmt: skip


def spend_chart(view: WatchView) -> SpendChart | None:
    """None where nothing was charged all day."""
    until_us = _until_us(view)
    spend_T = np.array(
        [
            int(view.outcomes.between(at, at + TICK_US).spend_micros(view.segments).sum())
            for at in range(until_us - TICKS_PER_DAY * TICK_US, until_us, TICK_US)
        ]
    )
    if not spend_T.any():
        return None
    top = _nice(float(spend_T.max()))
    wide, tall = (WIDTH - _LEFT - _RIGHT) / TICKS_PER_DAY, HEIGHT - _TOP - _BOTTOM
    bars = tuple(
        (
            round(_LEFT + t * wide, 2),
            round(_TOP + tall * (1 - s / top), 2),
            round(wide * 0.8, 2),
            round(tall * s / top, 2),
        )
        for t, s in enumerate(spend_T.tolist())
        if s
    )
    y = Axis(tuple((_TOP + tall * (1 - share), f"{top * share / 1e6:g}") for share in (0.0, 0.5, 1.0)))
    return SpendChart(bars, y, _hours(until_us), int(spend_T[-1]))


def latency_chart(points: Sequence[LatencyPoint]) -> LatencyChart | None:
    """None before the first minute is over.

    Args:
        points: By minute.
    """
    if not points:
        return None
    finite = [value for point in points for value in (point.p50_ms, point.p95_ms) if math.isfinite(value)]
    top, last = _nice(max(finite, default=1.0)), points[-1].minute
    wide, tall = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def place(minute: int, ms: float) -> str:
        x = _LEFT + wide * (1 - (last - minute) / (NUM_MINUTES - 1))
        return f"{round(x, 2)} {round(_TOP + tall * (1 - min(ms / top, 1.0)), 2)}"

    def path(values_ms: Sequence[float]) -> str:
        steps = zip(points, values_ms, [-2, *(point.minute for point in points)], strict=False)
        return " ".join(
            f"{'L' if point.minute == before + 1 else 'M'}{place(point.minute, ms)}" for point, ms, before in steps
        )

    return LatencyChart(
        p50=path([point.p50_ms for point in points]),
        p95=path([point.p95_ms for point in points]),
        y=Axis(tuple((_TOP + tall * (1 - share), f"{top * share:g}") for share in (0.0, 0.5, 1.0))),
        x=Axis(
            tuple(
                (round(_LEFT + wide * (1 - ago / (NUM_MINUTES - 1)), 2), f"−{ago} min" if ago else "now")
                for ago in (90, 60, 30, 0)
            )
        ),
        latest_p50=_ms(points[-1].p50_ms),
        latest_p95=_ms(points[-1].p95_ms),
    )


def _ms(ms: float) -> str:
    return f"{ms:.1f} ms" if math.isfinite(ms) else "beyond the last bucket"


def _until_us(view: WatchView) -> int:
    return view.settled_us // TICK_US * TICK_US


def _ratio(sums: CalibrationSums) -> tuple[_Floats, _Floats, _Floats]:
    """predicted / observed with its ends: those of observed / predicted ± 1.96 standard errors of whole requests."""
    with np.errstate(divide="ignore", invalid="ignore"):
        theta_G = sums.observed_G / sums.predicted_G
        reach_G = _Z * np.sqrt(sums.residual_squared(np.nan_to_num(theta_G))) / sums.predicted_G
        low_G = 1 / (theta_G + reach_G)
        high_G = np.where(theta_G > reach_G, 1 / (theta_G - reach_G), np.inf)
    is_known_G = sums.observed_G > 0
    return sums.ratio_G, np.where(is_known_G, low_G, np.nan), np.where(is_known_G, high_G, np.nan)


def _chart(
    title: str, ratio_T: _Floats, low_T: _Floats, high_T: _Floats, until_us: int, clicks: float, is_alarm: bool
) -> RatioChart:
    known_T = ratio_T[np.isfinite(ratio_T) & (ratio_T > 0)]
    farthest = float(np.exp(np.abs(np.log(known_T)).max())) if len(known_T) else 1.0
    reach = next((reach for reach in _REACHES if farthest <= reach), _REACHES[-1])

    def y(value: float) -> float:
        share = math.log(min(max(value, 1 / reach), reach)) / math.log(reach) if value > 0 else -1.0
        return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - share) / 2, 2)

    def x(tick: int) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * (tick + 1) / TICKS_PER_DAY, 2)

    line, band = [], []
    for run in _runs(np.isfinite(ratio_T)):
        line.append("M" + " L".join(f"{x(t)} {y(ratio_T[t])}" for t in run))
        there = [f"{x(t)} {y(high_T[t])}" for t in run]
        back = [f"{x(t)} {y(low_T[t])}" for t in reversed(run)]
        band.append("M" + " L".join([*there, *back]) + "Z")
    values = (1 / reach, 1 / math.sqrt(reach), 1.0, math.sqrt(reach), reach) if reach > 2 else (0.5, 1.0, 2.0)
    return RatioChart(
        title=title, line=" ".join(line), band=" ".join(band), one=y(1.0),
        y=Axis(tuple((y(value), f"{value:.3g}") for value in values)), x=_hours(until_us),
        latest=float(ratio_T[-1]), low=float(low_T[-1]), high=float(high_T[-1]), num_clicks=clicks, is_alarm=is_alarm,
    )  # fmt: skip


def _runs(is_known_T: NDArray[np.bool_]) -> list[list[int]]:
    ticks = np.flatnonzero(is_known_T)
    if not len(ticks):
        return []
    return [part.tolist() for part in np.split(ticks, np.flatnonzero(np.diff(ticks) > 1) + 1)]


def _hours(until_us: int) -> Axis:
    """Every sixth hour of UTC."""
    start_us = until_us - TICKS_PER_DAY * TICK_US
    first_us = -(-start_us // _QUARTER_DAY_US) * _QUARTER_DAY_US
    wide = WIDTH - _LEFT - _RIGHT
    return Axis(
        tuple(
            (round(_LEFT + wide * (at - start_us) / (until_us - start_us), 2), f"{at // 3_600_000_000 % 24:02d}:00")
            for at in range(first_us, until_us, _QUARTER_DAY_US)
        )
    )


def _nice(value: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below it."""
    power = float(10 ** math.floor(math.log10(value)))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if value <= step * power)
