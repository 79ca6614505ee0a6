"""`rankwell features`, from a bundle and a log to a store that a server could open."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from rankwell.app.command_line import app
from rankwell.calibration.uncalibrated import Uncalibrated
from rankwell.data.statistics import ColumnStatistics, NumericStatistics
from rankwell.errors import SchemaError
from rankwell.models.wide_deep import Logistic
from rankwell.schema import Action, Categorical, Numeric, Place, Schema
from rankwell.serving.bundle import Bundle, write_bundle
from rankwell.serving.feature_table import open_feature_table

SCHEMA = Schema(
    features=(
        Categorical(name="job"),
        Numeric(name="pay"),
        Numeric(name="retrieval_score", missing="indicator"),
        Place(name="home", on="request"),
    ),
    actions=(Action(name="click"),),
    item="job",
)
STATISTICS = NumericStatistics(
    columns={
        name: ColumnStatistics(
            num_values=2, missing_rate=0.0, mean=7.5, sd=1.0, log_mean=2.0, log_sd=0.5, quantiles=(7.0, 8.0)
        )
        for name in ("pay", "retrieval_score")
    }
)
LOG = {
    "member_id": [5, 6, 5],
    "time_us": [1, 2, 3],
    "job": [[7, 8], [8], [9]],
    "pay": [[1.0, 2.0], [3.0], [4.0]],
    "retrieval_score": [[0.5, 0.5], [0.5], [0.5]],
    "home_lat": [1.0, 2.0, 3.0],
    "home_lon": [1.0, 2.0, 3.0],
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    model = Logistic(SCHEMA, STATISTICS, seed=0)
    write_bundle(Bundle(model=model, calibrators={"click": Uncalibrated()}, created_us=0), tmp_path / "bundle")
    return tmp_path / "bundle"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["features", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_log_fills_a_store_that_says_itself_what_it_keeps(bundle: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table(LOG), tmp_path / "log.parquet")
    options = ("--not-stored", "retrieval_score", "--default", "home=52.5,-13.25", "--json", tmp_path / "n.json")
    printed = run(bundle, tmp_path / "store", "--log", tmp_path / "log.parquet", *options)
    assert "3 items, 2 members" in printed
    assert json.loads((tmp_path / "n.json").read_text()) == {"num_items": 3, "num_members": 2}
    with open_feature_table(tmp_path / "store", SCHEMA, STATISTICS) as table:
        assert table.stored.not_stored == ("retrieval_score",)
        assert table.member(5).context["home"].tolist() == [[3.0, 3.0]]
        assert table.member(1).context["home"].tolist() == [[52.5, -13.25]]


def test_tables_of_items_and_members_fill_it_too(bundle: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"job": [1, 2], "pay": [3.0, 4.0]}), tmp_path / "items.parquet")
    options = ("--not-stored", "retrieval_score", "--default", "home=0,0")
    assert "2 items, 0 members" in run(bundle, tmp_path / "s", "--items", tmp_path / "items.parquet", *options)


def test_a_default_that_is_missing_or_none_is_told_before_anything_is_written(bundle: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table(LOG), tmp_path / "log.parquet")
    arguments = (bundle, tmp_path / "store", "--log", tmp_path / "log.parquet", "--not-stored", "retrieval_score")
    with pytest.raises(SchemaError, match="'home' has no default"):
        run(*arguments)
    with pytest.raises(SchemaError, match="cannot be read"):
        run(*arguments, "--default", "home=far away")
    assert not (tmp_path / "store").exists()
