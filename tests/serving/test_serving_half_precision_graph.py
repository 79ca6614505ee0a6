"""In half precision products are float16, and nothing that needs more: features, logits, calibrators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import serving_example as example

from rankwell.calibration.platt import Platt
from rankwell.errors import BundleError
from rankwell.models.candidate_list import ListSettings
from rankwell.models.list_attention import LinearSettings
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.serving.bundle import Bundle
from rankwell.serving.example_request import example_request
from rankwell.serving.graph_scorer import GraphScorer
from rankwell.serving.half_precision_graph import half_precision_graph
from rankwell.serving.request_graph import LOGITS, request_graph, row_lookups

onnx = pytest.importorskip("onnx")
ReferenceEvaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator

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
    doubles = [{name for name, kind in types.items() if kind == DOUBLE} for types in (was, now)]
    assert doubles[0] == doubles[1], "calibrators are what they were"
    assert doubles[0]


def evaluated(graph: bytes, given: dict[str, np.ndarray]) -> np.ndarray:
    """The logits in float16 as it is written: ONNX Runtime computes float32 where a processor has no float16."""
    found: np.ndarray = ReferenceEvaluator(onnx.load_from_string(graph)).run([LOGITS], given)[0]
    return found


def inputs_of(bundle: Bundle, *, num_candidates: int) -> dict[str, np.ndarray]:
    scorer = GraphScorer(bundle.schema, bundle.model.statistics, request_graph(bundle), row_lookups(bundle.model))
    return scorer.inputs(
        example_request(bundle.schema, bundle.model.statistics, num_candidates=num_candidates, num_events=3, seed=0)
    )


def test_float16_itself_is_near_and_numbers_too_large_for_it_stay_finite() -> None:
    bundle = example.transformer_bundle()
    given, narrow = inputs_of(bundle, num_candidates=9), half_precision_graph(GRAPH)
    apart = np.abs(evaluated(narrow, given) - evaluated(GRAPH, given))
    assert 0 < apart.max() < 0.02
    rows = next(name for name in given if name.startswith("rows.inputs") and name.endswith("candidates"))
    given[rows] = given[rows].copy()
    given[rows][4, 0] = 3e5
    assert np.isfinite(evaluated(narrow, given)).all()


def test_a_bound_that_float16_has_not_is_refused() -> None:
    attention = LinearSettings(num_heads=2)
    settings = TransformerSettings(row_width=4, width=8, hidden=(8,), list=ListSettings(attention=attention))
    model = RankingTransformer(example.SCHEMA, example.STATISTICS, settings, seed=0).eval()
    calibrators = {action.name: Platt(slope=1.0, offset=0.0) for action in example.SCHEMA.actions}
    bundle = Bundle(model=model, calibrators=calibrators, created_us=0)
    with pytest.raises(BundleError, match="no number for"):
        half_precision_graph(request_graph(bundle))


def test_weights_that_are_not_read_any_more_are_gone() -> None:
    graph, types = typed(half_precision_graph(GRAPH))
    read = {name for node in graph.node for name in node.input}
    assert {initializer.name for initializer in graph.initializer} <= read
    assert HALF in {types[initializer.name] for initializer in graph.initializer}
