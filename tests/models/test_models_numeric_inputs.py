"""Numerics against plain arithmetic, places against the haversine formula.

Letters: n entries (R requests or C candidates) · N inputs.
"""

from __future__ import annotations

import bisect
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.request import batch_from_request
from rankwell.data.split import WholeLog
from rankwell.data.statistics import NumericStatistics, measure_numerics
from rankwell.errors import LogError, RequestError, SchemaError
from rankwell.models.numeric_inputs import BucketIds, DistanceInputs, NumericInputs
from rankwell.schema import (
    Action,
    Identity,
    Log,
    Numeric,
    PiecewiseLinear,
    Place,
    Quantiles,
    Schema,
    Standardise,
    Vector,
)
from rankwell.types import MISSING_ID, Features

ACTIONS = (Action(name="click"),)
NAN = math.nan
FEW = settings(max_examples=60, deadline=None, derandomize=True)
numbers = st.floats(-1e6, 1e6, width=32)


def schema_of(*features: Any) -> Schema:
    return Schema(features=features, actions=ACTIONS, request_id=None, member_id=None, time=None)


def measured(train: list[float], schema: Schema) -> NumericStatistics:
    table = pa.table({"x": pa.array(train, pa.float64()), "click": [0] * len(train)})
    batches = Batches(log_from_table(table, schema), WholeLog("train"), "train", num_requests=64, seed=None)
    return measure_numerics((batch for _, batch in batches.epoch(0)), schema)


def inputs(train: list[float], transform: Any, column: list[float], *, missing: str = "refuse") -> list[list[float]]:
    schema = schema_of(Numeric(name="x", transform=transform, missing=missing))  # type: ignore[arg-type]
    module = NumericInputs(schema, measured(train, schema), "candidate")
    block_nN = module({"x": torch.tensor(column)}, len(column))
    assert block_nN.shape == (len(column), module.width)
    assert block_nN.dtype == torch.float32
    found: list[list[float]] = block_nN.tolist()
    return found


def buckets(train: list[float], num_buckets: int, column: list[float]) -> list[int]:
    feature = Numeric(name="x", transform=Quantiles(num_buckets=num_buckets), missing="indicator")
    found: list[int] = BucketIds(feature, measured(train, schema_of(feature)))(torch.tensor(column)).tolist()
    return found


# --- one transform after the other


def test_identity_is_the_number_itself() -> None:
    assert inputs([1, 2], Identity(), [-3.5, 0.0, 1e30]) == [[-3.5], [0.0], [pytest.approx(1e30)]]


def test_standardise_is_the_distance_from_the_mean_in_sds() -> None:
    # mean 4, sd √((9 + 1 + 1 + 9) / 4) = √5
    found = inputs([1, 3, 5, 7], Standardise(), [4.0, 4 + math.sqrt(5), -1.0])
    assert found == [[0.0], [pytest.approx(1.0)], [pytest.approx(-math.sqrt(5))]]


@pytest.mark.parametrize("constant", [0.0, 0.1, -7.3e8, 50_000.0])
@pytest.mark.parametrize("transform", [Standardise(), Log(), PiecewiseLinear(num_pieces=3)])
def test_a_constant_column_becomes_zero_whatever_comes_later(constant: float, transform: Any) -> None:
    assert inputs([constant] * 7, transform, [constant, constant + 1, 1e9]) == [[0.0]] * 3


def test_a_column_with_a_small_spread_far_from_zero_is_no_constant() -> None:
    found = inputs([1e6, 1e6 + 1], Standardise(), [1e6, 1e6 + 1, 1e6 + 2])
    assert found == [[-1.0], [1.0], [3.0]]


def test_log_takes_signs_along() -> None:
    train = [0.0, math.e - 1, 1 - math.e]  # logs 0, 1, -1: mean 0, sd √(2/3)
    found = inputs(train, Log(), [0.0, math.e**2 - 1, 1 - math.e**2])
    assert [x for (x,) in found] == pytest.approx([0.0, 2 / math.sqrt(2 / 3), -2 / math.sqrt(2 / 3)], abs=1e-6)


@FEW
@given(st.lists(numbers, min_size=2, max_size=30), st.lists(numbers, min_size=1, max_size=10))
def test_log_and_standardise_equal_plain_python(train: list[float], column: list[float]) -> None:
    def slow(values: list[float], x: float) -> float:
        mean = math.fsum(values) / len(values)
        sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
        return 0.0 if sd <= 1e-12 * abs(mean) else (x - mean) / sd

    def ln(x: float) -> float:
        return math.copysign(math.log1p(abs(x)), x)

    for transform, of in ((Standardise(), float), (Log(), ln)):
        expected = [slow([of(v) for v in train], of(x)) for x in column]
        scale = 1 + max(map(abs, expected)) + max(map(abs, map(of, train))) / (np.std(list(map(of, train))) + 1e-30)
        found = [x for (x,) in inputs(train, transform, column)]
        assert found == pytest.approx(expected, abs=1e-6 * min(scale, 1e30))


