"""Predictions stand side by side with what happened, in the log's order, whatever the batches."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from training_example import drawing_model, in_order, jobs_log, jobs_table

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.batches import Batches
from rankwell.data.log import RequestLog, log_from_table
from rankwell.data.split import WholeLog
from rankwell.errors import SchemaError
from rankwell.models.wide_deep import Logistic
from rankwell.schema import Action, Categorical, Schema
from rankwell.training.predictions import Predictions, predict, predict_action
from rankwell.types import Batch

SCHEMA = Schema(
    features=(Categorical(name="job"), Categorical(name="town", on="request")),
    protected=(Categorical(name="gender", on="request"), Categorical(name="agency")),
    actions=(Action(name="click"), Action(name="stars", kind="graded", threshold=3)),
    member_id=None,
    time=None,
    item="job",
    weight="w",
)
TABLE = pa.table(
    {
        "request_id": [30, 10, 20],
        "town": [7, 8, 9],
        "gender": [1, 2, 1],
        "job": [[4, 5], [6], [4, 6, 5]],
        "agency": [[0, 1], [1], [0, 0, 1]],
        "click": pa.array([[0, 1], [None], [0, 0, 1]], pa.list_(pa.int8())),
        "click_observed": [[True, True], [True], [True, False, True]],
        "stars": [[0, 5], [3], [2, 4, 0]],
        "w": [[1.0, 2.0], [0.5], [0.0, 1.0, 3.0]],
    }
)


@pytest.fixture(scope="module")
def log() -> RequestLog:
    return log_from_table(TABLE, SCHEMA, layout="requests")


def batches_of(log: RequestLog, num_requests: int) -> list[Batch]:
    return [b for _, b in Batches(log, WholeLog("test"), "test", num_requests=num_requests, seed=None).epoch(0)]


def model_of(log: RequestLog) -> Logistic:
    model = Logistic(log.schema, drawing_model(jobs_log(9, 0)).statistics, seed=0)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([0.25, -1.0]))
    return model


@pytest.mark.parametrize("num_requests", [1, 2, 3])
def test_every_column_in_the_logs_order(num_requests: int, log: RequestLog) -> None:
    names = ("town", "job", "gender", "agency")
    predictions = predict(model_of(log), batches_of(log, num_requests), names)
    assert len(predictions) == 6
    assert predictions.request_C.tolist() == [0, 0, 1, 2, 2, 2]
    assert predictions.request_ids_C.tolist() == [30, 30, 10, 20, 20, 20]
    assert predictions.item_ids_C.tolist() == [4, 5, 6, 4, 6, 5]
    assert predictions.weights_C.tolist() == [1, 2, 0.5, 0, 1, 3]
    assert predictions.labels_CA.nan_to_num(nan=-1).tolist() == [[0, 0], [1, 1], [-1, 1], [0, 0], [-1, 1], [1, 0]]
    assert predictions.logits_CA.tolist() == [[0.25, -1.0]] * 6
    assert {name: column.tolist() for name, column in predictions.segments.items()} == {
        "town": [7, 7, 8, 9, 9, 9],  # a request's value stands beside each of its candidates
        "job": [4, 5, 6, 4, 6, 5],
        "gender": [1, 1, 2, 1, 1, 1],
        "agency": [0, 1, 1, 0, 0, 1],
    }
    assert {name: column.tolist() for name, column in predictions.gains.items()} == {"stars": [0, 31, 7, 3, 15, 0]}


def test_gains_are_the_declared_ones() -> None:
    stars = SCHEMA.actions[1].model_copy(update={"gains": (0.0, 0.5, 1.0, 2.0, 4.0, 9.0)})
    schema = SCHEMA.model_copy(update={"actions": (stars, SCHEMA.actions[0])})
    predictions = predict(Logistic(schema, drawing_model(jobs_log(9, 0)).statistics, seed=0),
                          batches_of(log_from_table(TABLE, schema, layout="requests"), 2))  # fmt: skip
    assert predictions.gains["stars"].tolist() == [0, 9, 2, 1, 4, 0]
    assert predictions.labels_CA[:, 0].tolist() == [0, 1, 1, 0, 1, 0]


def test_of_action_keeps_what_was_observed(log: RequestLog) -> None:
    predictions = predict(model_of(log), batches_of(log, 2))
    logits_C, labels_C, weights_C, known_C = predictions.of_action(0)
    assert known_C.tolist() == [True, True, False, True, False, True]
    assert labels_C.tolist() == [0, 1, 0, 1]
    assert weights_C.tolist() == [1, 2, 0, 3]
    assert logits_C.tolist() == [0.25] * 4
    assert predictions.of_action(1)[3].all()


@pytest.mark.parametrize("index", [0, 1])
def test_one_action_alone_says_the_same(index: int, log: RequestLog) -> None:
    logits_C, labels_C, weights_C, _ = predict(model_of(log), batches_of(log, 2)).of_action(index)
    alone = predict_action(model_of(log), batches_of(log, 1), index)
    for one, other in zip(alone, (logits_C, labels_C, weights_C), strict=True):
        assert torch.equal(one, other)


def test_logits_are_the_models_in_eval_mode() -> None:
    log = log_from_table(every_kind_table(30, 1), EVERY_KIND, layout="requests")
    model = drawing_model(log)
    (batch,) = batches_of(log, 30)
    expected = model.eval()(batch.features)
    model.train()
    torch.testing.assert_close(predict(model, batches_of(log, 4)).logits_CA, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_mode_is_put_back(training: bool, fails: bool, log: RequestLog) -> None:
    model = model_of(log).train(training)
    if fails:
        with pytest.raises(SchemaError, match="no column 'height' in the batch"):
            predict(model, batches_of(log, 2), ("height",))
    else:
        predict(model, batches_of(log, 2))
    assert model.training is training
    assert all(module.training is training for module in model.modules())


def test_no_batches_no_predictions(log: RequestLog) -> None:
    predictions = predict(model_of(log), [], ("town",))
    assert len(predictions) == 0
    assert predictions.logits_CA.shape == predictions.labels_CA.shape == (0, 2)
    assert predictions.segments["town"].shape == predictions.gains["stars"].shape == (0,)
    assert [len(column) for column in predict_action(model_of(log), [], 0)] == [0, 0, 0]


def test_predictions_are_plain_tensors(log: RequestLog) -> None:
    """Not those of inference mode, which autograd refuses."""
    predictions = predict(model_of(log), batches_of(log, 3), ("town",))
    columns = [getattr(predictions, name) for name in Predictions.__slots__ if name not in ("segments", "gains")]
    columns += [predictions.segments["town"], predictions.gains["stars"]]
    assert not any(column.is_inference() for column in columns)
    assert not any(column.is_inference() for column in predict_action(model_of(log), batches_of(log, 3), 0))


def test_predictions_keep_no_batch_alive() -> None:
    """Columns are copies: what they were cut from, and the features beside them, can go."""
    table, _ = jobs_table(500, 1)
    log = log_from_table(table, jobs_log(1, 0).schema)
    (batch,) = (batch for _, batch in in_order(log).epoch(0))
    predictions = predict(drawing_model(log), [batch])
    for column in (predictions.weights_C, predictions.request_ids_C, predictions.item_ids_C, predictions.request_C):
        assert column.untyped_storage().nbytes() == column.nbytes
    assert predictions.weights_C.data_ptr() != batch.targets.weights_C.data_ptr()
