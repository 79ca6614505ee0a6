"""The study of alarms at its smallest: its world is as it says, and its result is whole."""

from __future__ import annotations

import numpy as np
import pytest

from rankwell.monitoring.null_spread import Dispersion
from rankwell.studies.alarms import study_alarms
from rankwell.studies.alarms_clicks import ClickedWorld
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


def test_clicks_of_a_request_depend_and_a_segment_promises_too_much() -> None:
    world = ClickedWorld(50, size=80_000, seed=0)
    right, wrong = world.sums(0), world.sums(0, promised=2.0)
    requests, p = right.num_requests_G.sum(), 0.05
    variance = 8 * p * (1 - p) * (1 + 7 * 0.25)  # of the clicks of eight rows that correlate by .25
    found = right.observed_squared_G.sum() / requests - (right.observed_G.sum() / requests) ** 2
    assert found == pytest.approx(variance, rel=0.03)
    ratios_G = (wrong.predicted_G / wrong.observed_G).reshape(50, 4).mean(axis=0)
    np.testing.assert_allclose(ratios_G, [1, 1, 2, 1], rtol=0.05)


def test_the_study_gives_a_number_for_each_rule_and_size() -> None:
    result = study_alarms(num_days=2, sizes=(1000,))
    assert result.numbers["PSI > 0.1/1000/alarms"] > 10
    assert result.numbers["limits from the null/1000/alarms"] <= 3
    assert result.numbers["moved by 1.0/1000/found"] == 1.0
    assert result.numbers["calibration, by clicks/1000/alarms"] <= 3
    assert result.numbers["promised 2.0 times/1000/found"] == 1.0
    assert len(result.tables) == 2
    assert "within a factor of three" in result.finding
