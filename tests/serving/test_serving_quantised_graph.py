"""Cheaper graphs of the same bundle: near in what they answer, smaller, and refused without requests to go by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import serving_example as example
import torch

from rankwell.errors import BundleError
from rankwell.serving.deployment import read_deployment, write_deployment
from rankwell.serving.example_request import example_request
from rankwell.serving.quantised_graph import dynamic_int8_graph, static_int8_graph
from rankwell.serving.request_graph import request_graph
from rankwell.serving.scorer import EagerScorer
from rankwell.types import Batch

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

BUNDLE = example.example_bundle()


def request(seed: int) -> Batch:
    return example_request(example.SCHEMA, example.STATISTICS, num_candidates=50, num_events=3, seed=seed)


@pytest.fixture(scope="module")
def graph() -> bytes:
    return request_graph(BUNDLE)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, graph: bytes) -> list[Mapping[str, Any]]:
    folder = tmp_path_factory.mktemp("deployment") / "float32"
    write_deployment(BUNDLE, folder, graph=graph)
    scorer = read_deployment(folder).scorer()
    return [scorer.inputs(request(seed)) for seed in range(6)]


def kinds(graph: bytes) -> set[str]:
    return {node.op_type for node in onnx.load_from_string(graph).graph.node}


def probabilities(graph: bytes, given: Mapping[str, Any]) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["probabilities_CA"], dict(given))[0]
    return found


def test_each_is_near_in_probabilities(graph: bytes, inputs: list[Mapping[str, Any]]) -> None:
    expected = EagerScorer(BUNDLE).score(request(5)).probabilities_CA.numpy()
    for cheaper, has, apart in (
        (dynamic_int8_graph(graph), "MatMulInteger", 0.02),
        (static_int8_graph(graph, inputs[:5]), "QuantizeLinear", 0.05),
    ):
        assert has in kinds(cheaper)
        found = probabilities(cheaper, inputs[5])
        assert found.dtype == np.float64
        assert 0 < np.abs(found - expected).max() < apart


def test_ranges_need_requests(graph: bytes) -> None:
    with pytest.raises(BundleError, match="measured on requests"):
        static_int8_graph(graph, [])


def test_what_the_quantiser_does_not_take_is_an_error_of_ours(graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("onnxruntime.quantization.quantize_dynamic", fails)
    error: Exception = ValueError("an Einsum of three")
    with pytest.raises(BundleError, match="quantiser does not take"):
        dynamic_int8_graph(graph)
    error = OSError(28, "no space left")
    with pytest.raises(OSError, match="no space left"):
        dynamic_int8_graph(graph)


def test_a_deployment_takes_one_and_tests_itself_by_what_it_costs(tmp_path: Any, graph: bytes) -> None:
    write_deployment(BUNDLE, tmp_path / "int8", graph=dynamic_int8_graph(graph))
    deployment = read_deployment(tmp_path / "int8")
    scorer = deployment.scorer()
    deployment.test(scorer)
    exact = EagerScorer(BUNDLE).score(request(3)).probabilities_CA
    assert not torch.equal(scorer.score(request(3)).probabilities_CA, exact)
