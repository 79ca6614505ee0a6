"""One request through a model and its calibrators, as one ONNX graph: any number of candidates and of events.

What the graph is given, by name::

    context.<column>            the request's columns, 1 or 1 × width; a bag's as .values and .offsets
    candidates.<column>         C or C × width
    history.<sequence>.<field>  H of that sequence; its ages under the field age_s
    rows.<lookup>.<side>        float32 × width: what `RowLookup` gives of the "context" (1), the "candidates" (C) and
                                "history.<sequence>" (H); rows are gathered outside, from files that processes share
    segments_CS                 int64, where a calibrator takes segments

of these only what it uses; and what it gives: ``logits_CA``, the model's own, float32, and ``probabilities_CA``,
calibrated, float64. The history is encoded once, and the heads that gates close are not there.

Letters in names: C candidates of the request · H history events · A actions · S segment columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

import torch
from torch import Tensor, nn

from rankwell.models.embedding import RowLookup, Rows
from rankwell.models.head_gates import StaticGates
from rankwell.models.model import Model
from rankwell.models.specialised_attention import SpecialisedAttention
from rankwell.schema import Bag, Schema
from rankwell.serving.bundle import Bundle
from rankwell.serving.calibration_end import CalibrationEnd
from rankwell.serving.example_request import example_request
from rankwell.serving.onnx_export import export_graph
from rankwell.types import Column, Events, Features, Ragged

__all__ = ["LOGITS", "PROBABILITIES", "SEGMENTS", "feature_inputs", "request_graph", "row_inputs", "row_lookups"]

LOGITS: Final = "logits_CA"
PROBABILITIES: Final = "probabilities_CA"
SEGMENTS: Final = "segments_CS"

# A graph traced at 0 or 1 entries is good for these numbers alone, and one traced at a list that fits into one block of
# local attention for such lists alone.
_NUM_CANDIDATES: Final = 521
_NUM_EVENTS: Final = 5

_SIDES: Final = {"request": "context", "candidate": "candidates"}


def request_graph(bundle: Bundle) -> bytes:
    """The serialised ONNX model of a bundle, for requests one by one.

    Args:
        bundle: Its tables are not looked at.

    Raises:
        BundleError: The model does what the exporter has no nodes for.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    graph = _RequestGraph(bundle).eval()
    return export_graph(graph, graph.example(), (LOGITS, PROBABILITIES), is_free=_is_free)


def row_lookups(model: nn.Module) -> dict[str, RowLookup]:
    """The lookups of a model by the names that a graph knows them by."""
    return {name: module for name, module in model.named_modules() if isinstance(module, RowLookup)}


def feature_inputs(features: Features) -> dict[str, Tensor]:
    """The columns of a request by their names in a graph.

    Args:
        features: R = 1.
    """
    inputs: dict[str, Tensor] = {}
    for side, columns in (("context", features.context), ("candidates", features.candidates)):
        for name, column in columns.items():
            inputs |= _column_inputs(f"{side}.{name}", column)
    for sequence, events in features.history.items():
        inputs |= {f"history.{sequence}.{name}": column for name, column in events.columns.items()}
    return inputs


def row_inputs(lookup: str, rows: Rows) -> dict[str, Tensor]:
    """The rows that a lookup gives by their names in a graph; blocks of no width are left out."""
    blocks = {"context": rows.request_RW, "candidates": rows.candidate_CW}
    blocks |= {f"history.{sequence}": event_HW for sequence, event_HW in rows.event_HW.items()}
    return {f"rows.{lookup}.{side}": block for side, block in blocks.items() if block.shape[1]}


