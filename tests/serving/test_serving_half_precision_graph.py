"""In half precision products are float16, and nothing that needs more: features, logits, calibrators."""

from __future__ import annotations

from typing import Any

import pytest
import serving_example as example

from rankwell.serving.half_precision_graph import half_precision_graph
from rankwell.serving.request_graph import request_graph

onnx = pytest.importorskip("onnx")

GRAPH = request_graph(example.transformer_bundle())
FLOAT, HALF, DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE


def typed(graph: bytes) -> tuple[Any, dict[str, int]]:
    """A graph, and the types of what is in it, found out anew."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph), check_type=True, strict_mode=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return inferred, types | {initializer.name: initializer.data_type for initializer in inferred.initializer}


def test_products_are_narrow_but_for_the_last_and_features_are_not() -> None:
    graph, types = typed(half_precision_graph(GRAPH))
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    narrow = [node for node in products if types[node.output[0]] == HALF]
    assert narrow
    assert any(types[node.output[0]] == FLOAT for node in products), "a logit of −7 is .004 off in float16"
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if types[node.output[0]] == HALF and node.op_type != "Cast":
            before, left = set[str](), [node]
            while left:
                found = left.pop()
                before.add(found.op_type)
                left += [makers[name] for name in found.input if name in makers]
            assert before & {"MatMul", "Gemm"}, f"{node.op_type} {node.name} is of features alone"


def test_what_goes_in_and_comes_out_keeps_its_type() -> None:
    (before, was), (after, now) = typed(GRAPH), typed(half_precision_graph(GRAPH))
    for side in ("input", "output"):
        names = [value.name for value in getattr(before, side)]
        assert [value.name for value in getattr(after, side)] == names
        assert [now[name] for name in names] == [was[name] for name in names]
    doubles = [types[name] for _, types in ((before, was), (after, now)) for name in types if types[name] == DOUBLE]
    assert len(doubles) % 2 == 0, "calibrators are what they were"


def test_weights_that_are_not_read_any_more_are_gone() -> None:
    graph, types = typed(half_precision_graph(GRAPH))
    read = {name for node in graph.node for name in node.input}
    assert {initializer.name for initializer in graph.initializer} <= read
    assert HALF in {types[initializer.name] for initializer in graph.initializer}
