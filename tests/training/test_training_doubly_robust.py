"""The doubly robust loss against arithmetic by hand, and its mean over every way that exposure can fall."""

from __future__ import annotations

import itertools
import math
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from rankwell.errors import TrainingError
from rankwell.models.model import Model
from rankwell.schema import Action, Schema
from rankwell.training.doubly_robust_objective import DoublyRobustObjective
from rankwell.training.propensity_objective import PropensityObjective
from rankwell.types import Audit, Batch, Encoded, Features, Targets

SCHEMA = Schema(actions=(Action(name="click"),), features=())
NOTHING = Encoded(torch.zeros(1, 0), torch.zeros(3, 0), {})
LOGITS_CA = torch.tensor([[0.4], [-1.0], [2.0]], dtype=torch.float64)


class Imputing(nn.Module):
    """Says these probabilities, whatever it sees."""

    def __init__(self, probabilities: list[float]) -> None:
        super().__init__()
        self.logits_CA = nn.Parameter(torch.tensor(probabilities, dtype=torch.float64).logit()[:, None])

    def forward(self, features: Features) -> Tensor:
        return self.logits_CA


def objective(probabilities: list[float], clip: float | None = None) -> DoublyRobustObjective:
    return DoublyRobustObjective(SCHEMA, cast(Model, Imputing(probabilities)), clip=clip)


def batch_of(labels: list[float], propensities: list[float]) -> Batch:
    labels_CA = torch.tensor(labels, dtype=torch.float64)[:, None]
    num = len(labels)
    ids = torch.zeros(num, dtype=torch.int64)
    return Batch(
        Features({}, {}, {}, torch.tensor([0, num]), ids),
        Targets(labels_CA, ~labels_CA.isnan(), torch.tensor([1.0, 2.0, 1.0]), ids, torch.tensor(propensities)),
        Audit(ids[:1], ids[:1], ids[:1], ids, {}),
    )


def cross_entropy(probability: float, logit: float) -> float:
    return math.log1p(math.exp(logit)) - probability * logit


def test_what_was_not_shown_is_imputed_and_what_was_is_mended() -> None:
    batch = batch_of([1.0, math.nan, 0.0], [0.5, 0.5, 0.1])
    loss, count = objective([0.3, 0.2, 0.6], clip=4.0)(NOTHING, LOGITS_CA, batch)
    pseudo = [0.3 + 2 * 0.7, 0.2, 0.6 - 4 * 0.6]
    seen = [cross_entropy(p, z) for p, z in zip(pseudo, LOGITS_CA[:, 0].tolist(), strict=True)]
    assert loss.item() == pytest.approx(seen[0] + 2 * seen[1] + seen[2])
    assert count.item() == 4


@pytest.mark.parametrize("right", ["propensities", "imputation"])
def test_one_of_the_two_need_be_right(right: str) -> None:
    truth, exposure = [0.1, 0.5, 0.8], [0.3, 0.6, 0.9]
    imputed = truth if right == "imputation" else [0.4, 0.4, 0.4]
    said = exposure if right == "propensities" else [0.9, 0.2, 0.5]
    mean = 0.0
    for shown, clicked in itertools.product(itertools.product((0, 1), repeat=3), repeat=2):
        chance = 1.0
        for e, o, p, y in zip(exposure, shown, truth, clicked, strict=True):
            chance *= (e if o else 1 - e) * (p if y else 1 - p)
        labels = [float(y) if o else math.nan for o, y in zip(shown, clicked, strict=True)]
        mean += chance * objective(imputed)(NOTHING, LOGITS_CA, batch_of(labels, said))[0].item()
    seen = [cross_entropy(p, z) for p, z in zip(truth, LOGITS_CA[:, 0].tolist(), strict=True)]
    assert mean == pytest.approx(seen[0] + 2 * seen[1] + seen[2], rel=1e-6)


def test_the_imputation_is_not_trained_nor_saved() -> None:
    imputing = Imputing([0.3, 0.2, 0.6])
    robust = DoublyRobustObjective(SCHEMA, cast(Model, imputing))
    leaf_CA = LOGITS_CA.clone().requires_grad_()
    robust(NOTHING, leaf_CA, batch_of([1.0, math.nan, 0.0], [0.5] * 3))[0].backward()
    assert imputing.logits_CA.grad is None
    assert not list(robust.parameters())
    assert not robust.state_dict()


def test_without_an_imputation_it_is_inverse_propensities() -> None:
    batch = batch_of([1.0, math.nan, 0.0], [0.5, 0.5, 0.1])
    mine = DoublyRobustObjective(SCHEMA, clip=4.0)(NOTHING, LOGITS_CA, batch)
    theirs = PropensityObjective(SCHEMA, clip=4.0)(NOTHING, LOGITS_CA, batch)
    assert [one.item() for one in mine] == [one.item() for one in theirs]
    with pytest.raises(TrainingError, match="no weight"):
        DoublyRobustObjective(SCHEMA, clip=0.0)
