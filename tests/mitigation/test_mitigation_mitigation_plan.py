"""Which alarms a plan takes as its own, and its ladder."""

from __future__ import annotations

import dataclasses

import pytest

from rankwell.mitigation.mitigation_plan import MitigationPlan
from rankwell.mitigation.mitigation_state import MitigationKind
from rankwell.mitigation.wide_update import ProximalUpdate
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


def test_of_its_rate_it_is_concerned_where_weights_may_be_learned() -> None:
    rate, wide = (
        dataclasses.replace(ALARM, name="rate", column="click"),
        dataclasses.replace(PLAN, wide=ProximalUpdate()),
    )
    assert (PLAN.concerns(rate), wide.concerns(rate), wide.accuses(rate)) == (False, True, False)
    assert not wide.concerns(dataclasses.replace(rate, column="apply"))
    assert not wide.concerns(dataclasses.replace(rate, is_alarm=False))
    assert PLAN.concerns(ALARM)


@pytest.mark.parametrize("wide", [None, ProximalUpdate()])
@pytest.mark.parametrize("blend", [None, "bundles/fast"])
def test_rungs_that_are_not_wanted_are_passed_over(wide: ProximalUpdate | None, blend: str | None) -> None:
    plan = dataclasses.replace(PLAN, wide=wide, blend_bundle=blend)
    expected: list[MitigationKind] = ["bias_correction"]
    expected += ["wide_update"] if wide else []
    expected += ["blend"] if blend else []
    climbed: list[MitigationKind] = ["bias_correction"]
    while climbed[-1] != "fallback":
        climbed.append(plan.after(climbed[-1]))
    assert climbed == [*expected, "fallback"]
    assert plan.after("fallback") == "fallback"
