"""What befalls in drills: each scenario changes what it says, and nothing else."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import numpy as np
import pyarrow as pa
import pytest
import torch

import rankwell.simulation
from rankwell.calibration.segment_isotonic import SegmentIsotonic
from rankwell.calibration.segment_levels import halves_of
from rankwell.calibration.uncalibrated import Uncalibrated
from rankwell.data.statistics import NumericStatistics
from rankwell.errors import RecipeError
from rankwell.models.wide_deep import Logistic
from rankwell.schema import Action, Categorical, Schema
from rankwell.serving.bundle import Bundle
from rankwell.simulation.incident import Incident
from rankwell.simulation.incident_calibration_bug import CalibrationBug
from rankwell.simulation.incident_quiet import Quiet
from rankwell.simulation.incident_unit_change import UnitChange


def found_incidents() -> list[type[Incident]]:
    found = []
    for module_info in pkgutil.iter_modules(rankwell.simulation.__path__):
        if module_info.name.startswith("incident_"):
            module = importlib.import_module(f"rankwell.simulation.{module_info.name}")
            members = [getattr(module, name) for name in module.__all__]
            found += [m for m in members if inspect.isclass(m) and issubclass(m, Incident)]
    return found


def bundle_of(click: SegmentIsotonic | Uncalibrated) -> Bundle:
    schema = Schema(features=(Categorical(name="job_seniority"),), actions=(Action(name="click"),))
    return Bundle(model=Logistic(schema, NumericStatistics(), seed=0), calibrators={"click": click}, created_us=0)


RIGHT = SegmentIsotonic(
    torch.tensor([-1.0, 1.0]), torch.tensor([-2.0, 0.0]), torch.from_numpy(halves_of(np.array([2, 3]))),
    torch.tensor([0.1, 0.2]),
)  # fmt: skip
REQUESTS = pa.table({"experience_years": pa.array([0.5, 7.0], pa.float32()), "salary": pa.array([1.0, 2.0])})


@pytest.mark.parametrize("incident_type", found_incidents(), ids=lambda kind: kind.name)
def test_each_incident_says_what_it_is_and_repeats_itself(incident_type: type[Incident]) -> None:
    incident = incident_type()
    assert incident.summary
    assert incident.suspects or not incident.segments  # who is hurt has a cause
    logits_C, delays_s = np.array([-1.0, 0.5]), np.array([3.0, 9.0])
    for _ in range(2):
        assert incident.wanted(logits_C, REQUESTS).shape == (2,)
        assert (incident.reported_after_s(delays_s) >= 0).all()
        assert incident.sent(REQUESTS).schema == REQUESTS.schema  # a server refuses other columns
    np.testing.assert_array_equal(logits_C, [-1.0, 0.5])  # nothing is changed in place


def test_there_is_one_name_for_each_incident() -> None:
    names = [kind.name for kind in found_incidents()]
    assert {"calibration-bug", "unit-change", "quiet"} <= set(names)
    assert len(set(names)) == len(names)


def test_a_calibration_bug_triples_the_odds_of_one_segment_alone() -> None:
    wrong = CalibrationBug().deployed(bundle_of(RIGHT)).calibrators["click"]
    logits_C, segments_CS = torch.zeros(3), torch.tensor([[2], [3], [9]])
    before_C, after_C = (torch.logit(of(logits_C, segments_CS)) for of in (RIGHT, wrong))
    torch.testing.assert_close((after_C - before_C).exp(), torch.tensor([1.0, 3.0, 1.0], dtype=torch.float64))


def test_a_bundle_without_segments_has_none_to_go_wrong() -> None:
    with pytest.raises(RecipeError, match="no segment"):
        CalibrationBug().deployed(bundle_of(Uncalibrated()))


def test_years_become_months() -> None:
    sent = UnitChange().sent(REQUESTS)
    assert sent["experience_years"].to_pylist() == [6.0, 84.0]
    assert sent["salary"].equals(REQUESTS["salary"])


def test_quiet_changes_nothing() -> None:
    quiet, bundle = Quiet(), bundle_of(RIGHT)
    assert quiet.deployed(bundle) is bundle
    assert quiet.sent(REQUESTS) is REQUESTS
