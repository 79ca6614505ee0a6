"""`rankwell inspect`, from training with penalties that give exact zeros to what is printed, written and drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from typer.testing import CliRunner

from rankwell.app.command_line import app
from rankwell.calibration.uncalibrated import Uncalibrated
from rankwell.data.statistics import measure_numerics
from rankwell.models.model import Model
from rankwell.serving.bundle import Bundle, write_bundle
from rankwell.serving.inspection import BundleInspection, inspect_bundle
from rankwell.simulation.recipe import marketplace_recipe
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.simulate import simulate
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.tables.ftrl import Ftrl
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.trained import train


@pytest.fixture(scope="module", name="trained")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    """Wide & Deep on a small marketplace: FTRL-L1 on the wide part, a group lasso on the deep part's rows."""
    folder = tmp_path_factory.mktemp("inspect")
    simulate(MarketplaceSettings(), 0, num_requests=600, directory=folder / "data")
    recipe = marketplace_recipe()
    plan = OptimizerPlan(
        linear_rows=Ftrl(learning_rate=0.1, l1=0.005), default_rows=RowWiseAdaGrad(learning_rate=0.1, group_lasso=0.2)
    )
    recipe = replace(recipe, optimizers=plan, loop=replace(recipe.loop, max_epochs=2))
    model = train(recipe, folder / "data", seed=0).model
    calibrators = {action.name: Uncalibrated() for action in recipe.schema.actions}
    write_bundle(Bundle(model=model, calibrators=calibrators, created_us=0), folder / "bundle")
    return model, folder / "bundle"


@pytest.fixture(scope="module", name="inspection")
def _inspection(trained: tuple[Model, Path]) -> BundleInspection:
    return inspect_bundle(trained[1])


def test_zero_rows_are_counted_exactly(trained: tuple[Model, Path], inspection: BundleInspection) -> None:
    model, path = trained
    found = {(table.part, table.name): table for table in inspection.tables}
    assert set(found) == {(part, name) for part, table in model.tables.items() for name in table.names}
    share = {}
    for part, table in model.tables.items():
        rows = zeros = 0
        for name in table.names:
            inspected = found[part, name]
            pieces = list(table.chunks(name))
            keys = [key for piece in pieces for key in piece.keys_n.tolist()]
            values = [row for piece in pieces for row in piece.rows_nW.tolist()]
            own = [k >= 0 for k in keys]
            assert inspected.num_rows == sum(own)
            assert inspected.num_zeros == sum(ours and not any(row) for ours, row in zip(own, values, strict=True))
            assert int((inspected.norms_n == 0).sum()) == inspected.num_zeros
            assert inspected.default_norm == pytest.approx(np.linalg.norm(values[keys.index(-2)]), abs=1e-6)
            rows, zeros = rows + inspected.num_rows, zeros + inspected.num_zeros
            sizes = {end: p.stat().st_size if (p := path / "rows" / part / f"{name}.{end}").exists() else 0
                     for end in ("arrow", "zeros", "states")}  # fmt: skip
            assert inspected.num_bytes == sum(sizes.values())
            assert inspected.bytes_saved == inspected.num_zeros * (8 + 4 + 4 * table.width) - sizes["zeros"]
            assert (sizes["states"] > 0) == (part != "deep")
        share[part] = zeros / rows
    assert all(0.05 < s < 0.95 for s in share.values()), share


def test_the_verb_prints_writes_and_draws(
    trained: tuple[Model, Path], inspection: BundleInspection, tmp_path: Path
) -> None:
    words = [
        "inspect",
        str(trained[1]),
        "--json",
        str(tmp_path / "i.json"),
        "--figure",
        str(tmp_path / "new" / "i.png"),
    ]
    result = CliRunner().invoke(app, words, catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    numbers = json.loads((tmp_path / "i.json").read_text())
    assert numbers == pytest.approx({**inspection.numbers()})
    assert numbers["total/zero_rows"] == sum(table.num_zeros for table in inspection.tables)
    assert numbers["wide/member/sightings_10"] <= numbers["wide/member/sightings_90"]
    picture = matplotlib.image.imread(tmp_path / "new" / "i.png")
    assert picture.shape[1] > 1_000
    assert 0.02 < float((picture[..., :3] < 0.9).any(axis=2).mean()) < 0.6  # something stands on it


def test_an_untrained_bundle_has_nothing_to_count(tmp_path: Path) -> None:
    recipe = marketplace_recipe()
    simulate(MarketplaceSettings(), 0, num_requests=50, directory=tmp_path / "data")
    batches = recipe.batches("train", tmp_path / "data", seed=None)
    model = recipe.build(measure_numerics(batches, recipe.schema), 0)
    calibrators = {action.name: Uncalibrated() for action in recipe.schema.actions}
    write_bundle(Bundle(model=model, calibrators=calibrators, created_us=0), tmp_path / "bundle")
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "bundle")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert inspect_bundle(tmp_path / "bundle").numbers()["total/rows"] == 0
