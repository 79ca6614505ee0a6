"""The model of what comes next: its logits by hand, its states, and its vectors of items.

Letters: R requests · C candidates, flat · H history events, flat · U items · D width.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import NumericStatistics, measure_numerics
from rankwell.errors import SchemaError
from rankwell.models.history import HistorySettings
from rankwell.models.next_item import NextItem, NextItemSettings
from rankwell.schema import Action, Categorical, Numeric, Schema, Sequence, TableSpec
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.tables.loan import IdColumn
from rankwell.types import Batch, Events

WIDTH = 8
EVERY_ITEM = IdColumn("item", torch.arange(20))
SETTINGS = NextItemSettings(history=HistorySettings(width=WIDTH, num_heads=2), default_rate=0.0)


def schema_of(**changed: Any) -> Schema:
    """Items 0 … 19, and a history of them."""
    fields = (Categorical(name="item", on="event", table="item"),)
    given: dict[str, Any] = {
        "features": (Categorical(name="item", table="item"),),
        "tables": (TableSpec(name="item", num_ids=20),),
        "sequences": (Sequence(name="history", fields=fields, time=None, max_length=60),),
        "actions": (Action(name="next"),),
        "item": "item",
        "request_id": None,
        "member_id": None,
        "time": None,
    }
    return Schema(**{**given, **changed})


def batch_of(histories: list[list[int]], items: list[list[int]], schema: Schema | None = None) -> Batch:
    labels = [[1] + [0] * (len(some) - 1) for some in items]
    table = pa.table({"history_item": pa.array(histories, pa.list_(pa.int64())), "item": items, "next": labels})
    log = log_from_table(table, schema or schema_of(), layout="requests")
    whole = Batches(log, WholeLog("test"), "test", num_requests=len(items), seed=None)
    ((_, batch),) = whole.epoch(0)
    return batch


def model_of(schema: Schema | None = None, *, settings: NextItemSettings = SETTINGS) -> NextItem:
    """With rows that training has seen."""
    schema = schema or schema_of()
    model = NextItem(schema, NumericStatistics(), settings, seed=3)
    model.tables["items"].train_with(RowWiseAdaGrad(learning_rate=0.1))
    model.train().item_vectors(torch.arange(20)).sum().backward()
    model.tables["items"].apply()
    return model.eval()


def test_a_logit_is_the_product_of_the_state_and_the_row() -> None:
    model, batch = model_of(), batch_of([[1, 2, 3], []], [[4, 5], [6]])
    with torch.no_grad():
        model.scale.copy_(torch.linspace(0.5, 2, WIDTH).unsqueeze(1))
        model.bias.fill_(0.25)
        encoded = model.encode(batch.features)
        vectors = model.item_vectors(torch.tensor([4, 5, 6]))
        by_hand = [float(encoded.request_RD[r] @ vectors[c]) + 0.25 for c, r in enumerate((0, 0, 1))]
        assert torch.allclose(model(batch.features).squeeze(1), torch.tensor(by_hand), atol=1e-6)


def test_the_history_reads_a_row_as_it_is() -> None:
    bare = NextItemSettings(history=HistorySettings(width=WIDTH, num_heads=2, num_layers=0, knows_order=False))
    model = model_of(settings=bare)
    rows_HD = model.item_vectors(torch.tensor([1, 2, 3])) / model.scale[:, 0]
    event_HD = model.encode(batch_of([[1, 2, 3]], [[4]]).features).event_HD["history"]
    assert torch.allclose(event_HD, model.history.layers.norm(math.sqrt(WIDTH) * rows_HD), atol=1e-6)
    assert model.history.project is None  # nothing else is known of an event


def test_what_stands_beside_the_item_in_an_event_is_mapped_and_added() -> None:
    fields = (
        Categorical(name="kind", on="event", num_ids=3),
        Categorical(name="item", on="event", table="item"),
        Categorical(name="place", on="event", num_ids=3),
    )
    schema = schema_of(sequences=(Sequence(name="history", fields=fields, time=None),))
    history = NextItem(schema, NumericStatistics(), SETTINGS, seed=0).history
    assert history.project is not None
    kind_HD, item_HD, place_HD = (torch.randn(4, WIDTH) for _ in fields)
    events = Events({}, torch.tensor([0, 4]))
    expected = history(torch.cat([kind_HD, item_HD, place_HD], dim=1), events).states_RTD
    x_HD = math.sqrt(WIDTH) * item_HD + history.project(torch.cat([kind_HD, place_HD], dim=1))
    history.project, history._own_at = None, 0
    assert torch.allclose(history(x_HD / math.sqrt(WIDTH), events).states_RTD, expected, atol=1e-5)


def test_a_state_knows_nothing_of_later_events() -> None:
    model = model_of()
    one, other = ([1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 9, 9])
    # by recency, so places count from the end: what is held equal is how many come after
    states = [model.encode(batch_of([history], [[7]]).features).event_HD["history"] for history in (one, other)]
    assert torch.allclose(states[0][:3], states[1][:3], atol=1e-6)
    assert not torch.allclose(states[0][3:], states[1][3:], atol=1e-3)


def test_a_request_is_its_latest_state() -> None:
    encoded = model_of().encode(batch_of([[1, 2, 3], [4]], [[7], [8]]).features)
    assert torch.equal(encoded.request_RD, encoded.event_HD["history"][[2, 3]])


def test_histories_of_like_length_together_give_what_all_together_give(monkeypatch: pytest.MonkeyPatch) -> None:
    histories = [[(r * 7 + h) % 20 for h in range(length)] for r, length in enumerate([1, 60, 3, 0, 2] * 6)]
    batch = batch_of(histories, [[r % 20] for r in range(30)])
    model = model_of()
    apart = model.encode(batch.features)
    monkeypatch.setattr("rankwell.models.next_item.length_groups", lambda offsets: (torch.arange(len(offsets) - 1),))
    together = model.encode(batch.features)
    assert torch.allclose(apart.request_RD, together.request_RD, atol=1e-5)
    assert torch.allclose(apart.event_HD["history"], together.event_HD["history"], atol=1e-5)


def test_what_is_known_of_a_request_tells_its_events_nothing() -> None:
    statistics = measure_numerics(batches_of_every_kind(), EVERY_KIND)
    model = NextItem(EVERY_KIND, statistics, SETTINGS, seed=0).eval()
    (batch,) = batches_of_every_kind()
    features = batch.features
    title_R = features.context["title"]
    assert isinstance(title_R, Tensor)
    model.tables["items"].train_with(RowWiseAdaGrad(learning_rate=0.1))
    model.train()(features).sum().backward()
    model.tables["items"].apply()
    model.eval()
    other = dataclasses.replace(features, context={**features.context, "title": (title_R + 1).clamp(max=5)})
    one, two = model.encode(features), model.encode(other)
    assert torch.equal(one.event_HD["history"], two.event_HD["history"])
    assert not torch.allclose(one.request_RD, two.request_RD)


def batches_of_every_kind() -> list[Batch]:
    log = log_from_table(every_kind_table(30, 0), EVERY_KIND, layout="requests")
    return [b for _, b in Batches(log, WholeLog("train"), "train", num_requests=30, seed=None).epoch(0)]


def test_items_lent_in_training_are_moved_by_the_same_step() -> None:
    model = model_of().train()
    table = model.tables["items"]
    before = table.read([[EVERY_ITEM]]).blocks[0].clone()
    encoded = model.encode(batch_of([[1, 2]], [[3]]).features)
    assert encoded.item_vectors is not None
    (encoded.request_RD @ encoded.item_vectors(torch.tensor([5, 5, 6])).T).sum().backward()
    table.apply()
    after = table.read([[EVERY_ITEM]]).blocks[0]
    moved = (before != after).any(1).nonzero().squeeze(1).tolist()
    assert moved == [1, 2, 5, 6]  # the candidate has no part in this loss


def test_an_unknown_item_reads_the_default_row() -> None:
    schema = schema_of(tables=(TableSpec(name="item", growing=True),))
    model = model_of(schema)
    one, other = model.item_vectors(torch.tensor([10**12, 77]))
    assert torch.equal(one, other)
    assert not one.any()  # no id was ever dropped to it
    assert model.known_items().tolist() == list(range(20))


def test_rows_that_are_hashed_do_not_know_their_ids() -> None:
    schema = schema_of(tables=(TableSpec(name="item", num_rows=64),))
    with pytest.raises(SchemaError, match="does not know its ids"):
        NextItem(schema, NumericStatistics(), SETTINGS, seed=0).known_items()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"item": None}, "does not know which feature is the item"),
        ({"sequences": ()}, "has no history of items"),
        (
            {
                "sequences": (
                    Sequence(name="history", fields=(Categorical(name="kind", on="event", num_ids=3),), time=None),
                )
            },
            "has no history of items; found: \\['history.kind'\\]",
        ),
    ],
)
def test_a_schema_without_item_or_history_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        NextItem(schema_of(**changed), NumericStatistics(), SETTINGS, seed=0)


def test_an_encoder_that_sees_the_future_is_refused() -> None:
    settings = NextItemSettings(history=HistorySettings(width=WIDTH, num_heads=2, is_causal=False))
    with pytest.raises(SchemaError, match="must not see it"):
        NextItem(schema_of(), NumericStatistics(), settings, seed=0)


def test_numerics_of_candidates_add_to_their_vectors() -> None:
    schema = schema_of(features=(Categorical(name="item", table="item"), Numeric(name="price")))
    table = pa.table({"history_item": [[1, 2]], "item": [[3, 3]], "price": [[1.0, 5.0]], "next": [[1, 0]]})
    log = log_from_table(table, schema, layout="requests")
    ((_, batch),) = Batches(log, WholeLog("test"), "test", num_requests=1, seed=None).epoch(0)
    model = NextItem(schema, measure_numerics([batch], schema), SETTINGS, seed=0).eval()
    assert model(batch.features)[0] != model(batch.features)[1]
