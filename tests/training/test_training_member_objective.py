"""A member of an ensemble is moved as it would be alone."""

from __future__ import annotations

import torch

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import measure_numerics
from rankwell.models.ensemble import TransformerEnsemble, TransformerEnsembleSettings
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.member_objective import MemberObjective
from rankwell.training.objectives import Objective, PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.stepper import Stepper
from rankwell.types import Encoded

LOG = log_from_table(every_kind_table(24, 0), EVERY_KIND, layout="requests")
BATCHES = list(Batches(LOG, WholeLog("train"), "train", num_requests=8, seed=None))
STATISTICS = measure_numerics(BATCHES, EVERY_KIND)
MEMBER = TransformerSettings(row_width=4, width=8, hidden=(16,), default_rate=0.0)
TABLES = RowWiseAdaGrad(learning_rate=0.1, epsilon=1e-12)
PLAN = OptimizerPlan(dense=DenseAdamW(learning_rate=0.01, epsilon=1e-12), linear_rows=TABLES, default_rows=TABLES)


def stepped(model: RankingTransformer | TransformerEnsemble, objective: Objective) -> None:
    stepper = Stepper(model.train(), objective, PLAN, seed=0)
    for batch in BATCHES:
        stepper.step(batch)
    model.eval()


def test_members_go_the_way_they_would_go_alone() -> None:
    pointwise = PointwiseObjective(EVERY_KIND)
    settings = TransformerEnsembleSettings(num_members=2, member=MEMBER)
    together = TransformerEnsemble(EVERY_KIND, STATISTICS, settings, seed=3)
    alone = RankingTransformer(EVERY_KIND, STATISTICS, MEMBER, seed=3)
    jointly = TransformerEnsemble(EVERY_KIND, STATISTICS, settings, seed=3)
    stepped(together, MemberObjective(EVERY_KIND))
    stepped(alone, pointwise)
    stepped(jointly, pointwise)
    features = BATCHES[0].features
    expected_CA = alone(features)
    assert (together.encode(features).members[0] - expected_CA).abs().max() < 1e-3
    assert (jointly.encode(features).members[0] - expected_CA).abs().max() > 1e-2  # of the mean, it goes another way


def test_the_loss_is_the_mean_over_members() -> None:
    batch = BATCHES[0]
    generator = torch.Generator().manual_seed(0)
    members = tuple(torch.randn(batch.features.num_candidates, 2, generator=generator) for _ in range(3))
    mean_CA = torch.stack(members).mean(0)
    encoded = Encoded(torch.zeros(batch.features.num_requests, 0), mean_CA, {}, members=members)
    inner = PointwiseObjective(EVERY_KIND)
    loss, count = MemberObjective(EVERY_KIND, inner)(encoded, mean_CA, batch)
    each = [inner(encoded, member_CA, batch) for member_CA in members]
    torch.testing.assert_close(loss, sum(one for one, _ in each) / 3)
    assert count == each[0][1]
    assert loss > inner(encoded, mean_CA, batch)[0]  # a mean of losses lies above the loss of the mean


def test_of_a_single_model_it_is_what_is_inside() -> None:
    batch = BATCHES[0]
    logits_CA = torch.linspace(-2, 2, 2 * batch.features.num_candidates).view(-1, 2)
    encoded = Encoded(torch.zeros(batch.features.num_requests, 0), logits_CA, {})
    for one, other in zip(
        MemberObjective(EVERY_KIND)(encoded, logits_CA, batch),
        PointwiseObjective(EVERY_KIND)(encoded, logits_CA, batch),
        strict=True,
    ):
        assert torch.equal(one, other)
    assert MemberObjective(EVERY_KIND).terms == PointwiseObjective(EVERY_KIND).terms
