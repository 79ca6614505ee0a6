"""A request's graph with cheaper products, in int8.

What these make is another graph of the same bundle, for `rankwell.serving.deployment.write_deployment`; whether it is
faster on the machine at hand, and what it costs in accuracy, is to be measured each time: ONNX Runtime's int8 may be
slower than its float32.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from rankwell.errors import BundleError
from rankwell.serving.onnx_extra import onnx_module

__all__ = ["dynamic_int8_graph", "static_int8_graph"]

_PRODUCTS: Final = ["MatMul", "Gemm"]


def dynamic_int8_graph(graph: bytes) -> bytes:
    """Weights of products as int8, activations scaled as they come, request by request.

    Args:
        graph: Of `rankwell.serving.request_graph.request_graph`.

    Raises:
        BundleError: The quantiser does not take the graph.
        MissingExtraError: onnxruntime or onnx is not installed.
    """
    quantization, model = onnx_module("onnxruntime.quantization"), onnx_module("onnx").load_from_string(graph)
    with tempfile.TemporaryDirectory() as folder, _quantising():
        written = Path(folder) / "int8.onnx"
        quantization.quantize_dynamic(
            model, written, weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=_PRODUCTS, extra_options={"MatMulConstBOnly": True},
        )  # fmt: skip
        return written.read_bytes()


def static_int8_graph(graph: bytes, inputs: Iterable[Mapping[str, NDArray[Any]]]) -> bytes:
    """Weights of products as int8, activations scaled by the range that they had on a few requests.

    Args:
        graph: Of `rankwell.serving.request_graph.request_graph`.
        inputs: What it was given for requests like those to come; see `GraphScorer.inputs`.

    Raises:
        BundleError: There are no inputs, or the quantiser does not take the graph.
        MissingExtraError: onnxruntime or onnx is not installed.
    """
    quantization = onnx_module("onnxruntime.quantization")
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

    model = onnx_module("onnx").load_from_string(graph)
    with tempfile.TemporaryDirectory() as folder, _quantising():
        written = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            model, written, Reader(), quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_PRODUCTS, weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
            extra_options={"MatMulConstBOnly": True, "ForceQuantizeNoInputCheck": False},
        )  # fmt: skip
        return written.read_bytes()


@contextmanager
def _quantising() -> Iterator[None]:
    """Without the advice that the quantiser logs at every call, and with its errors as ours."""
    root = logging.getLogger()
    level, disabled = root.level, root.disabled
    root.setLevel(logging.ERROR)
    try:
        yield
    except OSError:
        raise  # a full disk is no matter of the graph
    except Exception as error:  # they have no common root but this
        raise BundleError(
            "ONNX Runtime's quantiser does not take the graph", found=f"{type(error).__name__}: {error}",
            do="serve it in float32, or with the versions of onnx and onnxruntime in constraints.txt",
        ) from error  # fmt: skip
    finally:
        root.setLevel(level)
        root.disabled = disabled
