"""Clipping by the norm of all gradients: as torch does it over dense tables, without there being a dense gradient.

Letters: n ids of a batch · F id columns · U unique rows · W row width.
"""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from training_example import JOBS

from rankwell.data.statistics import NumericStatistics
from rankwell.errors import TrainingError
from rankwell.models.model import Model, ModelSettings
from rankwell.schema import TableSpec
from rankwell.tables.loan import IdColumn
from rankwell.tables.sgd import Sgd
from rankwell.tables.table import Table
from rankwell.training.dense_optimizers import DenseSgd
from rankwell.training.optimizers import OptimizerPlan
from rankwell.types import Encoded, Features

NUM_IDS, WIDTH = 11, 3
SGD = OptimizerPlan(
    dense=DenseSgd(learning_rate=0.5, momentum=0.0), dense_groups={"last": DenseSgd(learning_rate=0.25, momentum=0.0)},
    rows={"wide": Sgd(learning_rate=0.125)}, default_rows=Sgd(learning_rate=0.0625),
)  # fmt: skip


class TwoTables(Model):
    """Rows of width 3 of two columns through two layers, beside a weight for each id."""

    settings_class: ClassVar[type[ModelSettings]] = ModelSettings

    def __init__(self, job: TableSpec) -> None:
        super().__init__(JOBS, NumericStatistics(), ModelSettings(), seed=0)
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(2 * WIDTH, 4), nn.Linear(4, 1)
        self.tables = {
            "deep": Table([job], width=WIDTH, seed=0, init_scale=0.5),
            "wide": Table([job], width=1, seed=1, init_scale=0.5),
        }

    def encode(self, features: Features) -> Encoded:
        raise NotImplementedError

    def head(self, encoded: Encoded) -> Tensor:
        raise NotImplementedError

    def forward_ids(self, one_n: Tensor, other_n: Tensor) -> Tensor:
        one, other = IdColumn("job", one_n), IdColumn("job", other_n)
        lend = "checkout" if self.training else "read"
        (deep_nFW,) = getattr(self.tables["deep"], lend)([[one, other]]).blocks
        (wide_n1,) = getattr(self.tables["wide"], lend)([[one]]).blocks
        logits_n1: Tensor = self.last(torch.tanh(self.first(deep_nFW))) + wide_n1
        return logits_n1


class Dense(nn.Module):
    """The same model with its tables as torch's own dense embeddings."""

    def __init__(self, model: TwoTables) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2 * WIDTH, 4), nn.Linear(4, 1)
        self.first.load_state_dict(model.first.state_dict())
        self.last.load_state_dict(model.last.state_dict())
        self.deep = nn.Embedding.from_pretrained(rows_of(model, "deep"), freeze=False)
        self.wide = nn.Embedding.from_pretrained(rows_of(model, "wide"), freeze=False)

    def forward(self, one_n: Tensor, other_n: Tensor) -> Tensor:
        deep_nFW = torch.cat([self.deep(one_n), self.deep(other_n)], dim=1)
        logits_n1: Tensor = self.last(torch.tanh(self.first(deep_nFW))) + self.wide(one_n)
        return logits_n1


def rows_of(model: TwoTables, part: str) -> Tensor:
    (rows_UW,) = model.tables[part].read([[IdColumn("job", torch.arange(NUM_IDS))]]).blocks
    return rows_UW.detach().clone()


def known(model: TwoTables) -> TwoTables:
    """After each id was seen once, without moving a row: an id never seen reads the default row."""
    for table in model.tables.values():
        table.train_with(Sgd(learning_rate=1e-9))
        table.checkout([[IdColumn("job", torch.arange(NUM_IDS))]])
        table.apply()
    return model


