"""Modules as ONNX graphs, by torch's exporter: what it lacks, and what it leaves that a graph has no use for."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from rankwell.errors import BundleError, MissingExtraError

__all__ = ["export_graph"]

_OPSET: Final = 20
_BLOCK: Final = 32
"""Values that a search looks at in one go."""


def export_graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    *,
    is_free: Callable[[str], bool],
) -> bytes:
    """The serialised ONNX model of a module in eval mode.

    Inputs that nothing in the graph reads are not inputs of the graph.

    Args:
        module: Its forward takes one mapping of names to tensors.
        inputs: What to trace it with; a size of 0 or 1 in a free dimension would become the only one.
        outputs: Names of what it returns, in order.
        is_free: Whether the first dimension of an input may be of any size.

    Raises:
        BundleError: It does what the exporter has no nodes for.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    translations = _translations()
    sizes = tuple({0: torch.export.Dim.DYNAMIC} if is_free(name) else None for name in inputs)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own, about itself
            program = torch.onnx.export(
                _OfMapping(module, tuple(inputs)), tuple(inputs.values()), dynamic_shapes=(sizes,), dynamo=True,
                opset_version=_OPSET, verbose=False, input_names=list(inputs), output_names=list(outputs),
                custom_translation_table=translations,
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        raise BundleError(
            "the model cannot be written as a graph", found=f"{type(error).__name__}: {error.__cause__ or error}",
            do="serve it with rankwell.serving.ranker.Ranker, which runs it in PyTorch",
        ) from error  # fmt: skip
    finally:
        logger.setLevel(level)
    assert program is not None
    model = program.model_proto
    read = {name for node in model.graph.node for name in node.input}
    for unread in [value for value in model.graph.input if value.name not in read]:
        model.graph.input.remove(unread)
    _lift_causal_scores(model.graph)
    written: bytes = model.SerializeToString()
    return written


def _lift_causal_scores(graph: Any) -> None:
    """Let no score of causal attention lie more than 80 below the largest of its row.

    What the mask puts out of reach would come out of ONNX Runtime's exponential as a subnormal number, which a
    processor is some hundred times slower with: of 51 events that is half of a softmax's time and more. e^-80 is
    1.8e-35, so that a probability of float32 stays what it was.
    """
    helper, numpy_helper = importlib.import_module("onnx.helper"), importlib.import_module("onnx.numpy_helper")
    made_by = {name: node for node in graph.node for name in node.output}

    def comes_from(name: str, *types: str) -> bool:
        node = made_by.get(name)
        return node is not None and node.op_type == types[0] and (
            len(types) == 1 or any(comes_from(given, *types[1:]) for given in node.input)
        )  # fmt: skip

    nodes, constants = [], {"lift.last": np.array([-1]), "lift.reach": np.array(80, dtype=np.float32)}
    for node in graph.node:
        if node.op_type == "Softmax" and comes_from(node.input[0], "Add", "Where", "Equal", "Trilu"):
            scores, largest, least, lifted = (f"{node.input[0]}{end}" for end in ("", ".largest", ".least", ".lifted"))
            nodes += [
                helper.make_node("ReduceMax", [scores, "lift.last"], [largest], keepdims=1),
                helper.make_node("Sub", [largest, "lift.reach"], [least]),
                helper.make_node("Max", [scores, least], [lifted]),
            ]
            node.input[0] = lifted
        nodes.append(node)
    if len(nodes) > len(graph.node):
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
        del graph.node[:]
        graph.node.extend(nodes)


class _OfMapping(nn.Module):
    """Tensors one by one, as the exporter names them, to a module that takes them by name."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *tensors: Tensor) -> Any:
        return self.module(dict(zip(self.names, tensors, strict=True)))


def _translations() -> dict[Any, Any]:
    """Operations of torch that the exporter does not know, as nodes."""
    try:
        op = importlib.import_module("onnxscript").opset20
        numpy_helper = importlib.import_module("onnx.numpy_helper")
    except ImportError as error:
        raise MissingExtraError(
            "graphs are written by torch's exporter to ONNX", found=str(error), do="pip install 'rankwell[onnx]'"
        ) from error

    def searchsorted(ascending: Any, asked: Any, *_: Any, right: bool = False, **__: Any) -> Any:
        """How many of the ascending values lie before each that is asked: of blocks first, then within one."""
        last, first = op.Constant(value_ints=[-1]), op.Constant(value_ints=[0])
        before = op.LessOrEqual if right else op.Less

        def count(values: Any) -> Any:
            is_before = before(values, op.Unsqueeze(asked, last))
            return op.ReduceSum(op.Cast(is_before, to=7), last, keepdims=0)  # 7 is int64

        num = ascending.shape[0]
        num_blocks = -(-num // _BLOCK)
        if num_blocks <= 2:
            return count(op.Unsqueeze(ascending, first))
        # the last block is filled up with its largest value, which counts too much where all of it lies before
        padding = op.Constant(value_ints=[0, num_blocks * _BLOCK - num])
        filled = op.Pad(ascending, padding, op.ReduceMax(ascending, keepdims=0))
        blocks = op.Reshape(filled, op.Constant(value_ints=[num_blocks, _BLOCK]))
        starts = op.Unsqueeze(op.Gather(blocks, op.Constant(value_int=0), axis=1), first)
        block = op.Max(op.Sub(count(starts), op.Constant(value_int=1)), op.Constant(value_int=0))
        place = op.Add(op.Mul(block, op.Constant(value_int=_BLOCK)), count(op.Gather(blocks, block)))
        return op.Min(place, op.Constant(value_int=num))

    def bucketize(asked: Any, ascending: Any, *_: Any, right: bool = False, **__: Any) -> Any:
        return searchsorted(ascending, asked, right=right)

    def stable_sort(values: Any, *, stable: bool, dim: int = -1, descending: bool = False) -> Any:
        """All of the top: of equal values the first comes first."""
        del stable
        size = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
        return op.TopK(values, size, axis=dim, largest=int(descending), sorted=1)

    def sum_of(values: Any, dims: Any, keepdim: bool = False, dtype: Any = None) -> Any:
        """Sums over blocks that stand side by side are a product with ones: the reduction takes 65 µs of 500 rows."""
        assert dtype is None
        is_float, size = values.dtype == 1, tuple(values.shape)  # 1 is float32
        if is_float and len(size) == 3 and list(dims) == [1] and not keepdim and all(type(n) is int for n in size[1:]):
            _, num_blocks, width = size
            ones = np.tile(np.eye(width, dtype=np.float32), (num_blocks, 1))
            flat = op.Reshape(values, op.Constant(value_ints=[-1, num_blocks * width]))
            # as an Einsum, which no quantiser touches: exact sums stay exact
            return op.Einsum(flat, op.Constant(value=numpy_helper.from_array(ones)), equation="nb,bw->nw")
        counted = values if is_float or values.dtype == 11 else op.Cast(values, to=7)  # 11 is float64, 7 is int64
        return op.ReduceSum(counted, op.Constant(value_ints=list(dims)), keepdims=int(keepdim))

    return {
        torch.ops.aten.sum.dim_IntList: sum_of,
        torch.ops.aten.searchsorted.Tensor: searchsorted,
        torch.ops.aten.bucketize.Tensor: bucketize,
        torch.ops.aten.sort.stable: stable_sort,
    }
