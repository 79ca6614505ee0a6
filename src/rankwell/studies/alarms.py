"""False alarms by the promise: how often a watch accuses a marketplace in which nothing happens but days and weeks.

Letters in names: T ticks of a day · D days · S segments · B bins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, final

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from rankwell.monitoring.alarm_threshold import AlarmPromise
from rankwell.monitoring.baseline import SameHours
from rankwell.monitoring.judgement import judged_shares, learned_shares
from rankwell.monitoring.tick_history import TICK_US, TICKS_PER_DAY
from rankwell.studies.alarms_clicks import click_alarms, click_delays
from rankwell.studies.alarms_world import CountedColumn, CountedDay, CountedWorld
from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.study import StudyResult

__all__ = ["study_alarms"]

_COLUMNS: Final = (
    CountedColumn("member", 18, 1.0),
    CountedColumn("logit", 18, 0.3),
    CountedColumn("title", 23, 0.1),
    CountedColumn("age of the job", 12, 0.0),
)
_SIZES: Final = (100, 1000, 10_000)
_SHIFTS: Final = (0.1, 0.3, 1.0)
_FIXED: Final = (0.1, 0.2)
_PROMISED: Final = (1.25, 2.0)
_BY_CLICKS: Final = "calibration, by clicks"
_HOUR: Final = 4
_DAYS_PER_FALSE_ALARM: Final = 7.0
_NUM_TRIALS: Final = 15
_NUM_DAYS_BACK: Final = 14
_DAY_US: Final = TICKS_PER_DAY * TICK_US

_Floats = NDArray[np.float64]


@final
@dataclass(slots=True)
class _Runs:
    """Alarms of one rule: of a column and segment once, until an hour has passed without."""

    last: dict[tuple[int, int], int] = field(default_factory=dict)
    num_alarms: int = 0

    def at(self, tick: int, passed: Sequence[tuple[int, int]]) -> None:
        for key in passed:
            self.num_alarms += tick - self.last.get(key, -_HOUR - 1) > _HOUR
            self.last[key] = tick

    def num_standing(self, tick: int) -> int:
        self.last = {key: last for key, last in self.last.items() if tick - last <= _HOUR}
        return len(self.last)


@final
@dataclass(frozen=True, slots=True)
class _Looks:
    """Of a day: p-values and PSI, by window, column, tick and segment."""

    p_values: _Floats
    psi: _Floats
    is_judged: NDArray[np.bool_]


@final
@dataclass(frozen=True, slots=True)
class _Outcome:
    days_between: dict[str, float]
    num_alarms: dict[str, int]
    delays: dict[float, list[float]]


def study_alarms(
    *,
    num_days: int = 60,
    sizes: Sequence[int] = _SIZES,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """The time between alarms, promised to be 7 days, at three sizes of traffic; beside it fixed limits of PSI.

    Four columns in four segments and all rows, each in the quarter-hour and in the hour, against the same hours of 14
    days before. Traffic, shares, days off and single days all vary, and nothing else does. Then a column's values move
    at a random time of one day, and the quarter-hours until its alarm are counted. Apart from that, calibration is
    watched by clicks in four segments under a promise of its own, and then one of them promises too much.

    Args:
        num_days: Simulated at each size, after the first 14.
        sizes: Rows in a quarter-hour, on average.
        seed: Of the draws.
        say: Told what is going on.
    """
    outcomes = {}
    for size in sizes:
        outcomes[size] = _outcome(size, num_days, seed)
        say(f"{size:,} a quarter-hour: {num_days:,} days")
    rules = list(outcomes[sizes[0]].days_between)
    table = Table(title=f"days between alarms, {num_days:,} quiet days; promised: one in {_DAYS_PER_FALSE_ALARM:.0f}")
    delays = Table(title="a column moves: quarter-hours until its alarm (median), and the share found that day")
    for each, heading in ((table, "rule"), (delays, "moved by")):
        each.add_column(heading)
        for size in sizes:
            each.add_column(f"{size:,} a quarter-hour", justify="right")
    numbers: dict[str, float] = {}
    for rule in rules:
        table.add_row(rule, *(_told(outcomes[size], rule) for size in sizes))
        numbers |= {f"{rule}/{size}/days between alarms": outcomes[size].days_between[rule] for size in sizes}
        numbers |= {f"{rule}/{size}/alarms": outcomes[size].num_alarms[rule] for size in sizes}
    for shift in _SHIFTS:
        cells = [_waited(outcomes[size].delays[shift], f"moved by {shift}/{size}", numbers) for size in sizes]
        delays.add_row(f"{shift} standard deviations", *cells)
    by_clicks = {}
    for size in sizes:
        by_clicks[size] = click_alarms(size, num_days, days_per_false_alarm=_DAYS_PER_FALSE_ALARM, seed=seed)
        numbers |= {f"{_BY_CLICKS}/{size}/days between alarms": by_clicks[size][0]}
        numbers |= {f"{_BY_CLICKS}/{size}/alarms": by_clicks[size][1]}
        say(f"{size:,} a quarter-hour, by clicks: {num_days:,} days")
    table.add_row(_BY_CLICKS, *(_days_told(*by_clicks[size], num_days) for size in sizes))
    for factor in _PROMISED:
        waits = {
            size: click_delays(size, factor, days_per_false_alarm=_DAYS_PER_FALSE_ALARM, seed=seed + 1)
            for size in sizes
        }  # fmt: skip
        cells = [_waited(waits[size].tolist(), f"promised {factor} times/{size}", numbers) for size in sizes]
        delays.add_row(f"clicks: a fifth of the rows promised {factor} ×", *cells)
    kept = [size for size in sizes if 1 / 3 <= outcomes[size].days_between[rules[0]] / _DAYS_PER_FALSE_ALARM <= 3]
    finding = (
        f"The promise is one false alarm in {_DAYS_PER_FALSE_ALARM:.0f} days; found is one in "
        f"{', '.join(f'{outcomes[size].days_between[rules[0]]:.1f}' for size in sizes)} days at "
        f"{', '.join(f'{size:,}' for size in sizes)} rows a quarter-hour: within a factor of three at "
        f"{len(kept)} of {len(sizes)} sizes. PSI above {_FIXED[0]} would alarm once in "
        f"{', '.join(f'{outcomes[size].days_between[rules[1]]:.2g}' for size in sizes)} days. Calibration by clicks, "
        f"under the same promise: one in {', '.join(f'{by_clicks[size][0]:.1f}' for size in sizes)} days."
    )
    return StudyResult("alarms", (table, delays), finding, numbers, (_chart(outcomes, rules),))


def _outcome(size: int, num_days: int, seed: int) -> _Outcome:
    world = CountedWorld(list(_COLUMNS), size=size, seed=seed)
    rng = np.random.default_rng([seed, size])
    promise = AlarmPromise(_DAYS_PER_FALSE_ALARM)
    runs = {"limits from the null": _Runs(), **{f"PSI > {limit}": _Runs() for limit in _FIXED}}
    history = [world.day(number) for number in range(_NUM_DAYS_BACK)]
    trial_days = set(np.linspace(0, num_days - 1, min(_NUM_TRIALS, num_days)).astype(int).tolist())
    delays: dict[float, list[float]] = {shift: [] for shift in _SHIFTS}
    for number in range(_NUM_DAYS_BACK, _NUM_DAYS_BACK + num_days):
        if number - _NUM_DAYS_BACK in trial_days:
            for shift in _SHIFTS:
                at_tick = int(rng.integers(_HOUR, TICKS_PER_DAY // 2))
                moved = world.day(number, shifted="logit", shift=shift, at_tick=at_tick)
                delays[shift].append(_delay(_looks(history, moved, number), promise, at_tick))
        today = world.day(number)
        looks = _looks(history, today, number)
        for at in range(TICKS_PER_DAY):
            tick = number * TICKS_PER_DAY + at
            ours = runs["limits from the null"]
            level = promise.level(int(looks.is_judged[:, :, at].sum()), num_standing=ours.num_standing(tick))
            ours.at(tick, _keys(looks.p_values[:, :, at] <= level))
            for limit in _FIXED:
                runs[f"PSI > {limit}"].at(tick, _keys(looks.psi[:, :, at] > limit))
        history = [*history[1:], today]
    num_alarms = {rule: run.num_alarms for rule, run in runs.items()}
    return _Outcome({rule: num_days / max(num, 1) for rule, num in num_alarms.items()}, num_alarms, delays)


def _looks(history: Sequence[Sequence[CountedDay]], today: Sequence[CountedDay], number: int) -> _Looks:
    """All windows that end within a day; what is learned is learned at its beginning."""
    baseline = SameHours(num_days=_NUM_DAYS_BACK)
    until_us = (number + 1) * _DAY_US
    of_kind_DT = baseline.of_kind(until_us)
    found = []
    for num_current in (1, _HOUR):
        for place in range(len(today)):
            before_DTSB = np.stack([day[place].counts_TSB for day in history])
            all_TSB = np.concatenate([*before_DTSB, today[place].counts_TSB])
            compared = baseline.compared(all_TSB, all_TSB.sum(axis=-1), until_us, num_current=num_current)
            null = learned_shares(compared, history[-1][place].looseness)
            references = baseline.references(
                before_DTSB, before_DTSB.sum(axis=-1), of_kind_DT, num_current=num_current
            )  # fmt: skip
            rolled = [np.roll(all_TSB, back, axis=0)[-TICKS_PER_DAY:] for back in range(num_current)]
            windows_TSB = np.sum(rolled, axis=0)
            judgement = judged_shares(null, windows_TSB, windows_TSB.sum(axis=-1), *references)
            found.append((judgement.p_value_S, judgement.value_S, judgement.is_judged_S))
    shape = (2, len(today), TICKS_PER_DAY, -1)
    return _Looks(*(np.stack(values).reshape(shape) for values in zip(*found, strict=True)))


def _delay(looks: _Looks, promise: AlarmPromise, at_tick: int) -> float:
    """Quarter-hours from the move to the first alarm of the column that moved; infinite if there is none that day."""
    place = [column.name for column in _COLUMNS].index("logit")
    for tick in range(at_tick, TICKS_PER_DAY):
        level = promise.level(int(looks.is_judged[:, :, tick].sum()))
        if (looks.p_values[:, place, tick] <= level).any():
            return float(tick - at_tick + 1)
    return np.inf


def _keys(passed: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Columns and segments of which a window has passed."""
    return [(int(column), int(segment)) for column, segment in np.argwhere(passed.any(axis=0))]


