"""Modules as ONNX graphs, by torch's exporter: what it lacks, and what it leaves that a graph has no use for."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from rankwell.errors import BundleError
from rankwell.serving.onnx_extra import onnx_module

__all__ = ["export_graph"]

_OPSET: Final = 20
_LARGEST_CONSTANT: Final = 2**22
"""In numbers, of what is folded, or made one with its equal: the weights of a layer, but nothing of a table's size."""
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
    _simplify(program.model)
    model = program.model_proto
    read = {name for node in model.graph.node for name in node.input}
    for unread in [value for value in model.graph.input if value.name not in read]:
        model.graph.input.remove(unread)
    written: bytes = model.SerializeToString()
    return written


def _simplify(model: Any) -> None:
    """Compute what is constant once, here, and what is computed twice once.

    A weight that a layer reads in part is one then, which the quantiser knows what to do with; and layers that mask the
    same entries share a mask. The exporter folds constants itself, but none of a weight's size.
    """
    optimizer, passes = onnx_module("onnxscript.optimizer"), onnx_module("onnx_ir.passes.common")
    optimizer.fold_constants(
        model, onnx_shape_inference=False, input_size_limit=_LARGEST_CONSTANT, output_size_limit=_LARGEST_CONSTANT
    )
    passes.DeduplicateInitializersPass(size_limit=_LARGEST_CONSTANT)(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)


class _OfMapping(nn.Module):
    """Tensors one by one, as the exporter names them, to a module that takes them by name."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *tensors: Tensor) -> Any:
        return self.module(dict(zip(self.names, tensors, strict=True)))


def _translations() -> dict[Any, Any]:
    """Operations of torch that the exporter does not know, as nodes."""
    op = onnx_module("onnxscript").opset20
    numpy_helper = onnx_module("onnx.numpy_helper")

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

    def sigmoid(values: Any) -> Any:
        """Of float64 as 1 / (1 + e^-x): ONNX Runtime's own takes two exponentials of each number."""
        if values.dtype != 11:
            return op.Sigmoid(values)
        one = op.Constant(value=numpy_helper.from_array(np.array(1.0)))
        return op.Reciprocal(op.Add(op.Exp(op.Neg(values)), one))

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

    def attention(
        query: Any, key: Any, value: Any, mask: Any = None, dropout: float = 0.0, is_causal: bool = False,
        *, scale: float | None = None, **__: Any,
    ) -> Any:  # fmt: skip
        """Softmax attention of which every entry sees something, so that no row of shares has to be looked at for NaN.

        What a mask puts out of sight would come out of ONNX Runtime's exponential as a subnormal number, as would its
        products with values; a processor is some hundred times slower with those. So no score lies more than 40 below
        the largest of its row: e^-40 is 4e-18, and sums of float32 to which it is added stay what they were.
        """
        del dropout
        zero, one, last = op.Constant(value_int=0), op.Constant(value_int=1), op.Constant(value_ints=[-1])
        factor = op.Constant(value_float=query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            places = op.Range(zero, op.Squeeze(op.Shape(query, start=-2, end=-1)), one)
            mask = op.LessOrEqual(op.Unsqueeze(places, zero), op.Unsqueeze(places, one))
        hidden = None
        if mask is not None:
            hidden = op.Where(mask, op.Constant(value_float=0.0), op.Constant(value_float=-math.inf))

        def mixed(query: Any, key: Any, value: Any) -> Any:
            scores = op.Mul(op.MatMul(query, op.Transpose(key, perm=[0, 1, 3, 2])), factor)
            if hidden is not None:
                scores = op.Add(scores, hidden)
                largest = op.ReduceMax(scores, last, keepdims=0)
                least = op.Unsqueeze(op.Sub(largest, op.Constant(value_float=40.0)), last)
                scores = op.Max(scores, least)
            return op.MatMul(op.Softmax(scores, axis=-1), value)

        num_lists, num_heads, asking = query.shape[:3]
        if num_lists != 1 or num_heads == 1 or is_causal or asking != key.shape[2]:
            return mixed(query, key, value)
        # Where all candidates see all, the shares of one head fill a core's cache: heads take turns in the same place.
        heads = (op.Split(entries, axis=1, num_outputs=num_heads) for entries in (query, key, value))
        return op.Concat(*(mixed(*of_head) for of_head in zip(*heads, strict=True)), axis=1)

    return {
        torch.ops.aten.scaled_dot_product_attention.default: attention,
        torch.ops.aten.sigmoid.default: sigmoid,
        torch.ops.aten.sum.dim_IntList: sum_of,
        torch.ops.aten.searchsorted.Tensor: searchsorted,
        torch.ops.aten.bucketize.Tensor: bucketize,
        torch.ops.aten.sort.stable: stable_sort,
    }
