"""A bundle's graph under ONNX Runtime gives PyTorch's numbers, for any number of candidates and of events.

Letters in names: C candidates of the request · H history events · A actions · S segment columns.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from every_kind_log import EVERY_KIND
from rankwell.calibration.calibrator import Calibrator
from rankwell.calibration.isotonic import fit_isotonic
from rankwell.calibration.platt import Platt
from rankwell.calibration.segment_tree import fit_segment_tree
from rankwell.data.statistics import ColumnStatistics, NumericStatistics
from rankwell.losses.label_smoothing import undo_label_smoothing
from rankwell.models.candidate_list import ListSettings
from rankwell.models.ensemble import TransformerEnsemble, TransformerEnsembleSettings
from rankwell.models.head_gates import SegmentGateSettings, StaticGates, StaticGateSettings
from rankwell.models.head_watch import HeadWatch, SameValue
from rankwell.models.history import HistorySettings
from rankwell.models.list_attention import FullSettings, LinearSettings, LocalSettings
from rankwell.models.model import Model
from rankwell.models.specialised_attention import LearnedHead, SpecialisedAttention, SpecialisedSettings
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.models.wide_deep import Deep, Logistic, WideDeep
from rankwell.serving.bundle import Bundle
from rankwell.serving.request_graph import SEGMENTS, feature_inputs, request_graph, row_inputs, row_lookups
from rankwell.types import Events, Features, Ragged

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

_COLUMN = ColumnStatistics(
    num_values=9, missing_rate=0.1, mean=3.0, sd=2.0, log_mean=1.2, log_sd=0.7, quantiles=(0.0, 1.0, 3.0, 5.0, 9.0)
)
STATISTICS = NumericStatistics(columns=dict.fromkeys(("years", "salary", "match", "age"), _COLUMN))
SIZES = [(num, 3) for num in (1, 7, 500, 2000)] + [(7, 0), (7, 1), (1, 0), (500, 5)]


def request_of(num_candidates: int, num_events: int, seed: int = 0) -> Features:
    """A request with every kind of column; some numbers are missing, some bags empty, some ids unknown."""
    generator = torch.Generator().manual_seed(seed)

    def ids(high: int, num: int) -> torch.Tensor:
        return torch.randint(-1, high + 2, (num,), generator=generator)

    def bag(num_lists: int) -> Ragged:
        lengths = torch.randint(0, 4, (num_lists,), generator=generator)
        values = torch.randint(0, 32, (int(lengths.sum()),), generator=generator)
        return Ragged(values, torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]))

    def numbers(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator) * 8

    salary_C = numbers(num_candidates)
    salary_C[::5] = torch.nan
    return Features(
        {
            "member": torch.tensor([12]), "title": torch.tensor([-1]), "years": torch.tensor([torch.nan]),
            "skills": bag(1), "home": torch.tensor([[48.1, 11.6]]),
        },
        {"history": Events({"item": ids(40, num_events), "kind": ids(3, num_events),
            "age_s": numbers(num_events).sort(descending=True).values * 1e4}, torch.tensor([0, num_events]))},
        {
            "job": ids(40, num_candidates), "job_title": ids(6, num_candidates), "wanted": bag(num_candidates),
            "salary": salary_C, "match": numbers(num_candidates), "age": numbers(num_candidates),
            "given": numbers(num_candidates, 3), "office": numbers(num_candidates, 2) * 10,
        },
        torch.tensor([0, num_candidates]), torch.zeros(num_candidates, dtype=torch.int64),
    )  # fmt: skip


def shaken(model: Model) -> Model:
    """The model with something in every parameter and row, in eval mode."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def bundle_of(model: Model, calibrator: Calibrator, *, calibrate_by: tuple[str, ...] = ()) -> Bundle:
    calibrators = {"click": calibrator, "stars": Platt(slope=0.9, offset=0.2)}
    return Bundle(
        model=shaken(model), calibrators=calibrators, created_us=0, label_smoothing=0.1, calibrate_by=calibrate_by
    )


