"""Flips flip what they should; numbers are counted where they stand; the verdict follows from the outcomes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rankwell.app.study_page import render_study
from rankwell.data.statistics import measure_numerics
from rankwell.models.history import HistorySettings
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.simulation.recipe import marketplace_recipe
from rankwell.studies.depth import flip_clicks, large_request, latencies_ms, parameters_by_part, study_depth
from rankwell.studies.depth_result import CONDITIONS, DEPTHS, PARAMETER_PARTS, PLAIN, Outcome, depth_result
from rankwell.studies.study import simulated


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    with simulated(3, 300) as (data, _):
        (data / "log").rename(folder / "log")
    return folder


def test_a_share_of_the_clicks_is_flipped_and_nothing_else(data: Path, tmp_path: Path) -> None:
    flip_clicks(data / "log", tmp_path / "flipped", rate=0.25, seed=0)
    before, after = (pq.read_table(folder) for folder in (data / "log", tmp_path / "flipped"))
    assert before.schema.equals(after.schema)
    assert before.drop_columns("click").equals(after.drop_columns("click"))
    clicks, flipped = (table["click"].combine_chunks().flatten().to_numpy() for table in (before, after))
    assert set(np.unique(flipped)) == {0, 1}
    for label in (0, 1):
        assert (flipped != clicks)[clicks == label].mean() == pytest.approx(0.25, abs=0.1)


def test_numbers_are_counted_by_part(data: Path) -> None:
    recipe = marketplace_recipe()
    statistics = measure_numerics(recipe.batches("train", data, seed=None), recipe.schema)
    width, hidden = 8, 4 * 8
    attention = 4 * width * width + 3 * width  # keys have no bias
    feed_forward = 2 * width * hidden + hidden + width
    places = recipe.schema.sequences[0].max_length + 1
    for num_layers, is_shared, times in ((0, False, 0), (1, False, 1), (3, False, 3), (3, True, 1)):
        history = HistorySettings(width=width, num_layers=num_layers, num_heads=2, shares_layers=is_shared)
        settings = TransformerSettings(row_width=4, width=16, hidden=(8,), history=history, list=None)
        model = RankingTransformer(recipe.schema, statistics, settings, seed=0)
        counts = parameters_by_part(model)
        assert tuple(counts) == PARAMETER_PARTS
        assert counts["attention"] == times * attention
        assert counts["feed-forward"] == times * feed_forward
        assert counts["positions"] == places * width + width
        assert counts["heads"] == 16 * len(recipe.schema.actions) + len(recipe.schema.actions)
        assert sum(counts.values()) == sum(parameter.numel() for parameter in model.parameters())


def test_a_large_request_is_one_request_of_so_many(data: Path) -> None:
    recipe = marketplace_recipe()
    batches = list(recipe.batches("train", data, seed=None))
    request = large_request(batches, 500)
    assert (request.num_requests, request.num_candidates) == (1, 500)
    lengths_R = batches[0].features.history["history"].offsets.diff()
    assert int(request.history["history"].offsets[1]) == int(lengths_R.max())
    assert request.context["member"] == batches[0].features.context["member"][int(lengths_R.argmax())]
    jobs_C = torch.cat([batch.features.candidates["job"] for batch in batches])
    assert torch.equal(request.candidates["job"], jobs_C[:500])

    class Sleepless(torch.nn.Module):
        def forward(self, features: object) -> None:
            assert features is request

    before = torch.get_num_threads()
    latencies = latencies_ms({"nothing": Sleepless()}, request, rounds=5)  # type: ignore[dict-item]
    assert list(latencies["nothing"]) == [50, 95, 99]
    assert torch.get_num_threads() == before


def test_the_verdict_tells_sure_differences_from_noise() -> None:
    def outcome(log_loss: float, train_loss: float) -> Outcome:
        return Outcome(log_loss=log_loss, auc=0.75, ndcg=0.5, train_loss=train_loss, bayes_log_loss=0.2)

    found = {
        condition: {
            depth.name: [
                outcome(0.30 + 0.01 * seed - gain.get(depth.name, 0.0), 0.28 - 0.001 * depth.num_layers)
                for seed, gain in enumerate(({"2": 0.002, "4": 0.010}, {"2": 0.002, "4": -0.009}))
            ]
            for depth in (DEPTHS if condition == PLAIN else DEPTHS[1:5])
        }
        for condition in CONDITIONS
    }
    parameters = {depth.name: dict.fromkeys(PARAMETER_PARTS, 100) for depth in DEPTHS}
    latencies = {depth.name: {50: 1.0, 95: 2.0, 99: 3.0} for depth in DEPTHS}
    result = depth_result(found, parameters, latencies)
    assert "better than 1 layer: as it is: 2; experience removed: 2; labels flipped: 2." in result.finding
    assert "One layer over 0: +0.0000 [+0.0000, +0.0000] nats, not surely different." in result.finding
    assert "As it is: surely different from 1 layer: 2 better;" in result.finding
    assert "the loss of training is lower, and on test that is not seen" in result.finding
    assert result.numbers[f"{PLAIN}/2/log_loss_saved_over_1/mean"] == pytest.approx(0.002)
    assert result.numbers[f"{PLAIN}/2/log_loss_saved_over_1/low"] == pytest.approx(0.002)
    assert result.numbers["1/parameters/feed_forward_share"] == pytest.approx(0.2)
    assert "<svg" in render_study(result)


@pytest.mark.slow
def test_the_depth_study_runs() -> None:
    result = study_depth(seeds=(0, 1), num_requests=1_000)
    for condition in CONDITIONS:
        assert result.numbers[f"{condition}/bayes_log_loss"] < result.numbers[f"{condition}/1/log_loss"]
    assert result.numbers["12, shared/parameters/attention"] == result.numbers["1/parameters/attention"]
