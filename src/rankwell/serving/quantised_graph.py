"""A request's graph with cheaper products: int8 on a CPU, half precision on a GPU.

What these make is another graph of the same bundle, for `rankwell.serving.deployment.write_deployment`; whether it is
faster on the machine at hand, and what it costs in accuracy, is to be measured each time: ONNX Runtime's int8 may be
slower than its float32.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from rankwell.errors import BundleError, MissingExtraError

__all__ = ["dynamic_int8_graph", "half_precision_graph", "static_int8_graph"]

_PRODUCTS: Final = ["MatMul", "Gemm"]


def dynamic_int8_graph(graph: bytes) -> bytes:
    """Weights of products as int8, activations scaled as they come, request by request.

    Args:
        graph: Of `rankwell.serving.request_graph.request_graph`.

    Raises:
        MissingExtraError: onnxruntime or onnx is not installed.
    """
    quantization = _module("onnxruntime.quantization")
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "int8.onnx"
        quantization.quantize_dynamic(
            _module("onnx").load_from_string(graph), written, weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=_PRODUCTS, extra_options={"MatMulConstBOnly": True},
        )  # fmt: skip
        return written.read_bytes()


def static_int8_graph(graph: bytes, inputs: Iterable[Mapping[str, NDArray[Any]]]) -> bytes:
    """Weights of products as int8, activations scaled by the range that they had on a few requests.

    Args:
        graph: Of `rankwell.serving.request_graph.request_graph`.
        inputs: What it was given for requests like those to come; see `GraphScorer.inputs`.

    Raises:
        BundleError: There are no inputs.
        MissingExtraError: onnxruntime or onnx is not installed.
    """
    quantization = _module("onnxruntime.quantization")
    fed = list(inputs)
    if not fed:
        raise BundleError(
            "ranges of activations are measured on requests", found="none", do="give the inputs of a few logged ones"
        )

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self._left = iter(fed)

        def get_next(self) -> Mapping[str, NDArray[Any]] | None:
            return next(self._left, None)

    with _quiet(), tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            _module("onnx").load_from_string(graph), written, Reader(), quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_PRODUCTS, weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
            extra_options={"MatMulConstBOnly": True, "ForceQuantizeNoInputCheck": False},
        )  # fmt: skip
        return written.read_bytes()


def half_precision_graph(graph: bytes) -> bytes:
    """Weights and activations as float16, for a GPU; what stands behind the logits stays as it is.

    Inputs and outputs keep their types.

    Args:
        graph: Of `rankwell.serving.request_graph.request_graph`.

    Raises:
        MissingExtraError: onnxruntime or onnx is not installed.
    """
    onnx, float16 = _module("onnx"), _module("onnxruntime.transformers.float16")
    with _quiet():
        model = onnx.load_from_string(graph)
        half = float16.convert_float_to_float16(
            model, keep_io_types=True, disable_shape_infer=True,
            op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *_kinds_after_logits(model)],
        )  # fmt: skip
    written: bytes = half.SerializeToString()
    return written


def _kinds_after_logits(model: Any) -> list[str]:
    """Kinds of nodes that work on what is cast to float64: the calibrators'."""
    wide: set[str] = set()
    kinds: set[str] = set()
    for node in model.graph.node:
        to = [attribute.i for attribute in node.attribute if attribute.name == "to"]
        if (node.op_type == "Cast" and to == [11]) or wide & set(node.input):  # 11 is float64
            wide |= set(node.output)
            kinds.add(node.op_type)
    return sorted(kinds - {"MatMul", "Gemm", "Add", "Mul", "Concat", "Reshape", "Transpose"})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that the quantiser logs at every call."""
    root = logging.getLogger()
    level, disabled = root.level, root.disabled
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.disabled = disabled


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            "graphs are quantised by ONNX Runtime's tools", found=str(error), do="pip install 'rankwell[onnx]'"
        ) from error
