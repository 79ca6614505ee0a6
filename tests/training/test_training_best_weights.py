"""What an epoch says, copied and put back.

Letters: n rows.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from filled_table import rows_of
from rankwell.data.statistics import NumericStatistics
from rankwell.models.wide_deep import Deep, DeepSettings, Logistic, LogisticSettings
from rankwell.schema import Action, Categorical, Schema, TableSpec
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.tables.ftrl import Ftrl
from rankwell.tables.loan import IdColumn
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.row_store import StoredRows
from rankwell.tables.table import Table
from rankwell.training.best_weights import copied_weights, put_weights
from rankwell.training.objectives import PointwiseObjective

SCHEMA = Schema(
    features=(Categorical(name="job", table="job"), Categorical(name="city", num_ids=9)),
    tables=(TableSpec(name="job", growing=True),),
    actions=(Action(name="click"),),
)
OBJECTIVE = PointwiseObjective(SCHEMA)


def logistic(rule: RowOptimizer, admission: int = 1) -> Logistic:
    settings = LogisticSettings(admission=admission, default_rate=0.0)
    model = Logistic(SCHEMA, NumericStatistics(), settings, seed=0)
    model.tables["wide"].train_with(rule)
    return model


def step(table: Table, name: str, ids: list[int], grads: list[float]) -> None:
    (block,) = table.checkout([[IdColumn(name, torch.tensor(ids))]]).blocks
    (block * torch.tensor(grads)[:, None]).sum().backward()
    table.apply()


def stored(table: Table, name: str) -> dict[int, tuple[list[float], list[float], int]]:
    """Row, state and sightings by key."""
    pieces: list[StoredRows] = list(table.chunks(name))
    return {
        key: (row, state, seen)
        for p in pieces
        for key, row, state, seen in zip(
            p.keys_n.tolist(), p.rows_nW.tolist(), p.state_nS.tolist(), p.sightings_n.tolist(), strict=True
        )
    }


@pytest.mark.parametrize("rule", [RowWiseAdaGrad(learning_rate=0.5, decay=0.1), Ftrl(learning_rate=0.5, l1=0.1)])
def test_the_model_says_again_what_it_said(rule: RowOptimizer) -> None:
    model = logistic(rule)
    table = model.tables["wide"]
    step(table, "job", [7, 2**63 - 1, 7, -1], [1.0, 2.0, 1.0, 4.0])
    step(table, "city", [3, 20], [1.0, 3.0])  # 20 has no row: the default row learns from it
    said = {name: rows_of(table, name, ids) for name, ids in (("job", [7, 2**63 - 1, -1, 8]), ("city", [3, 20, 4]))}
    assert said["city"][1:].any(dim=1).all()  # 4 was not seen either
    kept = copied_weights(model, OBJECTIVE)
    with torch.no_grad():
        model.bias.fill_(9.0)
    for _ in range(3):
        step(table, "job", [7, 8, 9], [1.0, 2.0, 3.0])
        step(table, "city", [3, 4], [1.0, 2.0])
    assert not torch.equal(rows_of(table, "job", [7, 2**63 - 1, -1, 8]), said["job"])
    put_weights(model, OBJECTIVE, kept)
    assert model.bias.tolist() == [0.0]
    assert torch.equal(rows_of(table, "job", [7, 2**63 - 1, -1, 8]), said["job"])
    assert torch.equal(rows_of(table, "city", [3, 20, 4]), said["city"])
    assert set(stored(table, "job")) == {-2, -1, 7, 2**63 - 1}  # 8 and 9 came later
    assert table.num_seen == 3


def test_the_sums_of_ftrl_belong_to_the_rows_they_stand_beside() -> None:
    model = logistic(Ftrl(learning_rate=0.5, l1=0.1))
    table = model.tables["wide"]
    step(table, "job", [7, 8], [1.0, 0.05])
    before = stored(table, "job")
    assert before[8] == ([0.0], [pytest.approx(0.05), pytest.approx(0.0025)], 1)  # |z| ≤ λ₁: zero, and yet remembered
    kept = copied_weights(model, OBJECTIVE)
    step(table, "job", [7, 8], [1.0, 1.0])
    put_weights(model, OBJECTIVE, kept)
    assert stored(table, "job") == before


def test_what_other_rules_remember_is_not_kept() -> None:
    model = logistic(RowWiseAdaGrad(learning_rate=0.5))
    table = model.tables["wide"]
    step(table, "job", [7], [1.0])
    kept = copied_weights(model, OBJECTIVE)
    assert sorted(name for name in kept if name.startswith("table/wide/job/")) == [
        "table/wide/job/keys_n", "table/wide/job/rows_nW", "table/wide/job/sightings_n"
    ]  # fmt: skip
    put_weights(model, OBJECTIVE, kept)
    assert stored(table, "job")[7][1] == [0.0]


def test_ids_that_wait_for_a_row_are_dropped() -> None:
    model = logistic(RowWiseAdaGrad(learning_rate=0.5), admission=2)
    table = model.tables["wide"]
    for name in ("job", "city"):
        step(table, name, [7, 7, 8], [1.0, 1.0, 1.0])
    kept = copied_weights(model, OBJECTIVE)
    put_weights(model, OBJECTIVE, kept)
    for name in ("job", "city"):
        assert {key: seen for key, (_, _, seen) in stored(table, name).items() if key >= 0} == {7: 2}


def test_copies_are_no_views() -> None:
    model = Deep(SCHEMA, NumericStatistics(), DeepSettings(width=2, hidden=(2,)), seed=0)
    for table in model.tables.values():
        table.train_with(RowWiseAdaGrad())
    kept = copied_weights(model, nn.Identity())  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    assert not any((tensor == 7.0).any() for tensor in kept.values())
