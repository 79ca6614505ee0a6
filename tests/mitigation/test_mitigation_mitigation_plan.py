"""Which alarms a plan takes as its own."""

from __future__ import annotations

import dataclasses

import pytest

from rankwell.mitigation.mitigation_plan import MitigationPlan
from rankwell.monitoring.reading import Reading

PLAN = MitigationPlan(action="click", feature="title", segments=(3, 7))
ALARM = Reading(
    name="psi", column="served_logit_click", segment=3, value=0.3, unit="nats", limit=0.1, p_value=1e-9,
    minimum_detectable=0.2, num_rows=500, num_reference_rows=5_000, window_start_us=0, window_end_us=900_000_000,
    is_alarm=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "column", "is_accused"),
    [
        ("calibration_served", "click", True),
        ("calibration_scored", "click", True),
        ("calibration_served", "apply", False),
        ("psi", "served_logit_click", True),
        ("psi", "served_probability_click", True),
        ("psi", "served_logit_apply", False),
        ("psi", "years", False),
        ("psi", "click", False),
    ],
)
def test_alarms_of_its_own_action_accuse(name: str, column: str, is_accused: bool) -> None:
    reading = dataclasses.replace(ALARM, name=name, column=column)
    assert PLAN.accuses(reading) is is_accused
    assert not PLAN.accuses(dataclasses.replace(reading, is_alarm=False))
