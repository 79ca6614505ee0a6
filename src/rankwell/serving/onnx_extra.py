"""What graphs are written, rewritten and run by: packages of the extra ``onnx``."""

from __future__ import annotations

import importlib
from typing import Any

from rankwell.errors import MissingExtraError

__all__ = ["onnx_module"]


def onnx_module(name: str) -> Any:
    """A module of onnx, onnxscript or onnxruntime, imported when it is needed.

    Args:
        name: Such as "onnxruntime.quantization".

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"a graph takes {name.partition('.')[0]}", found=str(error), do="pip install 'rankwell[onnx]'"
        ) from error
