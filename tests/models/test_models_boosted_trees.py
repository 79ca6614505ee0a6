"""Trees are walked as one would by hand, and read exactly what `TreeInputs` says."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import NumericStatistics
from rankwell.errors import SchemaError
from rankwell.models.boosted_trees import BoostedTrees, Tree
from rankwell.models.tree_inputs import MOST_CATEGORIES, TreeInputs
from rankwell.schema import Action, Bag, Categorical, Numeric, Schema, Sequence
from rankwell.types import MISSING_ID, Batch, Events, Features, Ragged

NUMBERS = Schema(
    features=(Numeric(name="a"), Numeric(name="b"), Categorical(name="c", num_ids=5, missing="row")),
    actions=(Action(name="click"), Action(name="like")),
    item="c",
)
LEAF = -math.inf


def grown(rng: np.random.Generator, depth: int) -> Tree:
    """A random tree over two numbers and a category."""
    rows: list[tuple[int, float, bool, int, int, float, list[int]]] = []

    def grow(levels: int) -> int:
        here = len(rows)
        rows.append((0, LEAF, False, here, here, float(rng.normal()), []))
        if levels and rng.random() < 0.9:
            column = int(rng.integers(3))
            codes = sorted(rng.choice(6, 2, replace=False).tolist()) if column == 2 else []
            threshold = LEAF if column == 2 else float(rng.normal())
            nan_left = bool(column < 2 and rng.random() < 0.5)
            left, right = grow(levels - 1), grow(levels - 1)
            rows[here] = (column, threshold, nan_left, left, right, 0.0, codes)
        return here

    grow(depth)
    columns, thresholds, nan_left, lefts, rights, values, categories = zip(*rows, strict=True)
    return Tree(
        columns_n=columns, thresholds_n=thresholds, nan_left_n=nan_left, left_n=lefts, right_n=rights, values_n=values,
        categories_n=categories,
    )  # fmt: skip


def walked(tree: Tree, inputs: list[float]) -> float:
    """The plain definition."""
    n = 0
    while tree.left_n[n] != n:
        x = inputs[tree.columns_n[n]]
        if tree.columns_n[n] == 2:
            left = x in tree.categories_n[n]
        else:
            left = tree.nan_left_n[n] if math.isnan(x) else x <= tree.thresholds_n[n]
        n = tree.left_n[n] if left else tree.right_n[n]
    return tree.values_n[n]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(0, 3), st.integers(0, 3), st.integers(0, 6))
def test_the_sum_of_the_leaves_that_one_walks_to(
    seed: int, num_candidates: int, num_first: int, num_second: int, depth: int
) -> None:
    rng = np.random.default_rng(seed)
    trees_A = [[grown(rng, depth) for _ in range(num)] for num in (num_first, num_second)]
    inputs_CN = rng.normal(size=(num_candidates, 3)).astype(np.float32)
    inputs_CN[:, 2] = rng.integers(0, 6, num_candidates)
    inputs_CN[rng.random(inputs_CN.shape) < 0.2] = np.nan
    model = BoostedTrees.of(NUMBERS, NumericStatistics(), trees_A)
    expected = [[sum(walked(tree, row) for tree in trees) for trees in trees_A] for row in inputs_CN.tolist()]
    found_CA = model.sums_of(torch.from_numpy(inputs_CN))
    assert found_CA.shape == (num_candidates, 2)
    assert np.allclose(found_CA.numpy(), np.reshape(expected, (num_candidates, 2)), rtol=0, atol=1e-12)


def test_a_number_at_the_threshold_goes_left_and_the_next_one_right() -> None:
    threshold = 0.1  # no float32: the nearest lies above it
    stump = Tree(columns_n=[0, 0, 0], thresholds_n=[threshold, LEAF, LEAF], nan_left_n=[False] * 3, left_n=[1, 1, 2],
                 right_n=[2, 1, 2], values_n=[0, -1, 1], categories_n=[(), (), ()])  # fmt: skip
    model = BoostedTrees.of(NUMBERS, NumericStatistics(), [[stump], []])
    numbers = np.array([0.1, np.nextafter(np.float32(0.1), np.float32(0)), -np.inf, np.inf], np.float32)
    inputs_CN = torch.from_numpy(numbers)[:, None].expand(4, 3)
    assert model.sums_of(inputs_CN)[:, 0].tolist() == [1, -1, -1, 1]


def test_many_candidates_and_trees_are_walked_part_by_part() -> None:
    rng = np.random.default_rng(0)
    trees = [grown(rng, 3) for _ in range(300)]
    model = BoostedTrees.of(NUMBERS, NumericStatistics(), [trees, trees[:1]])
    inputs_CN = torch.from_numpy(rng.normal(size=(2_000, 3)).astype(np.float32))
    alone = torch.cat([model.sums_of(inputs_CN[i : i + 1]) for i in range(0, 2_000, 97)])
    assert torch.equal(model.sums_of(inputs_CN)[::97], alone)


def test_without_trees_logits_are_0() -> None:
    model = BoostedTrees(EVERY_KIND, NumericStatistics(), seed=0)
    logits_CA = model(batch_of(3).features)
    assert not logits_CA.any()
    assert logits_CA.shape == (batch_of(3).features.num_candidates, 2)


def batch_of(num_requests: int) -> Batch:
    log = log_from_table(every_kind_table(num_requests, 0), EVERY_KIND, layout="requests")
    (batch,) = Batches(log, WholeLog("train"), "train", num_requests=num_requests, seed=None)
    return batch


def test_inputs_of_every_kind() -> None:
    inputs, batch = TreeInputs(EVERY_KIND), batch_of(40)
    features = batch.features
    found_CN = inputs(features)
    assert found_CN.shape == (features.num_candidates, len(inputs.names))
    assert inputs.left_out == ("member", "history.kind")
    columns = dict(zip(inputs.names, found_CN.unbind(1), strict=True))
    context, candidates, history = features.context, features.candidates, features.history["history"]
    wanted, skills = candidates["wanted"], context["skills"]
    assert isinstance(wanted, Ragged)
    assert isinstance(skills, Ragged)

    def bag(ragged: Ragged, i: int) -> list[int]:
        return ragged.values[ragged.offsets[i] : ragged.offsets[i + 1]].tolist()  # type: ignore[no-any-return]

    for c in range(features.num_candidates):
        r = int(features.request_C[c])
        events = slice(int(history.offsets[r]), int(history.offsets[r + 1]))
        expected = {
            "title": context["title"][r] + 1,  # type: ignore[index]
            "years": context["years"][r],  # type: ignore[index]
            "job": candidates["job"][c] + 1,  # type: ignore[index]
            "salary": candidates["salary"][c],  # type: ignore[index]
            "given[2]": candidates["given"][c, 2],  # type: ignore[index]
            "office longitude": candidates["office"][c, 1],  # type: ignore[index]
            "ids in skills": len(bag(skills, r)),
            "ids in wanted": len(bag(wanted, c)),
            "skills = wanted": sum(one == other for one in bag(skills, r) for other in bag(wanted, c)),
            "events in history": events.stop - events.start,
            "newest of history": history.columns["age_s"][events][-1] if events.stop > events.start else math.nan,
            "history.item = job": (history.columns["item"][events] == candidates["job"][c]).sum(),  # type: ignore[index]
        }
        for name, value in expected.items():
            assert columns[name][c].item() == pytest.approx(float(value), nan_ok=True), (name, c)
    assert context["title"].eq(MISSING_ID).any()  # type: ignore[union-attr]
    assert columns["skills = wanted"].max() > 0
    assert columns["history.item = job"].max() > 0


def test_ids_of_63_bits_missing_ids_and_means_of_events() -> None:
    big = 2**62
    schema = Schema(
        features=(
            Categorical(name="own", on="request", table="job", missing="row"),
            Categorical(name="offered", table="job", missing="row"),
            Bag(name="tags", on="request", table="tag"),
            Bag(name="wanted", table="tag"),
        ),
        sequences=(
            Sequence(name="past", fields=(Categorical(name="job", on="event"), Numeric(name="price", on="event"))),
        ),
        actions=(Action(name="click"),),
        item="offered",
    )
    features = Features(
        context={
            "own": torch.tensor([big, MISSING_ID]),
            "tags": Ragged(torch.tensor([big, big, 7]), torch.tensor([0, 3, 3])),
        },
        history={
            "past": Events(
                {
                    "job": torch.tensor([big + 1, big + 1, big]),
                    "price": torch.tensor([1.0, 2.0, 6.0]),
                    "age_s": torch.tensor([9.0, 8.0, 1.0]),
                },
                torch.tensor([0, 3, 3]),
            )
        },
        candidates={
            "offered": torch.tensor([big, big + 1, MISSING_ID]),
            "wanted": Ragged(torch.tensor([big, 7, 8, 7]), torch.tensor([0, 3, 3, 4])),
        },
        offsets=torch.tensor([0, 2, 3]),
        request_C=torch.tensor([0, 0, 1]),
    )
    inputs = TreeInputs(schema)
    columns = {name: column.tolist() for name, column in zip(inputs.names, inputs(features).unbind(1), strict=True)}
    assert columns["own = offered"] == [1, 0, 0]
    assert columns["past.job = offered"] == [1, 2, 0]
    assert columns["tags = wanted"] == [3, 0, 0]  # 2 pairs of the first id, 1 of the second
    assert columns["mean of past.price"] == pytest.approx([3, 3, math.nan], nan_ok=True)
    assert columns["newest of past"] == pytest.approx([1, 1, math.nan], nan_ok=True)
    nothing = dataclasses.replace(
        features, offsets=torch.tensor([0, 0, 0]), request_C=torch.empty(0, dtype=torch.int64),
        candidates={"offered": torch.empty(0, dtype=torch.int64),
                    "wanted": Ragged(torch.empty(0, dtype=torch.int64), torch.tensor([0]))},
    )  # fmt: skip
    assert inputs(nothing).shape == (0, len(inputs.names))


def test_ids_beyond_the_vocabulary_are_nan_and_large_vocabularies_no_categories() -> None:
    schema = Schema(
        features=(
            Categorical(name="small", num_ids=MOST_CATEGORIES, missing="row"),
            Categorical(name="large", num_ids=MOST_CATEGORIES + 1),
        ),
        actions=(Action(name="click"),),
        item="small",
    )
    inputs = TreeInputs(schema)
    assert inputs.names == ("small",)
    assert inputs.left_out == ("large",)
    ids_C = torch.tensor([MISSING_ID, 0, MOST_CATEGORIES - 1, MOST_CATEGORIES, 10**15])
    features = Features({}, {}, {"small": ids_C, "large": ids_C}, torch.tensor([0, 5]), torch.zeros(5).long())
    assert inputs(features).squeeze(1).tolist() == pytest.approx(
        [0, 1, MOST_CATEGORIES, math.nan, math.nan], nan_ok=True
    )


def test_nothing_to_read_is_refused() -> None:
    schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), item="job")
    with pytest.raises(SchemaError, match="trees have nothing to read"):
        TreeInputs(schema)
