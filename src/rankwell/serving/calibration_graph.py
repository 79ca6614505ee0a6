"""The end of a model's graph: logits in, calibrated probabilities out, as one ONNX graph.

Letters in names: C candidates, flat over the batch · A actions · S segment columns.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from rankwell.calibration.calibrator import Calibrator
from rankwell.errors import BundleError, MissingExtraError
from rankwell.losses.label_smoothing import undo_label_smoothing

__all__ = ["calibration_graph"]

_OPSET: Final = 20


def calibration_graph(
    calibrators: Sequence[Calibrator], *, label_smoothing: float = 0.0, num_segment_columns: int = 0
) -> bytes:
    """An ONNX model of what stands behind a ranker's logits, for any number of candidates.

    Inputs ``logits_CA``, float32 or whatever the ranker gives, cast to float64, and ``segments_CS``, int64; output
    ``probabilities_CA``, float64. Every kind of calibrator is made of nodes of the graph, with all that was fitted
    inside; a segment is looked up by comparing it with all that were there at the fit.

    Args:
        calibrators: One an action, in the order of the schema's actions.
        label_smoothing: The ε that is inverted before they are asked.
        num_segment_columns: S, as many as the recipe's `calibrate_by` names.

    Returns:
        The serialised model.

    Raises:
        BundleError: There is no calibrator.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    if not calibrators:
        raise BundleError("a graph of no calibrators gives nothing", found=0, allowed="one an action")
    ends = _Ends(calibrators, label_smoothing)
    logits_CA = torch.zeros(3, len(calibrators))
    segments_CS = torch.zeros(3, num_segment_columns, dtype=torch.int64)
    candidates = {0: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about itself
        program = torch.onnx.export(
            ends.eval(), (logits_CA, segments_CS), dynamo=True, opset_version=_OPSET, verbose=False,
            dynamic_shapes=(candidates, candidates), input_names=["logits_CA", "segments_CS"],
            output_names=["probabilities_CA"],
            custom_translation_table={torch.ops.aten.searchsorted.Tensor: _searchsorted()},
        )  # fmt: skip
    assert program is not None
    written: bytes = program.model_proto.SerializeToString()
    return written


@final
class _Ends(nn.Module):
    def __init__(self, calibrators: Sequence[Calibrator], label_smoothing: float) -> None:
        super().__init__()
        self.calibrators = nn.ModuleList(calibrators)
        self.label_smoothing = label_smoothing

    def forward(self, logits_CA: Tensor, segments_CS: Tensor) -> Tensor:
        logits_CA = undo_label_smoothing(logits_CA.double(), self.label_smoothing)
        columns = [calibrator(logits_CA[:, a], segments_CS) for a, calibrator in enumerate(self.calibrators)]
        return torch.stack(columns, dim=1)


def _searchsorted() -> Any:
    """`torch.searchsorted` as nodes: how many of the ascending values are less than each that is asked."""
    try:
        op = importlib.import_module("onnxscript").opset20
        importlib.import_module("onnx")
    except ImportError as error:
        raise MissingExtraError(
            "graphs are written by torch's exporter to ONNX", found=str(error), do="pip install 'rankwell[onnx]'"
        ) from error

    def places(ascending: Any, asked: Any, **_: Any) -> Any:
        last, first = op.Constant(value_ints=[-1]), op.Constant(value_ints=[0])
        is_less = op.Less(op.Unsqueeze(ascending, first), op.Unsqueeze(asked, last))
        return op.ReduceSum(op.Cast(is_less, to=7), last, keepdims=0)  # 7 is int64

    return places