# --- piecewise linear


def test_pieces_by_hand() -> None:
    train = list(map(float, range(9)))  # knots at 0, 2, 4, 6, 8
    found = inputs(train, PiecewiseLinear(num_pieces=4), [-5.0, 0.0, 1.0, 2.0, 5.0, 8.0, 99.0])
    low, half, high = -0.5, 0.0, 0.5
    assert found == [
        [low, low, low, low],
        [low, low, low, low],
        [half, low, low, low],
        [high, low, low, low],
        [high, high, half, low],
        [high, high, high, high],
        [high, high, high, high],  # what train never saw doesn't run away
    ]


def test_equal_knots_are_one() -> None:
    assert inputs([0.0] * 90 + [1.0] * 10, PiecewiseLinear(num_pieces=4), [0.0, 0.5, 1.0]) == [[-0.5], [0.0], [0.5]]


@FEW
@given(st.lists(numbers, min_size=2, max_size=40), st.integers(2, 9), st.lists(numbers, min_size=2, max_size=20))
def test_pieces_are_monotone_bounded_and_add_up(train: list[float], num_pieces: int, column: list[float]) -> None:
    if min(train) == max(train):
        return
    ends = [min(train), max(train)]
    block_nN = np.array(inputs(train, PiecewiseLinear(num_pieces=num_pieces), sorted(column) + ends))
    assert (np.abs(block_nN) <= 0.5).all()
    assert (np.diff(block_nN[:-2], axis=0) >= 0).all()
    # One piece after the other: a piece has only begun where all before it have ended.
    begun, ended = block_nN > -0.5, block_nN > 0.5 - 1e-4
    assert (begun[:, 1:] <= ended[:, :-1]).all()
    assert block_nN[-2].tolist() == [-0.5] * block_nN.shape[1]
    assert block_nN[-1] == pytest.approx(0.5, abs=1e-4)


@FEW
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=40), st.integers(2, 9))
def test_no_step_at_a_knot(train: list[int], num_pieces: int) -> None:
    if min(train) == max(train):
        return
    feature = Numeric(name="x", transform=PiecewiseLinear(num_pieces=num_pieces))
    statistics = measured([float(x) for x in train], schema_of(feature))
    module = NumericInputs(schema_of(feature), statistics, "candidate")
    knots = torch.tensor(statistics.columns["x"].quantiles).float().unique()
    below, above = (torch.nextafter(knots, torch.tensor(side)) for side in (-math.inf, math.inf))
    step = (module({"x": above}, len(knots)) - module({"x": below}, len(knots))).sum(1)
    # Pieces that are longer than 1e-2: there neighbours in float32 are close together.
    if float(knots.diff().min()) > 1e-2:
        assert float(step.max()) < 0.05


def test_a_linear_layer_on_pieces_is_the_interpolation_of_its_sums_at_the_knots() -> None:
    train = [0.0, 1.0, 4.0, 10.0, 100.0]
    column = [0.0, 0.5, 1.0, 3.0, 9.0, 55.0, 100.0]
    block_nN = np.array(inputs(train, PiecewiseLinear(num_pieces=4), column))
    weights_N = np.array([2.0, -3.0, 5.0, 0.5])
    at_knots = np.concatenate([[0], np.cumsum(weights_N)])
    assert (block_nN + 0.5) @ weights_N == pytest.approx(np.interp(column, train, at_knots), abs=1e-5)


# --- buckets


def test_a_bucket_begins_at_its_edge() -> None:
    train = list(map(float, range(9)))  # edges 2, 4, 6
    assert buckets(train, 4, [-9.0, 0.0, 1.9, 2.0, 2.1, 4.0, 5.9, 6.0, 8.0, 99.0]) == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]


def test_equal_edges_are_merged() -> None:
    assert buckets([0.0] * 90 + [1.0] * 10, 4, [-1.0, 0.0, 0.5, 1.0]) == [0, 1, 1, 1]
    assert buckets([3.0] * 5, 4, [2.9, 3.0]) == [0, 1]


def test_a_missing_value_is_the_missing_id() -> None:
    assert buckets([0.0, 1.0, 2.0, NAN], 2, [NAN, 0.0, 1.0]) == [MISSING_ID, 0, 1]
    assert buckets([NAN, NAN], 2, [NAN, 5.0]) == [MISSING_ID, 1]


