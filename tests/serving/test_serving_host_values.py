"""What is computed of sizes alone is an output of the graph that a GPU is given, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import serving_example as example

from rankwell.serving.half_precision_graph import half_precision_graph
from rankwell.serving.host_values import with_host_values
from rankwell.serving.quantised_graph import dynamic_int8_graph
from rankwell.serving.request_graph import LOGITS, PROBABILITIES, request_graph

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


KINDS = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


def small_graph() -> bytes:
    """y = x + number of rows of x; z = −(number + 1)."""
    helper, of = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"], start=0, end=1),
        helper.make_node("Cast", ["sizes"], ["number"], to=of.FLOAT),
        helper.make_node("Add", ["number", "one"], ["more"]),
        helper.make_node("Add", ["x", "number"], ["y"]),
        helper.make_node("Neg", ["more"], ["z"]),
    ]
    floats = [helper.make_tensor_value_info(name, of.FLOAT, [1]) for name in ("number", "more")]
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", of.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", of.FLOAT, ["n"]), helper.make_tensor_value_info("z", of.FLOAT, [1])],
        initializer=[onnx.numpy_helper.from_array(np.ones(1, np.float32), "one")],
        value_info=[helper.make_tensor_value_info("sizes", of.INT64, [1]), *floats],
    )  # fmt: skip
    written: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    return written


def outputs(graph: bytes) -> list[str]:
    return [value.name for value in onnx.load_from_string(graph).graph.output]


def test_sizes_and_what_is_made_of_them_are_outputs() -> None:
    graph = with_host_values(small_graph())
    assert outputs(graph) == ["y", "z", "sizes", "number", "more"]
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": np.zeros(3, np.float32)})
    assert [value.tolist() for value in found] == [[3.0] * 3, [-4.0], [3], [3.0], [4.0]]


@pytest.mark.parametrize("cheaper", [bytes, half_precision_graph, dynamic_int8_graph])
def test_all_forms_of_a_request_graph_have_the_same_ones(cheaper: Callable[[bytes], bytes]) -> None:
    graph = request_graph(example.transformer_bundle())
    found = outputs(with_host_values(cheaper(graph)))
    assert found[:2] == [LOGITS, PROBABILITIES]
    assert len(found) > 20
    assert set(found) >= set(outputs(with_host_values(graph)))
    again = with_host_values(with_host_values(cheaper(graph)))
    assert outputs(again) == found
    onnx.checker.check_model(onnx.load_from_string(again), full_check=True)
    before, after = (
        onnxruntime.InferenceSession(each, providers=["CPUExecutionProvider"]) for each in (cheaper(graph), again)
    )
    given = {value.name: np.ones([n if isinstance(n, int) else 4 for n in value.shape], KINDS[value.type])
             for value in before.get_inputs()}  # fmt: skip
    expected, found_again = (session.run([LOGITS], given)[0] for session in (before, after))
    np.testing.assert_allclose(found_again, expected, atol=1e-6)
