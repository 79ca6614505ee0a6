"""`rankwell inspect heads`, from a bundle to what is printed, written and drawn; and `inspect BUNDLE` as it was."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.image
import pytest
from typer.testing import CliRunner

from rankwell.app.command_line import app, main
from rankwell.calibration.uncalibrated import Uncalibrated
from rankwell.data.statistics import measure_numerics
from rankwell.serving.bundle import Bundle, read_bundle, write_bundle
from rankwell.serving.head_inspection import inspect_heads
from rankwell.simulation.recipe import marketplace_recipe
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.simulate import simulate
from rankwell.training.recipe import read_recipe

RECIPE = """
from rankwell.models.candidate_list import ListSettings
from rankwell.models.feature_groups import FeatureGroup
from rankwell.models.head_gates import SegmentGateSettings
from rankwell.models.history import HistorySettings
from rankwell.models.specialised_attention import FedHead, LearnedHead, SpecialisedSettings
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.simulation.recipe import Kind, marketplace_recipe

def recipe():
    settings = TransformerSettings(
        row_width=4, width=16, hidden=(8,), groups=(FeatureGroup(name="title", features=("job_title",), width=4),),
        history=HistorySettings(width=8, num_layers=1, num_heads=2),
        list=ListSettings(attention=SpecialisedSettings(
            heads=(FedHead(group="title"), LearnedHead()),
            gates=SegmentGateSettings(segment="seniority", num_segments=8),
        )),
    )
    return marketplace_recipe(Kind("heads", lambda *built: RankingTransformer(*built[:2], settings, seed=built[2])))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log, a recipe of its heads, and bundles of two models that nobody has trained."""
    folder = tmp_path_factory.mktemp("heads")
    simulate(MarketplaceSettings(), 0, num_requests=400, directory=folder / "data")
    (folder / "recipe.py").write_text(RECIPE)
    for name, recipe in (("bundle", read_recipe(folder / "recipe.py")), ("wide", marketplace_recipe())):
        statistics = measure_numerics(recipe.batches("train", folder / "data", seed=None), recipe.schema)
        assert callable(recipe.build)
        model = recipe.build(statistics, 0)
        calibrators = {action.name: Uncalibrated() for action in recipe.schema.actions}
        write_bundle(Bundle(model=model, calibrators=calibrators, created_us=0), folder / name)
    return folder


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False, env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    return result.output


def test_the_verb_prints_writes_and_draws(folder: Path) -> None:
    printed = run(
        "inspect", "heads", folder / "bundle", folder / "recipe.py", "--data", folder / "data", "--requests", 30,
        "--json", folder / "h.json", "--figure", folder / "new" / "h.png",
    )  # fmt: skip
    for part in ("history, layer 0", "list, layer 0", "0 fed title", "1 learned", "even", "gates by seniority"):
        assert part in printed
    assert max(map(len, printed.replace("\n\n", "\n").splitlines()[:-2])) <= 80
    batches = read_recipe(folder / "recipe.py").batches("tune", folder / "data", seed=0)
    inspection = inspect_heads(read_bundle(folder / "bundle").model, batches, num_requests=30)
    written = json.loads((folder / "h.json").read_text())
    assert {name: value for name, value in written.items() if value is not None} == pytest.approx(
        {name: value for name, value in inspection.numbers().items() if value == value}
    )
    assert set(written) == set(inspection.numbers())
    picture = matplotlib.image.imread(folder / "new" / "h.png")
    assert picture.shape[1] > 1_000
    assert 0.02 < float((picture[..., :3] < 0.9).any(axis=2).mean()) < 0.6


def test_a_model_without_heads_is_told_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["rankwell", "inspect", "heads", str(folder / "wide"), str(folder / "recipe.py"), "--data",
             str(folder / "data")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "no heads of attention to look into; found: WideDeep" in capsys.readouterr().err.replace("\n", " ")


def test_a_bundle_alone_means_its_tables(folder: Path) -> None:
    tables = run("inspect", "tables", folder / "wide")
    assert "wide" in tables
    assert run("inspect", folder / "wide") == tables
    assert run("inspect", "--json", folder / "t.json", folder / "wide") == tables
    assert json.loads((folder / "t.json").read_text())["total/bytes"] > 0
    assert "heads" in run("inspect", "--help")
