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
from rankwell.simulation.incident_late_labels import LateLabels
from rankwell.simulation.incident_layoffs import Layoffs
from rankwell.simulation.incident_missing_feature import MissingFeature
from rankwell.simulation.incident_quiet import Quiet
from rankwell.simulation.incident_retrieval_shift import RetrievalShift
from rankwell.simulation.incident_unit_change import UnitChange
from rankwell.simulation.incident_viral import Viral
from rankwell.simulation.marketplace import Marketplace, MarketplaceSettings


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
REQUESTS = pa.table(
    {
        "seniority": [1, 4],
        "experience_years": pa.array([0.5, 7.0], pa.float32()),
        "job_title": [[0], [1, 5]],
        "job_seniority": [[2], [2, 3]],
        "salary": pa.array([[1.0], [2.0, 3.0]], pa.list_(pa.float32())),
    }
)


@pytest.mark.parametrize("incident_type", found_incidents(), ids=lambda kind: kind.name)
def test_each_incident_says_what_it_is_and_repeats_itself(incident_type: type[Incident]) -> None:
    incident = incident_type()
    assert incident.summary
    assert incident.suspects or not incident.segments  # who is hurt has a cause
    logits_C, delays_s = np.array([-1.0, 0.5, 0.0]), np.array([3.0, 9.0])
    for _ in range(2):
        assert incident.wanted(logits_C, REQUESTS).shape == (3,)
        assert (incident.reported_after_s(delays_s) >= delays_s).all()  # no click is reported before it is there
        assert incident.sent(REQUESTS).schema == REQUESTS.schema  # a server refuses other columns
    np.testing.assert_array_equal(logits_C, [-1.0, 0.5, 0.0])  # nothing is changed in place


@pytest.mark.parametrize("incident_type", found_incidents(), ids=lambda kind: kind.name)
def test_what_each_incident_promises_can_be_kept_and_missed(incident_type: type[Incident]) -> None:
    labels = -(-32 // 15)  # quarter-hours until the first are known
    promised = [incident_type.drift_within or 0, labels + (incident_type.clicks_within or 0)]
    assert max(promised) <= incident_type.num_windows  # else it ends before it is to be found
    if incident_type.suspects:
        assert incident_type.drift_within is not None or incident_type.clicks_within is not None
    if incident_type.segments:
        assert incident_type.clicks_within is not None
        assert incident_type.may_be_corrected
    assert incident_type.num_after * 15 > 60 or not incident_type.may_be_corrected or changes_bundle(incident_type)


def changes_bundle(incident_type: type[Incident]) -> bool:
    return incident_type.deployed is not Incident.deployed


def test_there_is_one_name_for_each_incident() -> None:
    names = [kind.name for kind in found_incidents()]
    assert set(names) >= {"calibration-bug", "unit-change", "viral", "layoffs", "late-labels", "missing-feature"}
    assert set(names) >= {"retrieval-shift", "quiet"}
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


def test_what_goes_viral_does_so_among_some_members_and_jobs() -> None:
    before_C = np.zeros(3)
    moved_C = Viral().wanted(before_C, REQUESTS)  # the first member is junior; of its jobs one is of seniority 2
    np.testing.assert_allclose(np.exp(moved_C), [4.0, 1.0, 1.0])


def test_layoffs_move_jobs_of_two_titles() -> None:
    np.testing.assert_allclose(np.exp(Layoffs().wanted(np.zeros(3), REQUESTS)), [3.0, 3.0, 1.0])


def test_late_labels_are_later_than_their_attribution_window() -> None:
    assert (LateLabels().reported_after_s(np.array([0.0, 90.0])) - [0.0, 90.0] == 2_700.0).all()
    assert LateLabels().reported_after_s(np.zeros(1))[0] > 1_800.0


def test_a_missing_feature_is_its_default_for_every_member_and_no_other_is() -> None:
    sent = MissingFeature().sent(REQUESTS)
    assert sent["seniority"].to_pylist() == [0, 0]
    assert sent.drop_columns("seniority").equals(REQUESTS.drop_columns("seniority"))


def test_a_choosier_retrieval_has_higher_scores_and_the_same_truth() -> None:
    before = Marketplace.create(MarketplaceSettings(num_members=200, num_jobs=100), seed=0)
    after = RetrievalShift().offered(before)
    assert after.population is before.population
    assert after.intercepts == before.intercepts
    means = [market.chunk(0).pages.retrieval_score_C.mean() for market in (before, after)]
    assert means[1] > means[0] + 0.1


def test_quiet_changes_nothing() -> None:
    quiet, bundle = Quiet(), bundle_of(RIGHT)
    assert quiet.deployed(bundle) is bundle
    assert quiet.sent(REQUESTS) is REQUESTS