@FEW
@given(st.lists(numbers, min_size=1, max_size=40), st.integers(2, 20), st.lists(numbers, min_size=1, max_size=10))
def test_buckets_count_the_edges_at_or_below(train: list[float], num_buckets: int, column: list[float]) -> None:
    exact = np.quantile(np.array(train, np.float64), np.linspace(0, 1, 257))
    places = np.linspace(0, 256, num_buckets + 1)[1:-1]
    edges = sorted(set(np.interp(places, np.arange(257), exact).astype(np.float32).tolist()))
    found = buckets(train, num_buckets, column)
    near = [min((abs(x - e) for e in edges), default=1.0) < 1e-5 * (1 + abs(x)) for x in column]
    assert [f for f, n in zip(found, near, strict=True) if not n] == [
        bisect.bisect_right(edges, x) for x, n in zip(column, near, strict=True) if not n
    ]
    assert all(0 <= f < num_buckets for f in found)


# --- missing values


@pytest.mark.parametrize(
    ("transform", "filling"),
    [
        (Identity(), [3.0]),  # the mean of 0, 2, 4, 6
        (Standardise(), [0.0]),
        (Log(), [0.0]),
        (PiecewiseLinear(num_pieces=2), [0.5, -0.5]),  # 3 is the middle knot
    ],
)
def test_a_missing_value_becomes_the_mean_and_says_so(transform: Any, filling: list[float]) -> None:
    missing, known = inputs([0.0, 2.0, 4.0, 6.0, NAN], transform, [NAN, 4.0], missing="indicator")
    assert missing == [*filling, 1.0]
    assert known[-1] == 0.0
    assert [known[:-1]] == inputs([0.0, 2.0, 4.0, 6.0], transform, [4.0])


def test_a_column_of_missing_values_only() -> None:
    for transform in (Identity(), Standardise(), Log(), PiecewiseLinear()):
        missing, known = inputs([NAN, NAN], transform, [NAN, 5.0], missing="indicator")
        assert missing == [0.0, 1.0]
        assert known[-1] == 0.0
        assert math.isfinite(known[0])


def test_a_missing_value_that_is_not_declared_is_refused_where_data_come_in() -> None:
    schema = schema_of(Numeric(name="x"))
    with pytest.raises(LogError, match=r"(?s)column 'x'.*row 1.*NaN or null.*missing='indicator'"):
        measured([0.0, NAN], schema)
    with pytest.raises(RequestError, match=r"(?s)\['x'\] has a missing value.*missing='indicator'"):
        batch_from_request({"candidates": {"x": [0.0, None]}}, schema)
    # And one that came all the same isn't hidden: it goes through to the logit, where it is noticed.
    assert math.isnan(inputs([0.0, 1.0], Standardise(), [NAN])[0][0])


# --- side by side


def test_each_side_has_its_own_columns_in_the_order_of_the_schema() -> None:
    schema = schema_of(
        Numeric(name="b", transform=Identity(), on="request"),
        Numeric(name="a", transform=Identity()),
        Vector(name="v", width=2),
        Numeric(name="type", transform=Identity()),
        Numeric(name="bucketed", transform=Quantiles()),
    )
    column = {"num_values": 1, "missing_rate": 0.0, "mean": 0.0, "sd": 1.0, "log_mean": 0.0, "log_sd": 1.0}
    statistics = NumericStatistics(
        columns={name: column | {"quantiles": (0.0, 1.0)} for name in ("a", "b", "type", "bucketed")}  # type: ignore[misc]
    )
    candidates = {"v": torch.tensor([[5.0, 6.0]]), "type": torch.tensor([7.0]), "a": torch.tensor([4.0])}
    assert NumericInputs(schema, statistics, "candidate")(candidates, 1).tolist() == [[4.0, 5.0, 6.0, 7.0]]
    assert NumericInputs(schema, statistics, "request")({"b": torch.tensor([3.0])}, 1).tolist() == [[3.0]]
    nothing = NumericInputs(schema_of(Numeric(name="a")), statistics, "request")
    assert nothing({}, 3).shape == (3, 0)


def test_numerics_without_statistics_say_where_to_get_them() -> None:
    schema = schema_of(Numeric(name="x"))
    with pytest.raises(SchemaError, match=r"(?s)numeric 'x' has no statistics; found: \[\].*measure_numerics"):
        NumericInputs(schema, NumericStatistics(), "candidate")


# --- places

