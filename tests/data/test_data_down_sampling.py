"""Negatives left out: what is left stands for all, in expectation and in what a model learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rankwell.data.batches import Batches
from rankwell.data.down_sampling import DownSampling, DropNegatives, MuteNegatives
from rankwell.data.log import RequestLog, log_from_table
from rankwell.data.split import PARTS, HashSplit, WholeLog
from rankwell.errors import RecipeError
from rankwell.models.wide_deep import Logistic
from rankwell.schema import Action, Categorical, Schema
from rankwell.training.recipe import LogPart, Recipe
from rankwell.types import Batch

LISTS = Schema(
    features=(Categorical(name="job"),), actions=(Action(name="click"), Action(name="like")), member_id=None, time=None,
    request_id="request_id",
)  # fmt: skip
FLAT = Schema(
    features=(Categorical(name="job"),), actions=(Action(name="click"), Action(name="like")), request_id=None,
    member_id=None, time=None,
)  # fmt: skip
TRAIN = WholeLog("train")


def rows(num: int, per_request: int) -> pa.Table:
    rng = np.random.default_rng(0)
    click = rng.random(num) < 0.08
    return pa.table(
        {
            "request_id": np.arange(num) // per_request,
            "job": np.arange(num),
            "click": click.astype(np.int8),
            "like": (rng.random(num) < 0.02).astype(np.int8),
        }
    )


@pytest.fixture(scope="module")
def lists() -> RequestLog:
    return log_from_table(rows(6000, 6), LISTS)


@pytest.fixture(scope="module")
def flat() -> RequestLog:
    return log_from_table(rows(6000, 1).drop_columns(["request_id"]), FLAT)


def read(log: RequestLog, sampling: DownSampling | None, *, epoch: int = 0, seed: int | None = None) -> list[Batch]:
    batches = Batches(log, TRAIN, "train", num_requests=100, seed=seed, sampling=sampling)
    return [batch for _, batch in batches.epoch(epoch)]


def column(batches: list[Batch], of: str) -> np.ndarray:
    parts = {
        "job": [batch.features.candidates["job"] for batch in batches],
        "weight": [batch.targets.weights_C for batch in batches],
        "action": [(batch.targets.labels_CA > 0).any(1) for batch in batches],
    }
    return torch.cat(parts[of]).numpy()


@pytest.mark.parametrize("kind", ["lists", "flat"])
def test_what_is_left_weighs_what_all_did(kind: str, request: pytest.FixtureRequest) -> None:
    log = request.getfixturevalue(kind)
    whole, left = read(log, None), read(log, DropNegatives(0.1, seed=3))
    acted = column(whole, "action")
    assert sorted(column(left, "job")[column(left, "action")]) == sorted(column(whole, "job")[acted])
    assert set(column(left, "weight")[column(left, "action")]) == {1.0}
    weights = column(left, "weight")[~column(left, "action")]
    assert set(weights.tolist()) == {10.0}
    num_negatives = int((~acted).sum())
    assert abs(weights.sum() - num_negatives) < 4 * 10 * np.sqrt(num_negatives * 0.1 * 0.9)
    for batch in left:
        assert batch.features.num_candidates > 0
        assert (batch.features.offsets.diff() > 0).all()
        assert len(batch.audit.item_ids_C) == batch.features.num_candidates


def test_muted_negatives_stay_in_their_lists(lists: RequestLog) -> None:
    whole, muted, dropped = read(lists, None), read(lists, MuteNegatives(0.1)), read(lists, DropNegatives(0.1))
    assert column(muted, "job").tolist() == column(whole, "job").tolist()
    heard = column(muted, "weight") > 0
    assert column(muted, "job")[heard].tolist() == column(dropped, "job").tolist()  # the same ones
    assert column(muted, "weight")[heard].tolist() == column(dropped, "weight").tolist()


def test_draws_depend_on_seed_epoch_request_and_place_alone(lists: RequestLog) -> None:
    def kept(sampling: DownSampling, *, epoch: int = 0, seed: int | None = None) -> list[int]:
        return sorted(column(read(lists, sampling, epoch=epoch, seed=seed), "job").tolist())

    here = kept(DropNegatives(0.3, seed=1))
    assert kept(DropNegatives(0.3, seed=1), seed=5) == here  # in whatever order
    assert kept(DropNegatives(0.3, seed=1), epoch=1) != here
    assert kept(DropNegatives(0.3, seed=2)) != here
    assert set(kept(DropNegatives(0.1, seed=1))) < set(here)  # a lower rate keeps fewer of the same


def test_a_rate_of_one_keeps_everything_as_it_was(lists: RequestLog) -> None:
    whole = read(lists, None)
    for sampling in (DropNegatives(1.0), MuteNegatives(1.0)):
        same = read(lists, sampling)
        assert column(same, "job").tolist() == column(whole, "job").tolist()
        assert column(same, "weight").tolist() == column(whole, "weight").tolist()


def test_resuming_goes_on_in_the_same_sample(lists: RequestLog) -> None:
    batches = Batches(lists, TRAIN, "train", num_requests=50, seed=2, sampling=DropNegatives(0.2))
    run = list(batches.epoch(1))
    position = run[7][0]
    rest = [batch.features.candidates["job"].tolist() for _, batch in batches.epoch(1, start=position)]
    assert rest == [batch.features.candidates["job"].tolist() for _, batch in run[8:]]


def test_another_sample_is_another_stream(lists: RequestLog) -> None:
    prints = {
        Batches(lists, TRAIN, "train", num_requests=50, seed=2, sampling=sampling).fingerprint
        for sampling in (None, DropNegatives(0.2), DropNegatives(0.3), MuteNegatives(0.2), DropNegatives(0.2, seed=1))
    }
    assert len(prints) == 5


def test_nothing_but_negatives_may_leave_next_to_nothing() -> None:
    table = pa.table({"job": np.arange(50), "click": np.zeros(50, np.int8), "like": np.zeros(50, np.int8)})
    left = read(log_from_table(table, FLAT), DropNegatives(1e-9))
    assert sum(batch.features.num_candidates for batch in left) == 0


def test_the_rate_of_clicks_by_weight_is_that_of_all_over_the_epochs(lists: RequestLog) -> None:
    """What a calibrated model would learn: Σ w·y / Σ w."""
    whole = read(lists, None)
    truth = column(whole, "action").mean()
    rates = []
    for epoch in range(40):
        left = read(lists, DropNegatives(0.1), epoch=epoch)
        weights = column(left, "weight")
        rates.append(float((weights * column(left, "action")).sum() / weights.sum()))
    error = np.std(rates) / np.sqrt(len(rates))
    assert abs(np.mean(rates) - truth) < 4 * error
    assert error < 0.01 * truth


def test_a_recipe_samples_train_and_nothing_else(tmp_path: Path) -> None:
    pq.write_table(rows(3000, 6), tmp_path / "log.parquet")
    part = LogPart(path="log.parquet", split=HashSplit(0.4, 0.2, 0.2, 0.2, seed=0), layout="flat")
    recipe = Recipe(
        name="sampled", schema=LISTS, parts=dict.fromkeys(PARTS, part),
        build=lambda statistics, seed: Logistic(LISTS, statistics, seed=seed),
    )  # fmt: skip
    fewer = dataclasses.replace(recipe, down_sampling=DropNegatives(0.1))
    for name in PARTS:
        counts = [
            sum(batch.features.num_candidates for batch in one.batches(name, tmp_path, seed=None))
            for one in (recipe, fewer)
        ]
        assert (counts[1] < 0.3 * counts[0]) == (name == "train")
        assert (counts[1] == counts[0]) == (name != "train")


@pytest.mark.parametrize("kind", [DropNegatives, MuteNegatives])
def test_rates_out_of_range_are_refused(kind: type[DropNegatives]) -> None:
    for rate in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(RecipeError, match="keep rate"):
            kind(rate)
    with pytest.raises(RecipeError, match="seed"):
        kind(0.5, seed=-1)
