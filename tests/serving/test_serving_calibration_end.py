"""Every calibrator as nodes of an ONNX graph, run by ONNX Runtime against PyTorch."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
import torch

import rankwell.calibration
from rankwell.calibration.calibrator import Calibrator
from rankwell.calibration.isotonic import Isotonic
from rankwell.calibration.isotonic_layer import IsotonicLayer
from rankwell.calibration.platt import Platt
from rankwell.errors import BundleError
from rankwell.serving.calibration_end import CalibrationEnd
from rankwell.serving.onnx_export import export_graph

onnxruntime = pytest.importorskip("onnxruntime")


def _fits() -> Iterator[Callable[..., Calibrator]]:
    for info in pkgutil.iter_modules(rankwell.calibration.__path__, "rankwell.calibration."):
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", ()):
            if name.startswith("fit_") and inspect.isfunction(getattr(module, name)):
                yield getattr(module, name)


FITS = list(_fits())


def sample(num: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    segments_CS = torch.randint(0, 5, (num, 2), generator=generator)
    segments_CS[:, 1] += 2**62  # hashed words are segments, too
    logits_C = 1.5 * torch.randn(num, generator=generator) - 2
    true_C = torch.sigmoid(0.7 * logits_C + 0.5 * segments_CS[:, 0] - 1)
    labels_C = (torch.rand(num, generator=generator) < true_C).float()
    return logits_C, labels_C, torch.ones(num), segments_CS


class _Named(torch.nn.Module):
    def __init__(self, end: CalibrationEnd) -> None:
        super().__init__()
        self.end = end

    def forward(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        probabilities_CA: torch.Tensor = self.end(inputs["logits_CA"], inputs["segments_CS"])
        return probabilities_CA


def graph_of(end: CalibrationEnd, num_segment_columns: int) -> bytes:
    logits_CA = torch.zeros(3, len(end.calibrators))
    inputs = {"logits_CA": logits_CA, "segments_CS": torch.zeros(3, num_segment_columns, dtype=torch.int64)}
    return export_graph(_Named(end).eval(), inputs, ["probabilities_CA"], is_free=lambda _: True)


def run(graph: bytes, logits_CA: torch.Tensor, segments_CS: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    given = {"logits_CA": logits_CA.numpy(), "segments_CS": segments_CS.numpy()}
    wanted = {put.name: given[put.name] for put in session.get_inputs()}
    (probabilities_CA,) = session.run(["probabilities_CA"], wanted)
    return np.asarray(probabilities_CA)


@pytest.mark.parametrize("fit", FITS, ids=lambda fit: fit.__name__)
def test_every_kind_gives_the_same_numbers_for_any_number_of_candidates(fit: Callable[..., Calibrator]) -> None:
    calibrator = fit(*sample(6000, 0))
    graph = graph_of(CalibrationEnd([calibrator]), 2)
    for num in (1, 2, 7, 500, 2000):
        logits_C, _, _, segments_CS = sample(num, num)
        logits_C[0], segments_CS[-1] = 60.0, torch.tensor([99, -3])  # far outside; never met
        expected_C = calibrator(logits_C, segments_CS).numpy()
        found_C = run(graph, logits_C[:, None], segments_CS)[:, 0]
        assert found_C.dtype == np.float64
        np.testing.assert_allclose(found_C, expected_C, rtol=1e-6, atol=1e-9)  # ends of knots are float32 there


def test_several_actions_and_label_smoothing_stand_in_one_graph() -> None:
    calibrators = [Platt(slope=2.0, offset=-1.0), Platt(slope=0.5, offset=0.25)]
    graph = graph_of(CalibrationEnd(calibrators, 0.1), 0)
    logits_CA, nowhere_C = torch.tensor([[0.5, -1.0], [-1.0, 0.2]]), torch.zeros(2, 0, dtype=torch.int64)
    found_CA = run(graph, logits_CA, nowhere_C)
    p_CA = torch.sigmoid(logits_CA.double())
    raw_CA = ((p_CA - 0.05) / 0.9).logit()  # ε/2 off either end
    expected_CA = torch.stack([torch.sigmoid(2 * raw_CA[:, 0] - 1), torch.sigmoid(0.5 * raw_CA[:, 1] + 0.25)], dim=1)
    np.testing.assert_allclose(found_CA, expected_CA.numpy(), rtol=1e-6)


def test_a_layer_that_was_trained_stands_in_a_graph_with_the_offsets_of_its_segments() -> None:
    torch.manual_seed(0)
    layer = IsotonicLayer(num_segments=3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    graph = graph_of(CalibrationEnd([layer.as_calibrator()]), 1)
    for num in (1, 7, 500, 2000):
        logits_C, segment_C = torch.randn(num) * 5 - 3, torch.randint(-1, 5, (num,))
        found_C = run(graph, logits_C[:, None], segment_C[:, None])[:, 0]
        expected_C = torch.sigmoid(layer(logits_C, segment_C).detach().double())
        np.testing.assert_allclose(found_C, expected_C.numpy(), rtol=1e-5, atol=1e-7)


def test_a_graph_of_nothing_is_refused() -> None:
    with pytest.raises(BundleError, match="no calibrator"):
        CalibrationEnd([])


@pytest.mark.parametrize("num_knots", [1, 2, 3])
def test_an_isotonic_of_few_knots_is_a_graph_too(num_knots: int) -> None:
    knots_B = torch.arange(num_knots).double()
    calibrator = Isotonic(knots_B, 2 * knots_B - 1)
    logits_CA, nowhere_C = torch.tensor([[-5.0], [0.25], [1.5], [9.0]]), torch.zeros(4, 0, dtype=torch.int64)
    found_CA = run(graph_of(CalibrationEnd([calibrator]), 0), logits_CA, nowhere_C)
    bounded_C = logits_CA[:, 0].double().clamp(0, num_knots - 1)
    np.testing.assert_allclose(found_CA[:, 0], torch.sigmoid(2 * bounded_C - 1).numpy(), rtol=1e-6)
    np.testing.assert_array_equal(calibrator(torch.tensor([torch.nan]), nowhere_C[:1]).isnan().numpy(), [True])
