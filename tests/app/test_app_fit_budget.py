"""`rankwell fit-budget` says who was tried and why, draws the frontier, and writes what is to be served."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.transforms import Bbox
from rich.console import Console
from typer.testing import CliRunner

from rankwell.app.budget_report import _label, budget_numbers, budget_tables, draw_frontier
from rankwell.app.command_line import app
from rankwell.app.drawing import drawing
from rankwell.errors import RecipeError
from rankwell.serving.budget import Latency
from rankwell.serving.budget_fit import TEACHER, Budget, BudgetFit, Form, Quality, Tried
from rankwell.serving.bundle import Bundle, read_bundle, write_bundle
from rankwell.serving.deployment import read_deployment
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.simulate import simulate
from rankwell.training.recipe import read_recipe
from rankwell.training.trained import train

RECIPE = """
from dataclasses import replace

from rankwell.models.candidate_list import ListSettings
from rankwell.models.history import HistorySettings
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.simulation.recipe import marketplace_recipe


def recipe():
    plain = marketplace_recipe()
    settings = TransformerSettings(row_width=4, width=8, hidden=(8,), list=ListSettings(num_layers=2),
                                   history=HistorySettings(width=8, num_layers=2))
    return replace(
        plain,
        build=lambda statistics, seed: RankingTransformer(plain.schema, statistics, settings, seed=seed),
        loop=replace(plain.loop, max_epochs=1),
    )
"""


def tried(name: str, p95_ms: float, auc: float, verdict: str, *, is_kept: bool = False) -> Tried:
    quality = Quality(auc, 0.25, 0.004) if not math.isnan(auc) else Quality()
    return Tried(
        name=name, latency=Latency(p95_ms / 2, p95_ms, p95_ms * 1.1, 9), tune=quality, is_kept=is_kept, verdict=verdict
    )


FIT = BudgetFit(
    bundle=None,
    form=Form("int8"),
    teacher=tried(TEACHER, 210.0, 0.77, "4.2 times the budget"),
    students=(
        tried("1 × 32", 3.0, math.nan, "not trained: slower ones fit"),
        tried("2 × 64", 9.0, 0.765, "kept: the least log loss on tune", is_kept=True),
        tried("6 × 256", 80.0, math.nan, "refused: over the budget"),
    ),
    steps=(tried("int8 rows", 9.1, 0.7649, "refused: 0.99 times as fast, +0.00001 nats"),),
    test={TEACHER: Quality(0.771, 0.26, 0.003), "2 × 64": Quality(0.7665, 0.2612, 0.0034)},
)
BUDGET = Budget(p95_ms=50.0)


def test_tables_say_what_became_of_each_and_what_it_costs() -> None:
    console = Console(width=160, record=True)
    for table in budget_tables(FIT, BUDGET):
        console.print(table)
    text = console.export_text()
    for line in ("4.2 times the budget", "not trained: slower ones fit", "refused: 0.99 times as fast", "210.00"):
        assert line in text
    assert "-0.00450" in text  # of AUC
    assert "+0.00120" in text  # nats
    assert "nan" not in text


def test_numbers_are_flat_and_whole() -> None:
    numbers = budget_numbers(FIT)
    assert numbers["teacher/p95_ms"] == 210.0
    assert numbers["2 × 64/tune/auc"] == 0.765
    assert numbers["2 × 64/is_kept"] == 1.0
    assert numbers["2 × 64/test/log_loss"] == 0.2612
    assert math.isnan(numbers["1 × 32/tune/auc"])


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_frontier_is_drawn(ending: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"frontier.{ending}"
    draw_frontier(FIT, BUDGET, path)
    assert path.stat().st_size > 5_000
    if ending == "svg":
        text = path.read_text()
        assert "2 × 64" in text
        assert "1 × 32" not in text  # nobody knows its worth


def test_names_of_contenders_that_are_alike_do_not_lie_over_each_other() -> None:
    with drawing(3.0) as figure:
        axes = figure.subplots()
        axes.plot([1.0, 9.0], [0.0, 1.0])
        figure.draw_without_rendering()
        taken: list[Bbox] = []
        for name in ("1 × 128", "float16 graph", "dynamic int8 products", "int8 rows"):
            _label(axes, name, (4.0, 0.5), "black", taken)
        assert len(taken) == len(axes.texts) == 4
        assert not any(one.overlaps(other) for one, other in combinations(taken, 2))


def asked_of(folder: Path) -> list[str]:
    """With a log, a recipe and a teacher in the folder."""
    simulate(MarketplaceSettings(num_members=60, num_jobs=40), 3, num_requests=200, directory=folder / "data")
    file = folder / "recipe.py"
    file.write_text(RECIPE)
    trained = train(read_recipe(file), folder / "data", seed=0)
    write_bundle(Bundle(model=trained.model, calibrators=trained.calibrators, created_us=3), folder / "teacher")
    return [
        "fit-budget", str(folder / "teacher"), str(file), "--data", str(folder / "data"), "--candidates", "9",
        "--requests", "3", "--out", str(folder / "student"), "--shapes", "1x4",
    ]  # fmt: skip


def test_a_teacher_inside_the_budget_is_written_as_it_is(tmp_path: Path) -> None:
    asked = [*asked_of(tmp_path), "--engine", "pytorch"]
    drawn, json_file = tmp_path / "frontier.png", tmp_path / "numbers.json"
    result = CliRunner().invoke(app, [*asked, "--p95-ms", "1e9", "--figure", str(drawn), "--json", str(json_file)])
    assert result.exit_code == 0, result.output
    assert drawn.exists()
    assert json.loads(json_file.read_text())["teacher/is_kept"] == 1.0
    assert read_bundle(tmp_path / "student").created_us == 3
    refused = CliRunner().invoke(app, [*asked, "--p95-ms", "0.001"])
    assert isinstance(refused.exception, RecipeError)
    assert "no student is inside the budget" in str(refused.exception)
    unread = CliRunner().invoke(app, [*asked, "--shapes", "2by4"])
    assert isinstance(unread.exception, RecipeError)


@pytest.mark.slow
def test_steps_are_tried_in_the_graph_and_what_is_kept_is_deployed(tmp_path: Path) -> None:
    json_file = tmp_path / "numbers.json"
    result = CliRunner().invoke(
        app,
        [*asked_of(tmp_path), "--p95-ms", "1e9", "--deployment", str(tmp_path / "served"), "--json", str(json_file)],
    )
    assert result.exit_code == 0, result.output
    numbers = json.loads(json_file.read_text())
    for step in ("float16 graph", "dynamic int8 products", "static int8 products", "int8 rows"):
        assert abs(numbers[f"{step}/tune/auc"] - numbers["teacher/tune/auc"]) < 0.05
    deployment = read_deployment(tmp_path / "served")
    deployment.test(deployment.scorer())
