"""A graph answers alike by whatever it is run: the CPU everywhere, CUDA and TensorRT where they are installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import serving_example as example
import torch

from rankwell.errors import BundleError
from rankwell.serving.deployment import read_deployment, write_deployment
from rankwell.serving.example_request import example_request
from rankwell.serving.graph_scorer import PROVIDERS, GraphScorer
from rankwell.serving.half_precision_graph import half_precision_graph
from rankwell.serving.request_graph import request_graph
from rankwell.serving.scorer import EagerScorer
from rankwell.types import Batch

onnxruntime = pytest.importorskip("onnxruntime")

BUNDLES = {"wide and deep": example.example_bundle(), "transformer": example.transformer_bundle()}
PRESENT = [provider for provider in PROVIDERS if provider in onnxruntime.get_available_providers()]
SIZES = ((1, 0), (1, 1), (7, 3), (500, 50), (2000, 2))


def request(num_candidates: int, num_events: int) -> Batch:
    return example_request(
        example.SCHEMA, example.STATISTICS, num_candidates=num_candidates, num_events=num_events, seed=num_events
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployments")
    for name, bundle in BUNDLES.items():
        graph = request_graph(bundle)
        write_deployment(bundle, folder / name / "float32", graph=graph)
        write_deployment(bundle, folder / name / "float16", graph=half_precision_graph(graph))
    return folder


def scorer_of(path: Path, provider: str) -> GraphScorer:
    try:
        return read_deployment(path).scorer(providers=[provider])
    except BundleError as error:
        if provider == "CPUExecutionProvider":
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("provider", PRESENT)
def test_every_provider_gives_pytorchs_numbers(folder: Path, provider: str, name: str) -> None:
    scorer, eager = scorer_of(folder / name / "float32", provider), EagerScorer(BUNDLES[name])
    assert scorer.provider == provider
    for size in SIZES:
        found, expected = scorer.score(request(*size)), eager.score(request(*size))
        torch.testing.assert_close(found.logits_CA, expected.logits_CA, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.probabilities_CA, expected.probabilities_CA, atol=1e-5, rtol=0)


@pytest.mark.parametrize("provider", PRESENT)
def test_half_precision_is_near_by_every_provider(folder: Path, provider: str) -> None:
    path = folder / "transformer" / "float16"
    scorer, eager = scorer_of(path, provider), EagerScorer(BUNDLES["transformer"])
    read_deployment(path).test(scorer)
    apart = [
        (scorer.score(request(*size)).logits_CA - eager.score(request(*size)).logits_CA).abs().max() for size in SIZES
    ]
    assert 0 < max(apart) < 0.01


def test_without_a_wish_it_is_the_first_that_can_be_loaded(folder: Path) -> None:
    scorer = read_deployment(folder / "transformer" / "float32").scorer()
    usable = [provider for provider in PRESENT if _runs(folder / "transformer" / "float32", provider)]
    assert scorer.provider == usable[0]


def _runs(path: Path, provider: str) -> bool:
    try:
        return read_deployment(path).scorer(providers=[provider]).provider == provider
    except BundleError:
        return False


def test_a_provider_that_fails_is_passed_over_and_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, asked = onnxruntime.InferenceSession, []

    def session(graph: bytes, *_: Any, providers: list[tuple[str, dict[str, str]]], **options: Any) -> Any:
        names = [name for name, _ in providers]
        asked.append(names)
        if names[0] == "CUDAExecutionProvider":
            raise MemoryError  # an error without a text
        assert not options["enable_fallback"], "ONNX Runtime's own takes no heed of a provider's options"
        return real(graph, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(PROVIDERS))
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    scorer = read_deployment(folder / "transformer" / "float32").scorer()
    assert asked == [list(PROVIDERS), list(PROVIDERS[1:]), list(PROVIDERS[2:])]
    assert scorer.provider == "CPUExecutionProvider"
    assert "MemoryError" in caplog.text
    assert "TensorrtExecutionProvider" in caplog.text


def test_a_provider_that_is_not_installed_is_refused(folder: Path) -> None:
    with pytest.raises(BundleError, match="none of the providers") as refused:
        read_deployment(folder / "transformer" / "float32").scorer(providers=["QNNExecutionProvider"])
    assert "QNNExecutionProvider" in str(refused.value)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_whose_libraries_are_missing_is_refused_and_not_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["QNNExecutionProvider"])
    with pytest.raises(BundleError, match="libraries cannot be loaded") as refused:
        read_deployment(folder / "transformer" / "float32").scorer(providers=["QNNExecutionProvider"])
    assert "QNNExecutionProvider" in str(refused.value)
