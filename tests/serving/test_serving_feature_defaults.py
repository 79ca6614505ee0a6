from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from feature_example import SCHEMA, STATISTICS

from rankwell.errors import SchemaError
from rankwell.schema import Action, Categorical, Numeric, Schema, TableSpec
from rankwell.serving.feature_defaults import UNKNOWN_ID, FeatureDefaults, mean_place
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.tables.loan import IdColumn
from rankwell.tables.quotient_remainder import part_columns
from rankwell.tables.table import Table
from rankwell.types import MISSING_ID

SPECS = (
    TableSpec(name="direct", num_ids=5),
    TableSpec(name="growing", growing=True),
    TableSpec(name="composed", num_ids=50, num_remainders=8),
    TableSpec(name="hashed", num_rows=4),
)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_default_id_reads_a_row_of_nobody(spec: TableSpec) -> None:
    schema = Schema(
        features=(Categorical(name="job", table=spec.name),), actions=(Action(name="click"),), tables=(spec,)
    )
    default = int(FeatureDefaults(schema).of("job"))
    table = Table(spec.parts(), width=2, seed=0, init_scale=0.1, default_rate=0.5)
    table.train_with(RowWiseAdaGrad(learning_rate=0.1))

    def columns(ids: list[int]) -> tuple[IdColumn, ...]:
        return part_columns(spec, torch.tensor(ids))

    for _ in range(9):  # every id there is, each row moved, the default row among them
        table.checkout([columns(list(range(spec.num_ids or 200)))]).blocks[0].sum().backward()
        table.apply()
    row, missing, unseen = table.read([columns([default, MISSING_ID, 10**6])]).blocks[0].tolist()
    if spec.hashed:
        assert default == MISSING_ID
        assert row == [0.0, 0.0]  # it says nothing; UNKNOWN_ID would read the row of whoever is there
        assert unseen != [0.0, 0.0]
    else:
        assert default == UNKNOWN_ID
        assert row == unseen  # the default row,
        assert row != missing  # which training moved


def test_defaults_follow_the_schema_and_the_statistics() -> None:
    defaults = FeatureDefaults(SCHEMA, STATISTICS)
    assert int(defaults.of("title")) == MISSING_ID
    assert math.isnan(defaults.of("salary"))
    assert defaults.of("age").dtype == np.float32
    assert float(defaults.of("age")) == 7.25
    assert defaults.of("given").tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(SchemaError, match="place 'home' has no default"):
        defaults.of("home")
    with pytest.raises(SchemaError, match="mean is not known"):
        FeatureDefaults(SCHEMA).of("age")


def test_declared_defaults_come_first() -> None:
    declared = {"title": 3, "salary": 5, "years": float("nan"), "given": [1, 2, 3], "home": (52.5, 13.4), "age": 1}
    defaults = FeatureDefaults(SCHEMA, STATISTICS, declared)
    assert int(defaults.of("title")) == 3
    assert float(defaults.of("salary")) == 5.0
    assert math.isnan(defaults.of("years"))
    assert defaults.of("given").tolist() == [1.0, 2.0, 3.0]
    assert defaults.of("home").tolist() == np.float32([52.5, 13.4]).tolist()
    assert float(defaults.of("age")) == 1.0


@pytest.mark.parametrize(
    "declared",
    [
        {"nonsense": 1},
        {"history": 1},
        {"title": -2},
        {"title": 1.5},
        {"title": "clerk"},
        {"title": [1]},
        {"age": float("nan")},
        {"age": float("inf")},
        {"age": "old"},
        {"given": [1.0, 2.0]},
        {"given": [1.0, 2.0, float("nan")]},
        {"home": 3.0},
        {"skills": [1]},
    ],
    ids=str,
)
def test_defaults_that_are_none_of_their_kind_are_refused(declared: dict[str, object]) -> None:
    with pytest.raises(SchemaError):
        FeatureDefaults(SCHEMA, STATISTICS, declared)  # type: ignore[arg-type]


def test_a_mean_of_places_is_one_on_the_globe() -> None:
    assert mean_place(np.array([[52.5, 13.4]])) == pytest.approx((52.5, 13.4))
    assert mean_place(np.array([[10.0, 0.0], [10.0, 90.0], [10.0, 180.0], [10.0, -90.0]]))[0] == pytest.approx(90.0)
    latitude, longitude = mean_place(np.array([[0.0, 0.0], [0.0, 90.0]]))
    assert (latitude, longitude) == pytest.approx((0.0, 45.0))
    for places in ([[0.0, 0.0], [0.0, 180.0]], np.zeros((0, 2))):
        with pytest.raises(SchemaError, match="no middle"):
            mean_place(np.array(places))


def test_a_numeric_that_was_never_there_has_no_mean() -> None:
    schema = Schema(features=(Numeric(name="pay"),), actions=(Action(name="click"),))
    empty = STATISTICS.columns["age"].model_copy(update={"num_values": 0, "mean": 0.0})
    with pytest.raises(SchemaError, match="mean is not known"):
        FeatureDefaults(schema, STATISTICS.model_copy(update={"columns": {"pay": empty}})).of("pay")
