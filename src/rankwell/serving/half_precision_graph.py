"""A request's graph in half precision, for a GPU: from its first products to its last, and nothing before or behind.

Ages in seconds, amounts and places on the globe need float32 until they are scaled; a logit of −7 would be rounded to
.004; calibrators work in float64. So what is turned into float16 are the products and what is computed of them, but for
what is only added up, picked and put side by side on its way to the logits, such as the sums of a wide part, and the
products that give it. Features beyond ±2,048, where float16 no longer counts by ones, enter as that: products of larger
ones would overflow, and one candidate's infinity be NaN for all.

ONNX Runtime has no float16 of its own on most processors: there it computes such a graph in float32, and shows nothing
of what a GPU will round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from rankwell.errors import BundleError
from rankwell.serving.onnx_extra import onnx_module
from rankwell.serving.request_graph import LOGITS

__all__ = ["half_precision_graph"]

_PRODUCTS: Final = ("MatMul", "Gemm")
_FLOAT, _HALF = 1, 10
"""Of `onnx.TensorProto`."""
_LARGEST: Final = 65504.0
"""That float16 has, and weights may be."""
_MOST: Final = 2048.0
"""That what enters may be."""
_BOUNDS: Final = {"least that enters": -_MOST, "most that enters": _MOST}


def half_precision_graph(graph: bytes) -> bytes:
    """Weights and activations as float16; inputs and outputs keep their types.

    Args:
        graph: Of `rankwell.serving.request_graph.request_graph`.

    Raises:
        BundleError: It guards a division by a number that float16 has not, as linear attention does.
        MissingExtraError: onnx is not installed.
    """
    onnx = onnx_module("onnx")
    model = onnx.load_from_string(graph)
    rewritten = _Rewritten(onnx, model.graph)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(rewritten.nodes)
    read = {name for node in rewritten.nodes for name in node.input}
    model.graph.initializer.extend(i for i in rewritten.initializers if i.name in read)
    del model.graph.value_info[:]  # what was said of types no longer holds, and is found out again from the nodes
    written: bytes = model.SerializeToString()
    return written


class _Rewritten:
    """The nodes of a graph, with casts where float32 meets float16."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self._onnx = onnx
        self._weights = {initializer.name: initializer for initializer in graph.initializer}
        typed = (*graph.value_info, *graph.input, *graph.output)
        self._floats = {value.name for value in typed if value.type.tensor_type.elem_type == _FLOAT}
        self._floats |= {name for name, weight in self._weights.items() if weight.data_type == _FLOAT}
        self._halves = set[str]()
        """Values that are float16 under their own names."""
        self._twins = dict[str, str]()
        """What a float32 value is called as float16."""
        self._widened = dict[str, str]()
        """What a float16 value is called as float32."""
        bounds = (onnx.numpy_helper.from_array(np.array(value, np.float32), name) for name, value in _BOUNDS.items())
        self.nodes, self.initializers = list[Any](), [*graph.initializer, *bounds]
        kept = _last(graph.node) | _behind(graph.node)
        for node in graph.node:
            if not kept & set(node.output) and self._is_narrowed(node):
                self._narrow(node)
            else:
                self._keep(node)

    def _is_narrowed(self, node: Any) -> bool:
        follows = any(name in self._halves for name in node.input)
        gives = all(name in self._floats for name in node.output)
        return gives and (follows or node.op_type in _PRODUCTS)

    def _narrow(self, node: Any) -> None:
        node.input[:] = [name if name not in self._floats else self._half_of(name) for name in node.input]
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                attribute.i = _HALF
        self._halves |= set(node.output)
        self.nodes.append(node)

    def _keep(self, node: Any) -> None:
        for name in node.input:
            if name in self._halves and name not in self._widened:
                self._widened[name] = f"{name} in float32"
                self._add("Cast", [name], self._widened[name], to=_FLOAT)
        node.input[:] = [self._widened.get(name, name) for name in node.input]
        self.nodes.append(node)

    def _half_of(self, name: str) -> str:
        if name in self._halves:
            return name
        if name not in self._twins:
            twin = self._twins[name] = f"{name} in float16"
            if name in self._weights:
                self.initializers.append(self._narrowed(self._weights[name], twin))
            else:
                self._add("Clip", [name, *_BOUNDS], f"{name} in bounds")
                self._add("Cast", [f"{name} in bounds"], twin, to=_HALF)
        return self._twins[name]

    def _narrowed(self, weight: Any, twin: str) -> Any:
        values = self._onnx.numpy_helper.to_array(weight)
        within = np.where(np.isfinite(values), np.clip(values, -_LARGEST, _LARGEST), values).astype(np.float16)
        if values.size == 1 and values.any() and not within.any():
            raise BundleError(
                "the graph holds a bound that float16 has no number for", found=f"{weight.name} = {values.item():.3g}",
                allowed=f"at least {np.finfo(np.float16).smallest_subnormal:.2g}", do="serve it in float32",
            )  # fmt: skip
        return self._onnx.numpy_helper.from_array(within, twin)

    def _add(self, kind: str, inputs: Sequence[str], output: str, **attributes: int) -> None:
        node = self._onnx.helper.make_node(kind, list(inputs), [output], name=f"{kind}: {output}", **attributes)
        self.nodes.append(node)


def _last(nodes: Any) -> set[str]:
    """The logits, and what they are made of, back to products."""
    makers = {name: node for node in nodes for name in node.output}
    found, left = {LOGITS}, [LOGITS]
    while left:
        node = makers[left.pop()]
        if node.op_type not in _PRODUCTS:
            before = {name for name in node.input if name in makers} - found
            found |= before
            left += before
    return found


def _behind(nodes: Any) -> set[str]:
    """What is computed of the logits."""
    found = {LOGITS}
    for node in nodes:
        if found & set(node.input):
            found |= set(node.output)
    return found
