"""What is changed of a graph after it was traced changes no number."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rankwell.models.attention import ListAttention, SelfAttention
from rankwell.models.layers import linear_of_both
from rankwell.models.list_attention import LocalAttention
from rankwell.serving.onnx_export import export_graph
from rankwell.serving.quantised_graph import dynamic_int8_graph

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


class _Attention(nn.Module):
    def __init__(self, attention: ListAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        x_HD = inputs["x_HD"]
        valid_BL = torch.ones_like(x_HD[:, 0], dtype=torch.bool).unsqueeze(0)
        mixed_BLD: Tensor = self.attention(x_HD.unsqueeze(0), x_HD.unsqueeze(0), valid_BL)
        return mixed_BLD.squeeze(0)


_KINDS = {
    "causal": (lambda: SelfAttention(4, num_heads=2, is_causal=True), 1),
    "one head": (lambda: SelfAttention(4, num_heads=1, is_causal=False), None),
    "heads in turns": (lambda: SelfAttention(4, num_heads=2, is_causal=False), None),
    "local": (lambda: LocalAttention(4, num_heads=2, window=6), 4),
}
"""Layers, and how far before the last entry those stand that don't see it; None: all see it."""


@pytest.mark.parametrize("kind", list(_KINDS))
def test_attention_is_the_same_and_masked_scores_are_lifted(kind: str) -> None:
    """Also where what is out of sight scores hundreds more than all that may be seen: it stays out of sight."""
    make, out_of_sight = _KINDS[kind]
    torch.manual_seed(0)
    module = _Attention(make()).eval()
    written = export_graph(module, {"x_HD": torch.randn(100, 4)}, ["mixed_HD"], is_free=lambda _: True)
    ops = [node.op_type for node in onnx.load_from_string(written).graph.node]
    assert (ops.count("Max"), "IsNaN" in ops) == (int(out_of_sight is not None), False)
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    for num_entries, scale in ((1, 1.0), (2, 1.0), (51, 1.0), (64, 1.0), (65, 40.0), (200, 400.0)):
        x_HD = scale * torch.randn(num_entries, 4, generator=torch.Generator().manual_seed(num_entries))
        (found_HD,) = session.run(None, {"x_HD": x_HD.numpy()})
        np.testing.assert_allclose(found_HD, module({"x_HD": x_HD}).detach().numpy(), rtol=2e-5, atol=2e-5 * scale)
        if out_of_sight is not None:
            x_HD[-1] = 1e3
            (other_HD,) = session.run(None, {"x_HD": x_HD.numpy()})
            np.testing.assert_array_equal(other_HD[:-out_of_sight], found_HD[:-out_of_sight])


class _TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LocalAttention(4, num_heads=2, window=6) for _ in range(2))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        x_BLD = inputs["x_HD"].unsqueeze(0)
        valid_BL = torch.ones_like(x_BLD[:, :, 0], dtype=torch.bool)
        for layer in self.layers:
            x_BLD = x_BLD + layer(x_BLD, x_BLD, valid_BL)
        return x_BLD.squeeze(0)


def test_layers_that_mask_the_same_entries_share_a_mask() -> None:
    torch.manual_seed(0)
    module, x_HD = _TwoLayers().eval(), torch.randn(100, 4)
    written = export_graph(module, {"x_HD": x_HD}, ["mixed_HD"], is_free=lambda _: True)
    ops = [node.op_type for node in onnx.load_from_string(written).graph.node]
    assert (ops.count("Softmax"), ops.count("Where")) == (2, 1)
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    for num_entries in (1, 7, 65):
        (found_HD,) = session.run(None, {"x_HD": x_HD[:num_entries].numpy()})
        np.testing.assert_allclose(found_HD, module({"x_HD": x_HD[:num_entries]}).detach().numpy(), atol=1e-5)


class _Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(80, 40)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        request_C = torch.zeros(inputs["own_CN"].shape[0], dtype=torch.int64)
        return linear_of_both(self.layer, inputs["own_CN"], inputs["request_RN"], request_C)


def test_a_weight_that_is_read_in_part_is_a_constant_that_the_quantiser_takes() -> None:
    inputs = {"own_CN": torch.randn(100, 60), "request_RN": torch.randn(1, 20)}
    written = export_graph(_Both().eval(), inputs, ["out_CD"], is_free=lambda name: name == "own_CN")
    graph = onnx.load_from_string(written).graph
    assert sorted(tuple(weight.dims) for weight in graph.initializer if len(weight.dims) == 2) == [(40, 20), (40, 60)]
    quantised = [node.op_type for node in onnx.load_from_string(dynamic_int8_graph(written)).graph.node]
    assert quantised.count("MatMulInteger") == 2
    assert not {"Gemm", "MatMul", "Slice"} & set(quantised)