def steps(num_steps: int) -> list[tuple[Tensor, Tensor]]:
    """Ids of two columns, many of them twice and some never."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randint(0, 5, (9,), generator=generator), torch.randint(0, NUM_IDS, (9,), generator=generator))
        for _ in range(num_steps)
    ]


def reference(model: TwoTables) -> tuple[Dense, torch.optim.Optimizer, dict[str, list[nn.Parameter]]]:
    dense = Dense(model)
    groups = {
        "deep": list(dense.deep.parameters()), "wide": list(dense.wide.parameters()),
        "last": list(dense.last.parameters()), "": list(dense.first.parameters()),
    }  # fmt: skip
    rates = {"deep": 0.0625, "wide": 0.125, "last": 0.25, "": 0.5}
    return dense, torch.optim.SGD([{"params": groups[name], "lr": rates[name]} for name in groups], lr=0.0), groups


@pytest.mark.parametrize("share", [1e-4, 0.7, 1e6])
@pytest.mark.parametrize("own", [{}, {"deep": 0.2, "last": 0.1}])
def test_clipped_steps_are_those_of_a_dense_model(share: float, own: dict[str, float]) -> None:
    """Four steps; the limit is a share of the first gradient's norm."""
    model = known(TwoTables(TableSpec(name="job", num_ids=NUM_IDS)))
    first = Dense(model)
    first(*steps(1)[0]).pow(2).sum().backward()
    clip = share * nn.utils.get_total_norm([p.grad for p in first.parameters() if p.grad is not None]).item()
    plan = OptimizerPlan(
        dense=SGD.dense, dense_groups=SGD.dense_groups, rows=SGD.rows, default_rows=SGD.default_rows, clip_norm=clip,
        clip_rows={name: limit for name, limit in own.items() if name == "deep"},
        clip_dense={name: limit for name, limit in own.items() if name == "last"},
    )  # fmt: skip
    optimizers = plan.start(model, nn.Identity())
    dense, sgd, groups = reference(model)
    model.train()
    norms = []
    for one_n, other_n in steps(4):
        model.forward_ids(one_n, other_n).pow(2).sum().backward()
        optimizers.step()
        sgd.zero_grad()
        dense(one_n, other_n).pow(2).sum().backward()
        for name, limit in own.items():
            nn.utils.clip_grad_norm_(groups[name], limit)
        norms.append(nn.utils.clip_grad_norm_(dense.parameters(), clip).item())
        sgd.step()
    if not own:
        assert (norms[0] > clip) == (share < 1)
    model.eval()
    for part in ("deep", "wide"):
        torch.testing.assert_close(
            rows_of(model, part), dense.get_submodule(part).weight.detach(), rtol=2e-5, atol=1e-6
        )
    for name in ("first.weight", "last.bias"):
        torch.testing.assert_close(model.get_parameter(name), dense.get_parameter(name), rtol=2e-5, atol=1e-6)


def test_a_limit_above_every_norm_changes_no_bit() -> None:
    moved = []
    for clip in (None, 1e6):
        model = known(TwoTables(TableSpec(name="job", num_ids=NUM_IDS)))
        plan = OptimizerPlan(dense=SGD.dense, default_rows=SGD.default_rows, clip_norm=clip)
        optimizers = plan.start(model, nn.Identity())
        for one_n, other_n in steps(3):
            model.train().forward_ids(one_n, other_n).pow(2).sum().backward()
            optimizers.step()
        moved.append([rows_of(model.eval(), "deep"), rows_of(model, "wide"), *model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*moved, strict=True))


def test_the_cost_of_clipping_follows_the_batch() -> None:
    """Ids up to 2⁶³ - 1: a dense gradient of them is nowhere."""
    model = TwoTables(TableSpec(name="job", growing=True))
    plan = OptimizerPlan(dense=SGD.dense, default_rows=SGD.default_rows, clip_norm=1e-3)
    optimizers = plan.start(model, nn.Identity())
    ids_n = torch.tensor([2**63 - 1, 0, 2**63 - 1])
    before = model.tables["wide"].checkout([[IdColumn("job", ids_n)]]).blocks[0].detach().clone()
    optimizers.abandon()  # lent once, so that the rows are there
    model.train().forward_ids(ids_n, ids_n).sum().backward()
    optimizers.step()
    after = model.tables["wide"].read([[IdColumn("job", ids_n)]]).blocks[0]
    assert 0 < (after - before).norm() < 0.0625 * 2e-3
    assert model.tables["wide"].num_seen == 2


def test_a_part_without_loans_and_a_parameter_without_gradient_count_as_nothing() -> None:
    model = known(TwoTables(TableSpec(name="job", num_ids=NUM_IDS)))
    plan = OptimizerPlan(dense=SGD.dense, default_rows=SGD.default_rows, clip_norm=0.5)
    optimizers = plan.start(model, nn.Identity())
    before = rows_of(model, "wide")
    (model.first.bias.sum() * 3).backward()  # ‖(3, 3, 3, 3)‖ = 6
    bias = model.first.bias.detach().clone()
    optimizers.step()
    torch.testing.assert_close(bias - model.first.bias, torch.full((4,), 0.5 * 3 * 0.5 / 6), rtol=1e-5, atol=0)
    assert torch.equal(rows_of(model.eval(), "wide"), before)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["table", "dense"])
def test_a_gradient_that_is_not_finite_moves_nothing(where: str, bad: float, clip: float | None) -> None:
    model = known(TwoTables(TableSpec(name="job", num_ids=NUM_IDS)))
    plan = OptimizerPlan(dense=SGD.dense, default_rows=SGD.default_rows, clip_norm=clip)
    optimizers = plan.start(model, nn.Identity())
    before = [rows_of(model, "deep"), rows_of(model, "wide"), *(p.detach().clone() for p in model.parameters())]
    ids_n = torch.tensor([1, 2])
    logits_n1 = model.train().forward_ids(ids_n, ids_n)
    logits_n1.sum().backward()
    if where == "table":
        (wide_n1,) = model.tables["wide"].checkout([[IdColumn("job", torch.tensor([3]))]]).blocks
        wide_n1.grad = torch.full_like(wide_n1, bad)
    else:
        assert model.first.bias.grad is not None
        model.first.bias.grad[1] = bad
    with pytest.raises(TrainingError, match="job" if where == "table" else r"\['first.bias'\]"):
        optimizers.step()
    optimizers.abandon()
    after = [rows_of(model.eval(), "deep"), rows_of(model, "wide"), *model.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
