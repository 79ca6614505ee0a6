"""`rankwell export`, from a bundle to a folder that answers."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from rankwell.app.command_line import app
from rankwell.calibration.platt import Platt
from rankwell.data.statistics import NumericStatistics
from rankwell.models.wide_deep import Deep, DeepSettings, Logistic
from rankwell.schema import Action, Categorical, Schema
from rankwell.serving.bundle import Bundle, write_bundle
from rankwell.serving.deployment import read_deployment
from rankwell.serving.ranker import Ranker

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SCHEMA = Schema(
    features=(Categorical(name="job", num_ids=50),), actions=(Action(name="click"),), item="job", member_id=None,
    time=None,
)  # fmt: skip


def test_a_bundle_becomes_a_folder_that_answers(tmp_path: Path) -> None:
    bundle = Bundle(
        model=Logistic(SCHEMA, NumericStatistics(), seed=0), calibrators={"click": Platt(1.0, -1.0)}, created_us=7
    )  # fmt: skip
    write_bundle(bundle, tmp_path / "bundle")
    pq.write_table(
        pa.table({"request_id": [1, 2], "job": [[7, 8], [9]], "click": [[0, 1], [0]]}), tmp_path / "log.parquet"
    )
    arguments = ["export", tmp_path / "bundle", tmp_path / "out", "--log", tmp_path / "log.parquet", "--rows", "int8"]
    arguments += ["--json", tmp_path / "numbers.json"]
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "passed" in result.output
    deployment = read_deployment(tmp_path / "out")
    assert deployment.id in result.output
    assert json.loads((tmp_path / "numbers.json").read_text())["num_graph_bytes"] > 0
    assert len(json.loads((tmp_path / "out" / "self_test.json").read_text())["cases"]) == 5
    ranked = Ranker(deployment.scorer()).rank({"request_id": 1, "candidates": {"job": [42, 41]}}).ranked
    assert ranked.probabilities.tolist() == pytest.approx([0.26894, 0.26894], abs=1e-5)


@pytest.mark.parametrize(("products", "kind"), [("float32", "FLOAT"), ("float16", "FLOAT16"), ("int8", "INT8")])
def test_products_are_as_narrow_as_was_asked(tmp_path: Path, products: str, kind: str) -> None:
    onnx = pytest.importorskip("onnx")
    model = Deep(SCHEMA, NumericStatistics(), DeepSettings(width=4, hidden=(8, 8)), seed=0)
    write_bundle(Bundle(model=model.eval(), calibrators={"click": Platt(1.0, -1.0)}, created_us=7), tmp_path / "bundle")
    arguments = ["export", str(tmp_path / "bundle"), str(tmp_path / "out"), "--products", products]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    graph = onnx.load(tmp_path / "out" / "graph.onnx").graph
    matrices = {onnx.TensorProto.DataType.Name(i.data_type) for i in graph.initializer if len(i.dims) == 2}
    assert kind in matrices
    assert len(matrices & {"FLOAT16", "INT8"}) == (products != "float32")
