"""The three models by hand: sums that a reader can follow, schemas with parts left out, and how little builds one.

Letters: R requests · C candidates, flat · A actions · D model width.
"""

from __future__ import annotations

import inspect
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from filled_table import fill, put_rows, rows_of
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.request import batch_from_request
from rankwell.data.split import WholeLog
from rankwell.data.statistics import NumericStatistics, measure_numerics
from rankwell.errors import SchemaError
from rankwell.models.model import Model
from rankwell.models.wide_deep import Deep, DeepSettings, Logistic, WideDeep, WideDeepSettings
from rankwell.schema import Action, Bag, Categorical, Cross, Identity, Numeric, Place, Schema, Sequence
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.tables.hashing import cross_ids

ACTIONS = (Action(name="click"), Action(name="apply"))
MODELS = [Logistic, Deep, WideDeep]
every_model = pytest.mark.parametrize("kind", MODELS)


def statistics_of(schema: Schema) -> NumericStatistics:
    column = {"num_values": 3, "missing_rate": 0.0, "mean": 1.0, "sd": 1.0, "log_mean": 0.0, "log_sd": 1.0}
    names = [feature.name for feature in schema.visible_features if isinstance(feature, Numeric)]
    return NumericStatistics(columns={name: column | {"quantiles": (0.0, 1.0, 2.0)} for name in names})  # type: ignore[misc]


def randomised(model: Model) -> Model:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    for table in model.tables.values():
        fill(table, seed=1)
    return model.eval()


# --- by hand


def test_a_logistic_models_logit_is_the_plain_sum_of_its_weights() -> None:
    schema = Schema(
        features=(
            Categorical(name="member", on="request", num_ids=9),
            Numeric(name="years", on="request", transform=Identity()),
            Categorical(name="job", num_ids=9),
            Numeric(name="pay", transform=Identity()),
            Bag(name="skills", num_ids=9),
        ),
        sequences=(Sequence(name="h", fields=(Categorical(name="item", on="event", table="job"),)),),
        crosses=(Cross(of=("member", "job"), num_rows=1000),),
        actions=ACTIONS,
    )
    model = Logistic(schema, statistics_of(schema), seed=0).eval()
    wide, crosses = model.tables["wide"], model.tables["crosses"]
    put_rows(wide, "member", [4], torch.tensor([[0.5, 10.0]]))
    put_rows(wide, "job", [2], torch.tensor([[0.25, 20.0]]))
    put_rows(wide, "job", [3], torch.tensor([[-1.0, 0.0]]))
    put_rows(wide, "skills", [6], torch.tensor([[2.0, 0.0]]))
    put_rows(wide, "skills", [7], torch.tensor([[4.0, 0.0]]))
    name = "member_x_job"
    put_rows(crosses, name, range(1000), torch.arange(1000.0)[:, None].expand(-1, 2))
    (place,) = rows_of(crosses, name, cross_ids([torch.tensor([4]), torch.tensor([2])]).tolist())[:, 0].int().tolist()
    put_rows(crosses, name, range(1000), torch.zeros(1000, 2))
    put_rows(crosses, name, [place], torch.tensor([[7.0, 30.0]]))
    with torch.no_grad():
        model.bias.copy_(torch.tensor([0.125, 1.0]))
        model.wide.request_weights.copy_(torch.tensor([[0.1, 2.0]]))  # years
        model.wide.candidate_weights.copy_(torch.tensor([[0.01, 3.0]]))  # pay
    request = {
        "time_us": 9,
        "context": {"member": 4, "years": 3.0},
        "history": {"h": {"item": [2, 3], "time_us": [1, 2]}},
        "candidates": {"job": [2, 3], "pay": [100.0, 0.0], "skills": [[6, 7], []]},
    }
    logits_CA = model(batch_from_request(request, schema).features)
    history = (0.25 - 1.0) / 2
    expected = [
        #  bias   member years    history   job    pay         skills       member_x_job
        [0.125 + 0.5 + 0.1 * 3 + history + 0.25 + 0.01 * 100 + (2 + 4) / 2 + 7.0,
         1.0 + 10 + 2 * 3 + 10 + 20 + 3 * 100 + 0 + 30],
        [0.125 + 0.5 + 0.1 * 3 + history - 1.0, 1.0 + 10 + 2 * 3 + 10],
    ]  # fmt: skip
    torch.testing.assert_close(logits_CA, torch.tensor(expected))