def check(bundle: Bundle, sizes: list[tuple[int, int]] = SIZES) -> list[str]:
    """Run the graph at all sizes, and give the names of its inputs."""
    session = onnxruntime.InferenceSession(request_graph(bundle), providers=["CPUExecutionProvider"])
    names = [put.name for put in session.get_inputs()]
    for num_candidates, num_events in sizes:
        features = request_of(num_candidates, num_events, seed=num_candidates + num_events)
        segments_CS = torch.zeros(num_candidates, 0, dtype=torch.int64)
        if bundle.calibrate_by:
            segments_CS = torch.stack([features.candidates[name] for name in bundle.calibrate_by], dim=1)  # type: ignore[misc]
        inputs = feature_inputs(features) | {SEGMENTS: segments_CS}
        with torch.inference_mode():
            for name, lookup in row_lookups(bundle.model).items():
                inputs |= row_inputs(name, lookup(features))
            expected_CA = bundle.model(features)
            raw_CA = undo_label_smoothing(expected_CA, bundle.label_smoothing)
            end = [bundle.calibrators[a](raw_CA[:, k], segments_CS) for k, a in enumerate(("click", "stars"))]
        logits_CA, probabilities_CA = session.run(None, {name: inputs[name].numpy() for name in names})
        np.testing.assert_allclose(logits_CA, expected_CA.numpy(), atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(probabilities_CA, torch.stack(end, dim=1).numpy(), atol=1e-5)
        assert probabilities_CA.dtype == np.float64
    return names


def fitted(fit: Callable[..., Calibrator]) -> Calibrator:
    generator = torch.Generator().manual_seed(0)
    logits_C = torch.randn(4000, generator=generator)
    segments_CS = torch.randint(0, 6, (4000, 1), generator=generator)
    labels_C = (torch.rand(4000, generator=generator) < torch.sigmoid(0.5 * logits_C - 0.3 * segments_CS[:, 0])).float()
    return fit(logits_C, labels_C, torch.ones(4000), segments_CS)


def transformer(attention: object = None, **settings: object) -> Model:
    of_list = None if attention is None else ListSettings(attention=attention, num_layers=2, rank="match")  # type: ignore[arg-type]
    of = TransformerSettings(
        row_width=4, width=16, hidden=(16,), history=HistorySettings(width=8, num_heads=2, num_layers=2), list=of_list,
        **settings,  # type: ignore[arg-type]
    )  # fmt: skip
    return RankingTransformer(EVERY_KIND, STATISTICS, of, seed=3)


def test_wide_and_deep_with_a_calibrator_for_each_segment() -> None:
    bundle = bundle_of(
        WideDeep(EVERY_KIND, STATISTICS, seed=1), fitted(fit_segment_tree), calibrate_by=("job_title",)
    )  # fmt: skip
    names = check(bundle)
    assert SEGMENTS in names
    assert not [name for name in names if name.endswith((".values", ".offsets", ".job", ".member"))]  # rows instead


def test_a_transformer_whose_candidates_see_each_other() -> None:
    names = check(bundle_of(transformer(LocalSettings(num_heads=2, window=8)), fitted(fit_isotonic)))
    assert "rows.inputs.rows.history.history" in names


@pytest.mark.slow
@pytest.mark.parametrize("attention", [None, FullSettings(num_heads=2), LinearSettings(num_heads=2)])
def test_other_transformers(attention: object) -> None:
    check(bundle_of(transformer(attention), Platt(slope=1.0, offset=0.0)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Logistic, Deep])
def test_halves(kind: type[Model]) -> None:
    check(bundle_of(kind(EVERY_KIND, STATISTICS, seed=1), Platt(slope=1.0, offset=0.0)))


@pytest.mark.slow
def test_closed_heads_and_watches_are_not_in_the_graph() -> None:
    specialised = SpecialisedSettings(heads=(LearnedHead(),) * 4, gates=StaticGateSettings())
    watch = HeadWatch(relations=(SameValue(name="title", feature="job_title"),))
    sizes = []
    for num_closed in (0, 3):
        bundle = bundle_of(transformer(specialised, watch=watch), Platt(slope=1.0, offset=0.0))
        for layer in bundle.model.modules():
            if isinstance(layer, SpecialisedAttention):
                assert isinstance(layer.gates, StaticGates)
                layer.gates.location.data[:num_closed] = -9.0
        check(bundle)
        sizes.append(len(request_graph(bundle)))
    assert sizes[1] < sizes[0]


@pytest.mark.slow
def test_gates_by_segment_are_in_the_graph() -> None:
    gates = SegmentGateSettings(segment="title", num_segments=6)
    check(
        bundle_of(
            transformer(SpecialisedSettings(heads=(LearnedHead(),) * 2, gates=gates)), Platt(slope=1.0, offset=0.0)
        )
    )


@pytest.mark.slow
def test_an_ensemble() -> None:
    member = TransformerSettings(
        row_width=4, width=8, hidden=(8,), history=HistorySettings(width=8, num_heads=2), list=None
    )
    model = TransformerEnsemble(
        EVERY_KIND, STATISTICS, TransformerEnsembleSettings(num_members=2, member=member), seed=0
    )
    check(bundle_of(model, Platt(slope=1.0, offset=0.0)), [(1, 0), (7, 1), (500, 5)])
