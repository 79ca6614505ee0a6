"""The study of alarms at its smallest: its world is as it says, and its result is whole."""

from __future__ import annotations

import numpy as np
import pytest

from rankwell.monitoring.null_spread import Dispersion
from rankwell.studies.alarms import study_alarms
from rankwell.studies.alarms_clicks import ClickedWorld
from rankwell.studies.alarms_looks import all_tested, held_days_looks, last_day_looks, same_hours_looks
from rankwell.studies.alarms_world import CountedColumn, CountedWorld


@pytest.mark.parametrize(("alike_rate", "factor"), [(1.0, 8.0), (0.3, 3.1), (0.0, 1.0)])
def test_requests_of_equal_rows_raise_the_variance_as_they_must(alike_rate: float, factor: float) -> None:
    world = CountedWorld([CountedColumn("any", 12, alike_rate)], size=2000, seed=0)
    [day] = world.day(0)
    found_S = Dispersion.of(day.looseness, np.full(5, 11.0)).factor_S  # 8·rate + (1 − rate)
    assert found_S[-1] == pytest.approx(factor, rel=0.1)


def test_a_shift_moves_rows_up_from_its_tick_on() -> None:
    world = CountedWorld([CountedColumn("logit", 18, 0.0)], size=10_000, seed=0)
    [day] = world.day(0, shifted="logit", shift=1.0, at_tick=48)
    mean_T = day.counts_TSB[:, -1] @ np.arange(18) / day.counts_TSB[:, -1].sum(axis=-1)
    assert mean_T[48:56].min() > mean_T[40:48].max() + 1


def test_requests_in_a_mood_differ_along_one_direction_and_by_their_values() -> None:
    world = CountedWorld([CountedColumn("logit", 12, 0.0, mood=1.0)], size=5000, seed=0)
    [day] = world.day(0)
    learned = Dispersion.of(day.looseness, np.full(5, 11.0))
    variances_B = np.linalg.eigvalsh(learned.shape_SBB[-1])
    assert variances_B[-1] > 2 * variances_B[-2]
    # Of eight rows whose values correlate by r the variance is 1 + 7·r of that of independent ones.
    rows, (total, squares) = day.counts_TSB[:, -1, :-1].sum(), day.sums_TS2[:, -1].sum(axis=0)
    variance = squares / rows - (total / rows) ** 2
    assert 2 < Dispersion.of(day.values, np.ones(5)).factor_S[-1] / variance < 8


def test_looks_choose_as_the_baseline_does_and_find_what_moves() -> None:
    column = CountedColumn("age", 12, 0.0)
    world = CountedWorld([column], size=1000, seed=0)
    tests, first = all_tested([column]), 18  # the first of them a Monday
    days = [world.day(first + number) for number in range(5)]
    assert [(test.statistic, test.place) for test in tests] == [("psi", 0), ("mean_shift", 0)]
    for num_held, other in ((2, last_day_looks(tests, days[:2], days[2])),
                            (4, same_hours_looks(tests, days[:4], days[4], first + 4))):  # fmt: skip
        found = held_days_looks(tests, days[:num_held], days[num_held], first + num_held)
        np.testing.assert_array_equal(found.p_values, other.p_values)
        assert found.p_values.min() > 1e-5
    moved = world.day(first + 4, shifted="age", shift=1.0, at_tick=48)
    for looks in (last_day_looks(tests, days[:4], moved), same_hours_looks(tests, days[:4], moved, first + 4)):
        assert looks.p_values[:, :, :48].min() > 1e-5
        assert looks.p_values[:, :, 48:, -1].max(axis=1).min() < 1e-5
        assert looks.is_judged[:, :, :, -1].all()


def test_clicks_of_a_request_depend_and_a_segment_promises_too_much() -> None:
    world = ClickedWorld(50, size=80_000, seed=0)
    right, wrong = world.sums(0), world.sums(0, promised=2.0)
    requests, p = right.num_requests_G.sum(), 0.05
    variance = 8 * p * (1 - p) * (1 + 7 * 0.25)  # of the clicks of eight rows that correlate by .25
    found = right.observed_squared_G.sum() / requests - (right.observed_G.sum() / requests) ** 2
    assert found == pytest.approx(variance, rel=0.03)
    ratios_G = (wrong.predicted_G / wrong.observed_G).reshape(50, 4).mean(axis=0)
    np.testing.assert_allclose(ratios_G, [1, 1, 2, 1], rtol=0.05)


@pytest.mark.slow
def test_the_study_gives_a_number_for_each_rule_and_size() -> None:
    result = study_alarms(num_days=2, sizes=(1000,))
    assert result.numbers["PSI > 0.1/1000/alarms"] > 10
    for baseline in ("the same hours", "the last day"):
        for family in ("PSI and means", "PSI", "means", "rates"):
            assert result.numbers[f"{family}, {baseline}/1000/alarms"] <= 3
        assert result.numbers[f"{baseline}: moved by 1.0/1000/found"] == 1.0
    assert result.numbers["the first fortnight, of what is held: on working days/1000/alarms"] <= 5
    assert result.numbers["calibration, by clicks/1000/alarms"] <= 3
    assert result.numbers["promised 2.0 times/1000/found"] == 1.0
    assert len(result.tables) == 2
    assert "within a factor of three" in result.finding