EVERYTHING = Schema(
    features=(
        Categorical(name="member", on="request", num_ids=9),
        Categorical(name="job", num_ids=9),
        Numeric(name="pay"),
        Place(name="home", on="request"),
        Place(name="office"),
    ),
    crosses=(Cross(of=("member", "job"), num_rows=64),),
    actions=ACTIONS,
)
REQUEST = {
    "context": {"member": 4, "home": [52.5, 13.4]},
    "candidates": {"job": [2, 3, 3], "pay": [1.0, 0.5, -7.0], "office": [[48.9, 2.4], [0.0, 0.0], [52.5, 13.4]]},
}


def test_wide_and_deep_is_wide_plus_deep_plus_bias() -> None:
    features = batch_from_request(REQUEST, EVERYTHING).features
    settings = WideDeepSettings(deep=DeepSettings(width=4, hidden=(5, 3)))
    model = WideDeep(EVERYTHING, statistics_of(EVERYTHING), settings, seed=0)
    randomised(model)
    rows_C = torch.cat([_rows(model, "job", [2, 3, 3]), *[_rows(model, "member", [4]).expand(3, -1)]], dim=1)
    wide_CA = model.wide(features)
    inputs_CN = torch.cat(
        [
            rows_C[:, :4],
            model.deep.inputs.on_candidate(features.candidates, 3),
            model.deep.inputs.distances(features),
            rows_C[:, 4:],
            model.deep.inputs.on_request(features.context, 1).expand(3, -1),
        ],
        dim=1,
    )
    first, second = (layer for layer in model.deep.layers if isinstance(layer, torch.nn.Linear))
    hidden_CD = (inputs_CN @ first.weight.T + first.bias).clamp(min=0)
    hidden_CD = (hidden_CD @ second.weight.T + second.bias).clamp(min=0)
    expected_CA = hidden_CD @ model.last.weight.T + wide_CA + model.last.bias
    torch.testing.assert_close(model(features), expected_CA)
    # And each half alone is what it is in the whole.
    deep = Deep(EVERYTHING, statistics_of(EVERYTHING), settings.deep, seed=0).eval()
    assert model.deep.state_dict().keys() == deep.deep.state_dict().keys()
    for part, table in model.deep.tables.items():
        for name in table.names:
            for rows in table.chunks(name):
                deep.tables[part].insert(name, rows)
    deep.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("wide")})
    torch.testing.assert_close(model(features) - deep(features), wide_CA)


def _rows(model: Model, table: str, ids: list[int]) -> Tensor:
    return rows_of(model.tables["deep"], table, ids)


@every_model
def test_a_model_is_its_head_on_what_it_encodes(kind: Any) -> None:
    model = randomised(kind(EVERYTHING, statistics_of(EVERYTHING), seed=0))
    features = batch_from_request(REQUEST, EVERYTHING).features
    encoded = model.encode(features)
    assert torch.equal(model.head(encoded), model(features))
    assert len(encoded.candidate_CD) == 3
    assert len(encoded.request_RD) == 1
    assert not encoded.attention


# --- schemas with parts left out

PARTS: dict[str, tuple[Schema, dict[str, Any]]] = {
    "no ids": (
        Schema(features=(Numeric(name="x"), Numeric(name="y", on="request")), actions=ACTIONS),
        {"context": {"y": 1.0}, "candidates": {"x": [1.0, 2.0]}},
    ),
    "no numerics": (
        Schema(features=(Categorical(name="x"), Categorical(name="y", on="request")), actions=ACTIONS),
        {"context": {"y": 1}, "candidates": {"x": [1, 2]}},
    ),
    "request only": (
        Schema(features=(Categorical(name="x", on="request"), Numeric(name="y", on="request")), actions=ACTIONS),
        {"context": {"x": 1, "y": 2.0}, "candidates": {"undeclared": [1, 2]}},
    ),
    "one request numeric": (
        Schema(features=(Numeric(name="y", on="request"),), actions=ACTIONS),
        {"context": {"y": 2.0}, "candidates": {"undeclared": [1, 2]}},
    ),
    "one bag": (
        Schema(features=(Bag(name="x"),), actions=ACTIONS),
        {"candidates": {"x": [[1, 2], []]}},
    ),
    "history only": (
        Schema(
            features=(),
            sequences=(Sequence(name="h", fields=(Categorical(name="item", on="event"),)),),
            actions=ACTIONS,
        ),
        {"time_us": 9, "history": {"h": {"item": [1], "time_us": [3]}}, "candidates": {"undeclared": [1, 2]}},
    ),
    "a protected attribute shown": (
        Schema(features=(), protected=(Categorical(name="x"),), visible_protected=("x",), actions=ACTIONS),
        {"candidates": {"x": [1, 2]}},
    ),
}