@final
class _GivenRows(nn.Module):
    """In the place of a `RowLookup`: rows that were looked up before."""

    def __init__(self, name: str, lookup: RowLookup) -> None:
        super().__init__()
        self.request_width, self.candidate_width = lookup.request_width, lookup.candidate_width
        self._name = name
        self._event_widths = {s: num * lookup.table.width for s, num in lookup.columns.num_event_blocks.items()}
        self._rows: Rows | None = None

    def take(self, inputs: Mapping[str, Tensor], num_candidates: int) -> None:
        """Hold what is given for the next forward."""

        def block(side: str, num_entries: int) -> Tensor:
            name = f"rows.{self._name}.{side}"
            return inputs[name] if name in inputs else torch.zeros(num_entries, 0)

        event_HW = {s: inputs[f"rows.{self._name}.history.{s}"] for s in self._event_widths}
        self._rows = Rows(block("context", 1), block("candidates", num_candidates), event_HW)

    def example(self) -> dict[str, Tensor]:
        event_HW = {s: torch.randn(_NUM_EVENTS, width) for s, width in self._event_widths.items()}
        rows = Rows(torch.randn(1, self.request_width), torch.randn(_NUM_CANDIDATES, self.candidate_width), event_HW)
        return row_inputs(self._name, rows)

    def forward(self, features: Features) -> Rows:
        del features
        assert self._rows is not None
        return self._rows


@final
class _RequestGraph(nn.Module):
    """All between what is gathered and what is answered."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.model = _dense_twin(bundle.model)
        self.schema, self._num_segments = bundle.schema, len(bundle.calibrate_by)
        calibrators = [bundle.calibrators[action.name] for action in self.schema.actions]
        self.end = CalibrationEnd(calibrators, bundle.label_smoothing)
        self._given: list[_GivenRows] = []
        for name, lookup in row_lookups(self.model).items():
            given = _GivenRows(name, lookup)
            _replace(self.model, name, given)
            self._given.append(given)

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        features = _features(inputs, self.schema)
        for given in self._given:
            given.take(inputs, features.num_candidates)
        logits_CA: Tensor = self.model(features)
        return logits_CA, self.end(logits_CA, inputs[SEGMENTS])

    def example(self) -> dict[str, Tensor]:
        """Inputs to trace with."""
        batch = example_request(
            self.schema, self.model.statistics, num_candidates=_NUM_CANDIDATES, num_events=_NUM_EVENTS, seed=0
        )  # fmt: skip
        inputs = feature_inputs(batch.features)
        inputs[SEGMENTS] = torch.zeros(_NUM_CANDIDATES, self._num_segments, dtype=torch.int64)
        for given in self._given:
            inputs |= given.example()
        return inputs


def _dense_twin(model: Model) -> Model:
    """The same in eval mode, with empty tables, and watched by nobody: it can be taken apart."""
    settings = model.settings
    if getattr(settings, "watch", None) is not None:
        settings = settings.model_copy(update={"watch": None})
    twin = type(model)(model.schema, model.statistics, settings, seed=0)
    twin.load_state_dict(model.state_dict())
    for name, module in list(twin.named_modules()):
        if isinstance(module, SpecialisedAttention) and isinstance(module.gates, StaticGates):
            _replace(twin, name, module.pruned())
    return twin.eval()


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


def _features(inputs: Mapping[str, Tensor], schema: Schema) -> Features:
    num_candidates = inputs[SEGMENTS].shape[0]
    columns: dict[str, dict[str, Column]] = {"context": {}, "candidates": {}}
    for feature in schema.visible_features:
        side = _SIDES[feature.on]
        name = f"{side}.{feature.name}"
        is_bag = isinstance(feature, Bag)
        columns[side][feature.name] = (
            Ragged(inputs[f"{name}.values"], inputs[f"{name}.offsets"]) if is_bag else inputs[name]
        )
    history = {}
    for sequence in schema.sequences:
        start = f"history.{sequence.name}."
        events = {name.removeprefix(start): column for name, column in inputs.items() if name.startswith(start)}
        num_events = next(iter(events.values())).shape[0]
        history[sequence.name] = Events(events, _offsets(num_events))
    request_C = torch.zeros(num_candidates, dtype=torch.int64)
    return Features(columns["context"], history, columns["candidates"], _offsets(num_candidates), request_C)


def _offsets(num_entries: int) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), torch.full((1,), num_entries, dtype=torch.int64)])


def _column_inputs(name: str, column: Column) -> dict[str, Tensor]:
    if isinstance(column, Ragged):
        return {f"{name}.values": column.values, f"{name}.offsets": column.offsets}
    return {name: column}


def _is_free(name: str) -> bool:
    """Whether an input's first dimension may be of any size: all but what there is one of, the request's."""
    if name.startswith("rows."):
        return not name.endswith(".context")
    return not name.startswith("context.") or name.endswith(".values")
