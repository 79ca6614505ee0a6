from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.errors import MitigationError
from rankwell.mitigation.blend import BlendWeight, drift_intensity
from rankwell.monitoring.reading import Reading

SHARES = st.floats(0.01, 1)


def reading(value: float, limit: float, *, is_alarm: bool = True) -> Reading:
    return Reading("psi", "years", -4, value, "nats", limit, 0.0, 0.1, 500, 48_000, 0, 900_000_000, is_alarm)


@given(SHARES, SHARES, SHARES, st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=30))
@settings(max_examples=100, derandomize=True, deadline=None)
def test_it_is_bounded_goes_in_steps_and_comes_back_in_as_many_as_it_says(
    most: float, full_at: float, step: float, intensities: list[float]
) -> None:
    blend, weight = BlendWeight(most=most, full_at=full_at, step=step), 0.0
    for intensity in intensities:
        following = blend.next_weight(weight, intensity)
        assert 0 <= following <= most
        assert abs(following - weight) <= step + 1e-8
        weight = following
    for _ in range(blend.num_steps_back(weight)):
        weight = blend.next_weight(weight, 0.0)
    assert weight == 0.0


def test_intensity_is_that_of_the_worst_alarm() -> None:
    assert drift_intensity([reading(0.2, 0.1), reading(0.4, 0.1)]) == pytest.approx(0.75)
    assert drift_intensity([reading(0.4, 0.1, is_alarm=False), reading(math.nan, 0.1), reading(0.3, 0.0)]) == 0
    assert drift_intensity([reading(math.inf, 0.1)]) == 1


@pytest.mark.parametrize("wrong", [{"most": 0.0}, {"step": 1.5}, {"full_at": math.nan}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(MitigationError):
        BlendWeight(**wrong)