@every_model
@pytest.mark.parametrize("part", PARTS)
def test_any_part_of_a_schema_makes_a_model_that_learns(kind: Any, part: str) -> None:
    schema, request = PARTS[part]
    model = kind(schema, statistics_of(schema), seed=0)
    features = batch_from_request(request, schema).features
    for table in model.tables.values():
        table.train_with(RowWiseAdaGrad(learning_rate=0.05))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    before = model.train()(features).detach()
    assert before.shape == (2, 2)
    for table in model.tables.values():
        table.abandon()
    for _ in range(20):
        optimizer.zero_grad()
        (model(features)[0] - 1.0).square().sum().backward()
        optimizer.step()
        for table in model.tables.values():
            table.apply()
    after = model.eval()(features).detach()
    assert after.isfinite().all()
    assert (after[0] - 1.0).abs().sum() < 0.8 * (before[0] - 1.0).abs().sum()


@every_model
def test_tables_are_those_of_the_parts_that_read_ids(kind: Any) -> None:
    numerics, ids = PARTS["no ids"][0], PARTS["no numerics"][0]
    assert dict(kind(numerics, statistics_of(numerics), seed=0).tables) == {}
    expected = {Logistic: ["wide"], Deep: ["deep"], WideDeep: ["deep", "wide"]}
    assert sorted(kind(ids, statistics_of(ids), seed=0).tables) == expected[kind]


@every_model
def test_a_model_with_nothing_to_read_is_refused_when_it_is_built(kind: Any) -> None:
    hidden = Schema(features=(), protected=(Categorical(name="gender"),), actions=ACTIONS)
    with pytest.raises(SchemaError) as caught:
        kind(hidden, NumericStatistics(), seed=0)
    assert caught.value.what == f"{kind.__name__} has nothing to read"
    assert "1 protected attributes that models may not see" in str(caught.value.found)
    assert caught.value.allowed == "at least one feature or one sequence"
    assert "`features`" in str(caught.value.do)


@every_model
def test_a_request_without_candidates_has_no_logits(kind: Any) -> None:
    empty = REQUEST | {"candidates": {"job": [], "pay": [], "office": []}}
    model = randomised(kind(EVERYTHING, statistics_of(EVERYTHING), seed=0))
    assert model(batch_from_request(empty, EVERYTHING).features).shape == (0, 2)


# --- ten lines


def build_all_three(table: pa.Table) -> list[Model]:
    schema = Schema(
        features=(Categorical(name="job"), Numeric(name="pay"), Categorical(name="member", on="request")),
        crosses=(Cross(of=("job", "member")),),
        actions=(Action(name="click"),), request_id=None, member_id=None, time=None,
    )  # fmt: skip
    log = log_from_table(table, schema)
    batches = Batches(log, WholeLog("train"), "train", num_requests=256, seed=0)
    statistics = measure_numerics((batch for _, batch in batches.epoch(0)), schema)
    return [kind(schema, statistics, seed=0) for kind in (Logistic, Deep, WideDeep)]


def test_three_models_are_built_in_ten_lines_from_a_table() -> None:
    table = pa.table({"job": ["cook", "pilot"], "pay": [1.0, 2.0], "member": [1, 1], "click": [0, 1]})
    logistic, deep, both = build_all_three(table)
    request = {"context": {"member": 1}, "candidates": {"job": ["cook", "clerk"], "pay": [1.0, 3.0]}}
    features = batch_from_request(request, logistic.schema).features
    assert all(model.eval()(features).shape == (2, 1) for model in (logistic, deep, both))
    assert logistic(features).tolist() == [[0.0], [0.0]]  # untrained: one half for everything
    assert both(features).isfinite().all()
    body = inspect.getsource(build_all_three).splitlines()[1:]
    assert len(body) <= 10
