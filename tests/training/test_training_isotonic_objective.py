"""The isotonic layer moves with the model, and takes on what bends the log-odds."""

from __future__ import annotations

import pytest
import torch

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import measure_numerics
from rankwell.errors import SchemaError
from rankwell.models.wide_deep import Logistic
from rankwell.schema import Categorical
from rankwell.training.isotonic_objective import IsotonicObjective
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.stepper import Stepper
from rankwell.types import Encoded

LOG = log_from_table(every_kind_table(24, 0), EVERY_KIND, layout="requests")
BATCHES = list(Batches(LOG, WholeLog("train"), "train", num_requests=8, seed=None))


def test_it_begins_as_its_inner_objective() -> None:
    batch = BATCHES[0]
    logits_CA = torch.randn(batch.features.num_candidates, 2, generator=torch.Generator().manual_seed(0))
    encoded = Encoded(torch.zeros(batch.features.num_requests, 0), logits_CA, {})
    ours, count = IsotonicObjective(EVERY_KIND)(encoded, logits_CA, batch)
    plain, plain_count = PointwiseObjective(EVERY_KIND)(encoded, logits_CA, batch)
    torch.testing.assert_close(ours, plain)
    assert count == plain_count


def test_layers_are_trained_with_the_model() -> None:
    objective = IsotonicObjective(EVERY_KIND)
    before = {name: parameter.detach().clone() for name, parameter in objective.named_parameters()}
    model = Logistic(EVERY_KIND, measure_numerics(BATCHES, EVERY_KIND), seed=0)
    stepper = Stepper(model.train(), objective, OptimizerPlan(), seed=0)
    for batch in BATCHES:
        stepper.step(batch)
    moved = {name for name, parameter in objective.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {f"layers.{action}.{name}" for action in range(2) for name in ("bias", "steepness_B")}
    assert all((layer.as_calibrator().knot_log_odds_B.diff() > 0).all() for layer in objective.layers)  # type: ignore[operator]


def test_layers_learn_an_offset_for_each_segment() -> None:
    by = next(f.name for f in EVERY_KIND.features if isinstance(f, Categorical) and f.num_ids is not None)
    objective = IsotonicObjective(EVERY_KIND, segments=by)
    model = Logistic(EVERY_KIND, measure_numerics(BATCHES, EVERY_KIND), seed=0)
    stepper = Stepper(model.train(), objective, OptimizerPlan(), seed=0)
    for batch in BATCHES:
        stepper.step(batch)
    met = {int(value) for batch in BATCHES for value in batch.column_C(by)}
    for layer in objective.layers:
        moved = set(torch.nonzero(layer.offsets_G.detach()).squeeze(1).tolist())  # type: ignore[operator]
        assert moved  # of those with an observed label
        assert moved <= met


def test_an_open_vocabulary_has_no_offsets() -> None:
    by = next(f.name for f in EVERY_KIND.features if isinstance(f, Categorical) and f.num_ids is None)
    with pytest.raises(SchemaError, match="offsets by"):
        IsotonicObjective(EVERY_KIND, segments=by)