CITIES = {
    "Berlin": (52.5200, 13.4050), "Paris": (48.8566, 2.3522), "Sydney": (-33.8688, 151.2093),
    "New York": (40.7128, -74.0060), "Suva": (-18.1248, 178.4501), "Apia": (-13.8506, -171.7513),
    "north pole": (90.0, 0.0), "south pole": (-90.0, 77.0), "null island": (0.0, 0.0), "its antipode": (0.0, 180.0),
}  # fmt: skip
PLACES = schema_of(Place(name="home", on="request"), Place(name="office"))


def haversine_km(one: tuple[float, float], other: tuple[float, float]) -> float:
    (lat, lon), (lat2, lon2) = (tuple(map(math.radians, place)) for place in (one, other))
    h = math.sin((lat2 - lat) / 2) ** 2 + math.cos(lat) * math.cos(lat2) * math.sin((lon2 - lon) / 2) ** 2
    return 2 * 6371.0088 * math.asin(math.sqrt(min(h, 1.0)))


def model_km(home: tuple[float, float], offices: list[tuple[float, float]]) -> list[float]:
    num = len(offices)
    features = Features(
        {"home": torch.tensor([home])}, {}, {"office": torch.tensor(offices)}, torch.tensor([0, num]),
        torch.zeros(num, dtype=torch.int64),
    )  # fmt: skip
    inputs_C1: Tensor = DistanceInputs(PLACES)(features)
    assert inputs_C1.shape == (num, 1)
    assert float(inputs_C1.min()) >= -1.0
    assert float(inputs_C1.max()) <= 1.0
    largest = math.log1p(math.pi * 6371.0088)
    found: list[float] = torch.expm1((inputs_C1[:, 0].double() + 1) * largest / 2).tolist()
    return found


def test_distances_are_those_of_the_haversine_formula() -> None:
    assert haversine_km(CITIES["Berlin"], CITIES["Paris"]) == pytest.approx(878, abs=1)  # known
    assert haversine_km(CITIES["New York"], CITIES["Sydney"]) == pytest.approx(15_989, abs=5)
    assert haversine_km(CITIES["Suva"], CITIES["Apia"]) == pytest.approx(1_144, abs=15)  # across the date line
    for name, place in CITIES.items():
        expected = [haversine_km(place, other) for other in CITIES.values()]
        # float32 degrees and chords: a metre where it is near, kilometres at the antipode, where the sine is flat
        for other, found, km in zip(CITIES, model_km(place, list(CITIES.values())), expected, strict=True):
            assert found == pytest.approx(km, rel=1e-3, abs=2e-3), (name, other)


def test_the_same_point_is_no_distance_and_the_antipode_the_greatest() -> None:
    for place in CITIES.values():
        # many copies: vectorised arithmetic and its remainder must agree
        assert max(model_km(place, [place] * 37)) < 2e-3
    assert model_km((0.0, 0.0), [(0.0, 180.0), (0.0, -180.0)]) == pytest.approx([20_015.1] * 2, rel=1e-3)
    assert model_km((90.0, 12.0), [(90.0, -100.0)]) == pytest.approx([0.0], abs=2e-3)  # at a pole all meridians meet


def test_a_place_is_a_unit_vector_without_a_seam_at_the_date_line() -> None:
    module = NumericInputs(PLACES, NumericStatistics(), "candidate")

    def vector(*place: float) -> list[float]:
        found: list[float] = module({"office": torch.tensor([place])}, 1)[0].tolist()
        return found

    assert vector(0, 0) == pytest.approx([1, 0, 0], abs=1e-6)
    assert vector(0, 90) == pytest.approx([0, 1, 0], abs=1e-6)
    assert vector(90, 123) == pytest.approx([0, 0, 1], abs=1e-6)
    assert vector(10, 180) == pytest.approx(vector(10, -180), abs=1e-6)
    assert vector(10, 179.999) == pytest.approx(vector(10, -179.999), abs=1e-4)
    for place in CITIES.values():
        assert math.hypot(*vector(*place)) == pytest.approx(1.0, abs=1e-6)


def test_every_pair_of_a_home_and_an_office_has_a_distance() -> None:
    schema = schema_of(
        Place(name="a", on="request"),
        Place(name="b", on="request"),
        Place(name="c"),
        Place(name="d"),
        Numeric(name="x"),
    )
    assert DistanceInputs(schema).pairs == [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")]
    alone = DistanceInputs(schema_of(Place(name="c")))
    features = Features({}, {}, {"c": torch.zeros(2, 2)}, torch.tensor([0, 2]), torch.zeros(2, dtype=torch.int64))
    assert alone(features).shape == (2, 0)