def _told(outcome: _Outcome, rule: str) -> str:
    days, num = outcome.days_between[rule], outcome.num_alarms[rule]
    return _days_told(days, num, days)


def _days_told(days: float, num: int, all_days: float) -> str:
    return f"{days:.2g} ({num:,} alarms)" if num else f"over {all_days:.0f} (none)"


def _waited(waits: Sequence[float], name: str, numbers: dict[str, float]) -> str:
    """The median, and the share found, both put down as numbers, too."""
    found, middle = float(np.isfinite(waits).mean()), float(np.median(waits))
    numbers[f"{name}/found"] = found
    if not np.isfinite(middle):
        return f"– ({found:.0%})"
    numbers[f"{name}/quarter-hours"] = middle
    return f"{middle:.0f} ({found:.0%})"


def _chart(outcomes: dict[int, _Outcome], rules: Sequence[str]) -> Chart:
    sizes = list(outcomes)
    lines = [
        Line(name=rule, x=sizes, y=[outcomes[size].days_between[rule] for size in sizes]) for rule in rules
    ]  # fmt: skip
    band = [
        Line(name=name, x=sizes, y=[_DAYS_PER_FALSE_ALARM * factor] * len(sizes), style="dashed")
        for name, factor in (("promise", 1.0), ("a third of it, and three times", 1 / 3))
    ]
    band.append(Line(name=band[1].name, x=sizes, y=[_DAYS_PER_FALSE_ALARM * 3] * len(sizes), style="dashed"))
    panel = Panel(
        title="nothing is wrong", x_label="rows in a quarter-hour", y_label="days between alarms",
        lines=(*lines, *band), is_log_x=True, is_log_y=True,
    )  # fmt: skip
    return Chart(
        name="alarms",
        title="One false alarm in seven days",
        caption="Days between alarms of all columns, segments and both windows together, while only the time of day "
        "and the day of the week change. A fixed limit of PSI alarms all day where rows are few.",
        description="Days between alarms against traffic, for limits from the null and for fixed limits.",
        panels=(panel,),
    )
