"""False alarms by the promise: how often a watch accuses a marketplace in which nothing happens but days and weeks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, final

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from rankwell.monitoring.alarm_threshold import AlarmPromise
from rankwell.monitoring.tick_history import TICKS_PER_DAY
from rankwell.studies.alarms_clicks import click_alarms, click_delays
from rankwell.studies.alarms_looks import (
    Looks,
    Tested,
    all_tested,
    held_days_looks,
    last_day_looks,
    same_hours_looks,
)
from rankwell.studies.alarms_world import CountedColumn, CountedDay, CountedWorld
from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.study import StudyResult

__all__ = ["study_alarms"]

_COLUMNS: Final = (
    CountedColumn("member", 18, 1.0),
    CountedColumn("logit", 18, 0.1, mood=1.0),
    CountedColumn("salary", 18, 0.3),
    CountedColumn("title", 23, 0.1, has_values=False),
    CountedColumn("age of the job", 12, 0.0),
    CountedColumn("clicks", 2, 0.1, has_values=False, last_share=0.05),
)
_RATES, _MOVED = "clicks", "logit"
_SIZES: Final = (100, 1000, 10_000)
_SHIFTS: Final = (0.1, 0.3, 1.0)
_FIXED: Final = (0.1, 0.2)
_PROMISED: Final = (1.25, 2.0)
_BY_CLICKS: Final = "calibration, by clicks"
_BASELINES: Final = ("the same hours", "the last day")
_FAMILIES: Final = ("PSI and means", "PSI", "means", "rates")
"""What shares a promise; the first is what a watch tests, beside rates."""
_HOUR: Final = 4
_DAYS_PER_FALSE_ALARM: Final = 7.0
_NUM_TRIALS: Final = 15
_NUM_DAYS_BACK: Final = 14
_FIRST_DAYS: Final = 2
_WEEK: Final = 7


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
@dataclass(slots=True)
class _Rule:
    """A family of tests under one promise; or PSI above a fixed limit."""

    places: list[int]
    limit: float | None = None
    runs: _Runs = field(default_factory=_Runs)

    def see(self, looks: Looks, number: int) -> None:
        """A day."""
        p_values, values = looks.p_values[:, self.places], looks.values[:, self.places]
        is_judged = looks.is_judged[:, self.places]
        for at in range(TICKS_PER_DAY):
            tick = number * TICKS_PER_DAY + at
            level = _level(is_judged[:, :, at], self.runs.num_standing(tick))
            passed = p_values[:, :, at] <= level if self.limit is None else values[:, :, at] > self.limit
            self.runs.at(tick, [(int(test), int(segment)) for test, segment in np.argwhere(passed.any(axis=0))])


@final
@dataclass(frozen=True, slots=True)
class _Outcome:
    num_days: dict[str, int]
    num_alarms: dict[str, int]
    delays: dict[tuple[str, float], list[float]]

    def days_between(self, rule: str) -> float:
        return self.num_days[rule] / max(self.num_alarms[rule], 1)


def study_alarms(
    *,
    num_days: int = 60,
    sizes: Sequence[int] = _SIZES,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """The time between alarms, promised to be 7 days, at three sizes of traffic; beside it fixed limits of PSI.

    Five columns in four segments and all rows, each in the quarter-hour and in the hour, against the same hours of 14
    days before and against the last day; and how often rows are clicked on, under a promise of its own. Traffic,
    shares, days off and single days all vary, and nothing else does. Then a column's values move at a random time of
    one day, and the quarter-hours until its alarm are counted. Then marketplaces whose watch has just begun: its first
    fortnight, against what is held. Apart from that, calibration is watched by clicks in four segments under a promise
    of its own, and then one of them promises too much.

    Args:
        num_days: Simulated at each size, after the first 14.
        sizes: Rows in a quarter-hour, on average.
        seed: Of the draws.
        say: Told what is going on.
    """
    outcomes, begun = {}, {}
    for size in sizes:
        outcomes[size] = _outcome(size, num_days, seed)
        say(f"{size:,} a quarter-hour: {num_days:,} days")
        begun[size] = _begun(size, num_days, seed)
        say(f"{size:,} a quarter-hour: watches begin")
    rules = list(outcomes[sizes[0]].num_alarms)
    table = Table(title=f"days between alarms, {num_days:,} quiet days; promised: one in {_DAYS_PER_FALSE_ALARM:.0f}")
    delays = Table(title="a column moves: quarter-hours until its alarm (median), and the share found that day")
    for each, heading in ((table, "rule"), (delays, "moved by")):
        each.add_column(heading)
        for size in sizes:
            each.add_column(f"{size:,} a quarter-hour", justify="right")
    numbers: dict[str, float] = {}
    for found in (outcomes, begun):
        for rule in found[sizes[0]].num_alarms:
            days = {size: found[size].days_between(rule) for size in sizes}
            num = {size: found[size].num_alarms[rule] for size in sizes}
            table.add_row(rule, *(_days_told(days[size], num[size], found[size].num_days[rule]) for size in sizes))
            numbers |= {f"{rule}/{size}/days between alarms": days[size] for size in sizes}
            numbers |= {f"{rule}/{size}/alarms": num[size] for size in sizes}
    for baseline in _BASELINES:
        for shift in _SHIFTS:
            waits = {size: outcomes[size].delays[baseline, shift] for size in sizes}
            cells = [_waited(waits[size], f"{baseline}: moved by {shift}/{size}", numbers) for size in sizes]
            delays.add_row(f"{shift} standard deviations, {baseline}", *cells)
    by_clicks = {}
    for size in sizes:
        by_clicks[size] = click_alarms(size, num_days, days_per_false_alarm=_DAYS_PER_FALSE_ALARM, seed=seed)
        numbers |= {f"{_BY_CLICKS}/{size}/days between alarms": by_clicks[size][0]}
        numbers |= {f"{_BY_CLICKS}/{size}/alarms": by_clicks[size][1]}
        say(f"{size:,} a quarter-hour, by clicks: {num_days:,} days")
    table.add_row(_BY_CLICKS, *(_days_told(*by_clicks[size], num_days) for size in sizes))
    for factor in _PROMISED:
        clicks_waits = {
            size: click_delays(size, factor, days_per_false_alarm=_DAYS_PER_FALSE_ALARM, seed=seed + 1)
            for size in sizes
        }  # fmt: skip
        cells = [_waited(clicks_waits[size].tolist(), f"promised {factor} times/{size}", numbers) for size in sizes]
        delays.add_row(f"clicks: a fifth of the rows promised {factor} ×", *cells)
    days_of = {rule: [outcomes[size].days_between(rule) for size in sizes] for rule in rules}
    ours = [_rule_name(_FAMILIES[0], baseline) for baseline in _BASELINES]
    kept = [days for days in days_of[ours[0]] if 1 / 3 <= days / _DAYS_PER_FALSE_ALARM <= 3]
    finding = (
        f"The promise is one false alarm in {_DAYS_PER_FALSE_ALARM:.0f} days. At "
        f"{', '.join(f'{size:,}' for size in sizes)} rows a quarter-hour PSI and means alarm once in "
        f"{_listed(days_of[ours[0]])} days against the same hours, within a factor of three at {len(kept)} of "
        f"{len(sizes)} sizes; and in {_listed(days_of[ours[1]])} days against the last day. PSI above {_FIXED[0]} "
        f"would alarm once in {', '.join(f'{days:.2g}' for days in days_of[_fixed_name(_FIXED[0])])} days. Calibration "
        f"by clicks, under the same promise: one in {_listed([by_clicks[size][0] for size in sizes])} days."
    )
    return StudyResult("alarms", (table, delays), finding, numbers, (_chart(outcomes, rules),))


def _outcome(size: int, num_days: int, seed: int) -> _Outcome:
    """Quiet days of one marketplace, and some on which a column moves."""
    world = CountedWorld(list(_COLUMNS), size=size, seed=seed)
    rng = np.random.default_rng([seed, size])
    tests = all_tested(_COLUMNS)
    rules = {
        baseline: {_rule_name(family, baseline): _Rule(_places(tests, family)) for family in _FAMILIES}
        for baseline in _BASELINES
    }
    rules[_BASELINES[0]] |= {_fixed_name(limit): _Rule(_places(tests, "PSI"), limit) for limit in _FIXED}
    history = [world.day(number) for number in range(_NUM_DAYS_BACK)]
    trial_days = set(np.linspace(0, num_days - 1, min(_NUM_TRIALS, num_days)).astype(int).tolist())
    delays: dict[tuple[str, float], list[float]] = {
        (baseline, shift): [] for baseline in _BASELINES for shift in _SHIFTS
    }
    moving = [test for test in tests if _COLUMNS[test.place].name == _MOVED]
    for number in range(_NUM_DAYS_BACK, _NUM_DAYS_BACK + num_days):
        today = world.day(number)
        looks = _both(tests, history, today, number)
        for baseline in _BASELINES:
            for rule in rules[baseline].values():
                rule.see(looks[baseline], number)
        for shift in _SHIFTS if number - _NUM_DAYS_BACK in trial_days else ():
            at_tick = int(rng.integers(_HOUR, TICKS_PER_DAY // 2))
            moved = world.day(number, shifted=_MOVED, shift=shift, at_tick=at_tick)
            for baseline, seen in _both(moving, history, moved, number).items():
                quiet = looks[baseline].is_judged[:, _places(tests, _FAMILIES[0])]
                delays[baseline, shift].append(_delay(seen, quiet, at_tick))
        history = [*history[1:], today]
    found = {name: rule.runs.num_alarms for each in rules.values() for name, rule in each.items()}
    return _Outcome(dict.fromkeys(found, num_days), found, delays)


def _begun(size: int, num_days: int, seed: int) -> _Outcome:
    """First fortnights of watches but their first two days, each of another marketplace and from another weekday on."""
    tests, num = all_tested(_COLUMNS), max(1, min(_NUM_TRIALS, num_days // _NUM_DAYS_BACK))
    found = {_begun_name(is_off): 0 for is_off in (False, True)}
    num_seen = dict(found)
    for marketplace in range(num):
        world = CountedWorld(list(_COLUMNS), size=size, seed=seed + 1 + marketplace)
        first = 2 * _WEEK + marketplace % _WEEK
        rule = _Rule(_places(tests, _FAMILIES[0]))
        history = [world.day(first + number) for number in range(_FIRST_DAYS)]
        for number in range(first + _FIRST_DAYS, first + _NUM_DAYS_BACK):
            before, today = rule.runs.num_alarms, world.day(number)
            rule.see(held_days_looks(tests, history, today, number), number)
            kind = _begun_name((number + 3) % _WEEK >= 5)
            num_seen[kind] += 1
            found[kind] += rule.runs.num_alarms - before
            history.append(today)
    return _Outcome(num_seen, found, {})


def _both(
    tests: Sequence[Tested], history: Sequence[Sequence[CountedDay]], today: Sequence[CountedDay], number: int
) -> dict[str, Looks]:
    looks = same_hours_looks(tests, history, today, number), last_day_looks(tests, history, today)
    return dict(zip(_BASELINES, looks, strict=True))


def _places(tests: Sequence[Tested], family: str) -> list[int]:
    """Which tests are of a family."""
    statistics = {"psi": {"PSI", "PSI and means"}, "mean_shift": {"means", "PSI and means"}}
    of_rates = [_COLUMNS[test.place].name == _RATES for test in tests]
    return [
        place
        for place, (test, is_rate) in enumerate(zip(tests, of_rates, strict=True))
        if (family == "rates" if is_rate else family in statistics[test.statistic])
    ]


def _delay(looks: Looks, quiet: NDArray[np.bool_], at_tick: int) -> float:
    """Quarter-hours from the move to the first alarm of the column that moved; infinite if there is none that day."""
    for tick in range(at_tick, TICKS_PER_DAY):
        if (looks.p_values[:, :, tick] <= _level(quiet[:, :, tick], 0)).any():
            return float(tick - at_tick + 1)
    return np.inf


def _level(is_judged: NDArray[np.bool_], num_standing: int) -> float:
    return AlarmPromise(_DAYS_PER_FALSE_ALARM).level(int(is_judged.sum()), num_standing=num_standing)


def _rule_name(family: str, baseline: str) -> str:
    return f"{family}, {baseline}"


def _fixed_name(limit: float) -> str:
    return f"PSI > {limit}"


def _begun_name(is_off: bool) -> str:
    return f"the first fortnight, of what is held: on {'days off' if is_off else 'working days'}"


def _listed(days: Sequence[float]) -> str:
    return ", ".join(f"{one:.1f}" for one in days)


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
        Line(name=rule, x=sizes, y=[outcomes[size].days_between(rule) for size in sizes]) for rule in rules
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
