"""What is changed of a graph after it was traced changes no number."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rankwell.models.attention import SelfAttention
from rankwell.serving.onnx_export import export_graph

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


class _Attention(nn.Module):
    def __init__(self, *, is_causal: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = SelfAttention(4, num_heads=1, is_causal=is_causal)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        x_HD = inputs["x_HD"]
        valid_BL = torch.ones_like(x_HD[:, 0], dtype=torch.bool).unsqueeze(0)
        mixed_BLD: Tensor = self.attention(x_HD.unsqueeze(0), x_HD.unsqueeze(0), valid_BL)
        return mixed_BLD.squeeze(0)


@pytest.mark.parametrize("is_causal", [True, False])
def test_scores_of_causal_attention_are_lifted_and_nothing_else(is_causal: bool) -> None:
    """Also where what lies ahead scores hundreds more than all that may be seen: it stays out of sight."""
    module = _Attention(is_causal=is_causal).eval()
    written = export_graph(module, {"x_HD": torch.randn(5, 4)}, ["mixed_HD"], is_free=lambda _: True)
    assert [node.op_type for node in onnx.load_from_string(written).graph.node].count("Max") == int(is_causal)
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    for num_events, scale in ((1, 1.0), (2, 1.0), (51, 1.0), (51, 40.0), (51, 400.0)):
        x_HD = scale * torch.randn(num_events, 4, generator=torch.Generator().manual_seed(num_events))
        (found_HD,) = session.run(None, {"x_HD": x_HD.numpy()})
        np.testing.assert_allclose(found_HD, module({"x_HD": x_HD}).detach().numpy(), rtol=2e-5, atol=2e-5 * scale)
        if is_causal:
            x_HD[-1] = 1e3
            (other_HD,) = session.run(None, {"x_HD": x_HD.numpy()})
            np.testing.assert_array_equal(other_HD[:-1], found_HD[:-1])
