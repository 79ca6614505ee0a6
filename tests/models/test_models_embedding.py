"""Which column reads which table, on which side, and what comes of bags, histories and crosses.

Letters: R requests · C candidates, flat · H history events · W row width.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from every_kind_log import EVERY_KIND, every_kind_table
from filled_table import fill, rows_of
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.request import batch_from_request
from rankwell.data.split import WholeLog
from rankwell.data.statistics import NumericStatistics, measure_numerics
from rankwell.errors import TrainingError
from rankwell.models.embedding import CrossColumns, FeatureColumns, IdColumns, RowLookup, Rows
from rankwell.models.wide_deep import Deep
from rankwell.schema import Action, Bag, Categorical, Cross, Numeric, Quantiles, Schema, Sequence
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.tables.hashing import cross_ids
from rankwell.tables.sgd import Sgd
from rankwell.tables.table import Table
from rankwell.types import MISSING_ID, Batch, Features

WIDTH = 3
ACTIONS = (Action(name="click"),)
HISTORY = Sequence(
    name="history", fields=(Categorical(name="item", on="event", table="job"), Categorical(name="kind", on="event"))
)
SCHEMA = Schema(
    features=(
        Categorical(name="member", on="request", num_ids=50),
        Numeric(name="years", on="request", transform=Quantiles(num_buckets=4), missing="indicator"),
        Bag(name="skills", on="request", num_ids=30),
        Categorical(name="job", num_ids=40),
        Categorical(name="title", num_ids=6, missing="row"),
        Bag(name="wanted", table="skills"),
    ),
    sequences=(HISTORY,),
    crosses=(Cross(of=("member", "years"), num_rows=64), Cross(of=("title", "years"), num_rows=64)),
    actions=ACTIONS,
)
STATISTICS = NumericStatistics(
    columns={
        "years": {  # type: ignore[dict-item]
            "num_values": 9, "missing_rate": 0.0, "mean": 4.0, "sd": 1.0, "log_mean": 0.0, "log_sd": 1.0,
            "quantiles": (0.0, 2.0, 4.0, 6.0, 8.0),
        }
    }
)  # fmt: skip
REQUEST = {
    "time_us": 10**6,
    "context": {"member": 7, "years": 5.0, "skills": [3, 4, 4]},
    "history": {"history": {"item": [11, 12], "kind": [1, 2], "time_us": [1, 2]}},
    "candidates": {"job": [12, 13, 39], "title": [2, None, 5], "wanted": [[3], [], [4, 5]]},
}


def features_of(**changes: Any) -> Features:
    return batch_from_request(REQUEST | changes, SCHEMA).features


def lookup_of(columns: IdColumns, *, training: bool = False) -> RowLookup:
    table = Table(columns.specs, width=WIDTH, seed=3, init_scale=1.0)
    table.train_with(RowWiseAdaGrad(learning_rate=0.1))
    fill(table, seed=3)  # reading finds each id's own row
    return RowLookup(columns, table).train(training)


def row(lookup: RowLookup, table: str, *ids: int) -> Tensor:
    """The rows that ids have in a table, looked up one by one."""
    return rows_of(lookup.table, table, ids)


def test_every_column_reads_its_own_table_on_its_own_side() -> None:
    columns = FeatureColumns(SCHEMA, STATISTICS)
    features = features_of()

    def read(on: str) -> list[tuple[str, list[int]]]:
        return [(column.table, column.ids.tolist()) for column in columns.single(features, on)]

    assert read("request") == [("member", [7]), ("years", [2])]  # edges 2, 4, 6
    assert read("candidate") == [("job", [12, 13, 39]), ("title", [2, MISSING_ID, 5])]
    lists = {on: columns.lists(features, on) for on in ("request", "candidate")}
    assert [(c.table, c.ids.tolist(), offsets.tolist()) for c, offsets in lists["request"]] == [
        ("skills", [3, 4, 4], [0, 3]),
        ("job", [11, 12], [0, 2]),
        ("kind", [1, 2], [0, 2]),
    ]
    assert [(c.table, c.ids.tolist(), offsets.tolist()) for c, offsets in lists["candidate"]] == [
        ("skills", [3, 4, 5], [0, 1, 1, 3])
    ]
    assert columns.num_blocks == {"request": 5, "candidate": 3}
    assert sorted(spec.name for spec in columns.specs) == ["job", "kind", "member", "skills", "title", "years"]


def test_the_rows_stand_side_by_side_and_lists_as_their_means() -> None:
    lookup = lookup_of(FeatureColumns(SCHEMA, STATISTICS))
    rows: Rows = lookup(features_of())
    request = [
        row(lookup, "member", 7)[0],
        row(lookup, "years", 2)[0],
        (row(lookup, "skills", 3)[0] + 2 * row(lookup, "skills", 4)[0]) / 3,
        row(lookup, "job", 11, 12).mean(0),
        row(lookup, "kind", 1, 2).mean(0),
    ]
    torch.testing.assert_close(rows.request_RW, torch.cat(request)[None])
    wanted = torch.stack([row(lookup, "skills", 3)[0], torch.zeros(WIDTH), row(lookup, "skills", 4, 5).mean(0)])
    candidate = [row(lookup, "job", 12, 13, 39), row(lookup, "title", 2, MISSING_ID, 5), wanted]
    torch.testing.assert_close(rows.candidate_CW, torch.cat(candidate, dim=1))
    assert (lookup.request_width, lookup.candidate_width) == (5 * WIDTH, 3 * WIDTH)


def test_empty_bags_and_histories_are_zeros() -> None:
    lookup = lookup_of(FeatureColumns(SCHEMA, STATISTICS))
    nothing = {"item": [], "kind": [], "time_us": []}
    context = REQUEST["context"] | {"skills": []}  # type: ignore[operator]
    rows = lookup(features_of(history={"history": nothing}, context=context))
    assert rows.request_RW[0, : 2 * WIDTH].abs().min() > 0
    assert rows.request_RW[0, 2 * WIDTH :].tolist() == [0.0] * 3 * WIDTH
    assert rows.candidate_CW[1, 2 * WIDTH :].tolist() == [0.0] * WIDTH


def test_matches_are_the_pairs_of_blocks_from_one_table() -> None:
    # request: member, years, skills, history.item (job), history.kind; candidate: job, title, wanted (skills)
    assert FeatureColumns(SCHEMA, STATISTICS).matches == ((2, 2), (3, 0))
    alone = Schema(features=(Categorical(name="a"), Categorical(name="b", on="request")), actions=ACTIONS)
    assert FeatureColumns(alone, STATISTICS).matches == ()


def test_a_cross_stands_on_the_request_when_all_of_it_does() -> None:
    columns = CrossColumns(SCHEMA, STATISTICS)
    features = features_of()
    assert columns.num_blocks == {"request": 1, "candidate": 1}
    (on_request,) = columns.single(features, "request")
    assert on_request.table == "member_x_years"
    assert torch.equal(on_request.ids, cross_ids([torch.tensor([7]), torch.tensor([2])]))
    (on_candidate,) = columns.single(features, "candidate")
    assert on_candidate.table == "title_x_years"
    # the request's bucket is repeated for each of its candidates
    assert torch.equal(on_candidate.ids, cross_ids([torch.tensor([2, MISSING_ID, 5]), torch.tensor([2, 2, 2])]))
    assert columns.lists(features, "request") == columns.lists(features, "candidate") == []
    assert [spec.name for spec in columns.specs] == ["member_x_years", "title_x_years"]


def test_a_request_side_column_of_a_cross_follows_its_request() -> None:
    batch = every_kind_batch(9)
    columns = CrossColumns(EVERY_KIND, measure_numerics([batch], EVERY_KIND))
    features = batch.features
    crossed = columns.single(features, "candidate")[0]
    title_R, job_title_C = features.context["title"], features.candidates["job_title"]
    assert isinstance(title_R, Tensor)
    assert isinstance(job_title_C, Tensor)
    for c, r in enumerate(features.request_C.tolist()):
        alone = cross_ids([title_R[r : r + 1], job_title_C[c : c + 1]])
        assert int(crossed.ids[c]) == int(alone)


def every_kind_batch(num_requests: int, seed: int = 0) -> Batch:
    log = log_from_table(every_kind_table(num_requests, seed), EVERY_KIND, layout="requests")
    ((_, batch),) = Batches(log, WholeLog("train"), "train", num_requests=num_requests, seed=None).epoch(0)
    return batch


@pytest.mark.parametrize("kind", [FeatureColumns, CrossColumns])
def test_training_and_reading_give_the_same_rows_when_all_were_seen(kind: Any) -> None:
    batch = every_kind_batch(40)
    lookup = lookup_of(kind(EVERY_KIND, measure_numerics([batch], EVERY_KIND)), training=True)
    lent: Rows = lookup(batch.features)
    read: Rows = lookup.eval()(batch.features)
    assert lent.candidate_CW.requires_grad
    assert not read.candidate_CW.requires_grad
    torch.testing.assert_close(lent.candidate_CW, read.candidate_CW, rtol=0, atol=0)
    torch.testing.assert_close(lent.request_RW, read.request_RW, rtol=0, atol=0)


def test_the_gradient_of_a_mean_is_shared_among_its_ids() -> None:
    lookup = lookup_of(FeatureColumns(SCHEMA, STATISTICS), training=True)
    lookup.table.train_with(Sgd(learning_rate=1.0))  # a row moves by its gradient
    before = row(lookup, "skills", *range(30))
    rows = lookup(features_of())
    rows.request_RW[0, 2 * WIDTH : 3 * WIDTH].sum().backward()  # the mean of skills 3, 4, 4
    lookup.table.apply()
    grads = before - row(lookup, "skills", *range(30))
    expected = torch.zeros(30, WIDTH)
    expected[3], expected[4] = 1 / 3, 2 / 3
    torch.testing.assert_close(grads, expected)


def test_a_gradient_that_is_no_number_names_its_feature() -> None:
    lookup = lookup_of(FeatureColumns(SCHEMA, STATISTICS), training=True)
    items_RW = lookup(features_of()).request_RW[:, 3 * WIDTH : 4 * WIDTH]  # after the member, years and skills
    (items_RW * math.nan).sum().backward()
    with pytest.raises(TrainingError, match=r"the rows of 'history.item' \(table 'job'\) is not finite"):
        lookup.table.apply()


def test_products_of_matching_rows_come_to_the_deep_part() -> None:
    schema = Schema(
        features=(Categorical(name="job", num_ids=9), Bag(name="liked", on="request", table="job")), actions=ACTIONS
    )
    model = Deep(schema, NumericStatistics(), seed=0).eval()
    width = model.deep.tables["deep"].width
    assert model.deep.layers[0].in_features == 3 * width  # job, liked, and job × liked
    seen: list[Tensor] = []
    model.deep.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    table = model.tables["deep"]
    fill(table, seed=4)
    model(batch_from_request({"context": {"liked": [1, 2]}, "candidates": {"job": [1, 5]}}, schema).features)
    one, two, five = rows_of(table, "job", [1, 2, 5])
    liked = (one + two) / 2
    expected = torch.stack([torch.cat([job, liked, job * liked]) for job in (one, five)])
    torch.testing.assert_close(seen[0], expected)


def test_features_may_be_called_as_modules_call_their_own() -> None:
    names = ["type", "values", "keys", "train", "forward"]
    schema = Schema(
        features=tuple(Numeric(name=name, transform=Quantiles(num_buckets=2)) for name in names), actions=ACTIONS
    )
    column = STATISTICS.columns["years"]
    statistics = NumericStatistics(columns=dict.fromkeys(names, column))
    lookup = lookup_of(FeatureColumns(schema, statistics))
    request = {"candidates": {name: [float(i), 9.0] for i, name in enumerate(names)}}
    rows = lookup(batch_from_request(request, schema).features)
    assert rows.candidate_CW.shape == (2, 5 * WIDTH)
    for i, name in enumerate(names):
        torch.testing.assert_close(
            rows.candidate_CW[:, i * WIDTH : (i + 1) * WIDTH], row(lookup, name, int(i >= 4), 1)
        )  # the edge is 4
