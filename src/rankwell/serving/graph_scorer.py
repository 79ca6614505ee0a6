"""A deployment's graph under ONNX Runtime, with rows from the files that all processes share.

Letters in names: C candidates of the request · A actions.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, final

import torch
from numpy.typing import NDArray

from rankwell.calibration.segment_columns import segments_of
from rankwell.data.statistics import NumericStatistics
from rankwell.errors import BundleError, RequestError, SchemaError
from rankwell.models.embedding import RowLookup
from rankwell.schema import Schema
from rankwell.serving.changed_rows import ChangedRows, RowChange
from rankwell.serving.example_request import example_request, most_events
from rankwell.serving.host_values import with_host_values
from rankwell.serving.mapped_table import MappedTable
from rankwell.serving.onnx_extra import onnx_module
from rankwell.serving.request_graph import LOGITS, PROBABILITIES, SEGMENTS, feature_inputs, row_inputs
from rankwell.serving.row_gather import RowGather, is_gathered
from rankwell.serving.scorer import Scorer, Scores
from rankwell.types import Batch

__all__ = ["PROVIDERS", "GraphScorer"]

PROVIDERS: Final = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider")
"""What a graph is run by, the first that the installed ONNX Runtime has and whose libraries it can load.

CUDA gives PyTorch's numbers. TensorRT rounds products to TF32 unless ``NVIDIA_TF32_OVERRIDE=0`` says not to, and builds
an engine for sizes that it has not met: where CUDA is there, too, it is to be asked for.
"""

_CPU: Final = PROVIDERS[-1]
_LOG: Final = logging.getLogger(__name__)

_OPTIONS: Final[Mapping[str, dict[str, str]]] = {"CUDAExecutionProvider": {"use_tf32": "0"}}
"""Products rounded to ten bits of mantissa would move probabilities in their third digit."""

_NOT_FUSED: Final[Mapping[str, tuple[str, ...]]] = {_CPU: ("SkipLayerNormFusion",)}
"""A sum and a normalisation in one take ONNX Runtime's CPU kernels three times as long as one after the other."""
_WARM_UP: Final = ((1, 0), (500, 50), (50, 1), (500, 50))


@final
class GraphScorer(Scorer):
    """One request at a time through a graph; its own work is O(history) + O(candidates), in compiled code.

    Args:
        schema: What a request's columns mean.
        statistics: Of its numerics, for the requests that warm it up.
        graph: What `rankwell.serving.request_graph.request_graph` wrote.
        lookups: By the names that the graph knows them by, reading the rows.
        calibrate_by: Features that the calibrators take as segments.
        linear_parts: The parts of the model whose rows add to the logits as they stand, which may be changed.
        num_threads: That one request is worked on by; where requests come faster than one thread answers them, more
            processes do better.
        providers: By preference; those that the installed ONNX Runtime lacks are passed over, and those whose libraries
            cannot be loaded, which is logged: `provider` says what it came to. What it has no kernel for, the CPU does.

    Raises:
        BundleError: ONNX Runtime cannot load the graph, or has none of the providers.
        MissingExtraError: It is not installed.
    """

    def __init__(
        self,
        schema: Schema,
        statistics: NumericStatistics,
        graph: bytes,
        lookups: Mapping[str, RowLookup],
        *,
        calibrate_by: Sequence[str] = (),
        linear_parts: Collection[str] = (),
        num_threads: int = 1,
        providers: Sequence[str] = PROVIDERS,
    ) -> None:
        self._schema, self._calibrate_by = schema, tuple(calibrate_by)
        self._linear_parts = frozenset(linear_parts)
        self._example = example_request(schema, statistics, num_candidates=1, num_events=0, seed=0).features
        self._read_by({name: lookup.eval() for name, lookup in lookups.items()})
        self._session = _session(graph, num_threads, providers)
        self._names = [put.name for put in self._session.get_inputs()]
        for seed, (num_candidates, num_events) in enumerate(_WARM_UP):
            num_events = min(num_events, most_events(schema))
            self.score(
                example_request(schema, statistics, num_candidates=num_candidates, num_events=num_events, seed=seed)
            )

    @property
    def schema(self) -> Schema:
        """See `Scorer`."""
        return self._schema

    @property
    def calibrate_by(self) -> tuple[str, ...]:
        """See `Scorer`."""
        return self._calibrate_by

    @property
    def provider(self) -> str:
        """What the graph is run by."""
        providers: list[str] = self._session.get_providers()
        return providers[0]

    def with_changes(self, changes: Mapping[str, Mapping[str, RowChange]]) -> GraphScorer:
        """The same scorer, with something added to some rows; the graph and the files are shared.

        Args:
            changes: By part of the model, such as "wide", and by table.

        Raises:
            SchemaError: A part is not linear, a table is not there, or its rows have another width.
        """
        parts = {name: lookup.table for name, lookup in self._lookups.items() if isinstance(lookup.table, MappedTable)}
        unknown = sorted(set(changes) - self._linear_parts)
        if unknown:
            raise SchemaError(
                "only rows that add to the logits as they stand can be changed", found=unknown,
                allowed=sorted(self._linear_parts), do="train the other parts anew",
            )  # fmt: skip
        scorer = copy.copy(self)
        lookups = dict(self._lookups)
        for name, table in parts.items():
            if table.part in changes:
                rows = ChangedRows(table, table.specs, changes[table.part])
                lookups[name] = RowLookup(self._lookups[name].columns, rows).eval()
        scorer._read_by(lookups)
        return scorer

    def _read_by(self, lookups: Mapping[str, RowLookup]) -> None:
        self._lookups = dict(lookups)
        gathered = {name: lookup for name, lookup in lookups.items() if is_gathered(lookup)}
        self._gather = RowGather(gathered, self._example)
        self._others = {name: lookup for name, lookup in lookups.items() if name not in gathered}

    def score(self, batch: Batch) -> Scores:
        """See `Scorer`; R = 1."""
        features = batch.features
        if features.num_requests != 1:
            raise RequestError(
                "a graph scores requests one by one", found=f"{features.num_requests} requests", allowed="1",
                do="score them in turn, or take rankwell.serving.scorer.EagerScorer",
            )  # fmt: skip
        logits_CA, probabilities_CA = self._session.run([LOGITS, PROBABILITIES], self.inputs(batch))
        return Scores(torch.from_numpy(logits_CA), torch.from_numpy(probabilities_CA))

    def inputs(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """What the graph is given for a request, by the names of `rankwell.serving.request_graph`.

        Args:
            batch: R = 1.
        """
        tensors = feature_inputs(batch.features)
        if self._others:
            with torch.inference_mode():
                for name, lookup in self._others.items():
                    tensors |= row_inputs(name, lookup(batch.features))
        tensors[SEGMENTS] = segments_of(batch, self._calibrate_by)
        rows = self._gather.inputs(batch.features)
        return {name: rows[name] if name in rows else tensors[name].numpy() for name in self._names}


def _session(graph: bytes, num_threads: int, providers: Sequence[str]) -> Any:
    runtime = onnx_module("onnxruntime")
    present = [provider for provider in providers if provider in runtime.get_available_providers()]
    if not present:
        raise BundleError(
            "the installed ONNX Runtime has none of the providers", found=runtime.get_available_providers(),
            allowed=list(providers), do="install one that has, or name another provider",
        )  # fmt: skip
    on_gpu = graph if present == [_CPU] else with_host_values(graph)
    refused, cause = dict[str, str](), None
    for first, provider in enumerate(present):
        try:
            session = _session_by(runtime, graph if provider == _CPU else on_gpu, num_threads, present[first:])
        except Exception as error:  # its errors have no common root but this
            refused[provider], cause = (str(error) or type(error).__name__).splitlines()[0], error
        else:
            if session.get_providers()[0] == provider:
                if refused:
                    _LOG.warning("the graph is run by %s; others were passed over: %s", provider, refused)
                return session
            refused[provider] = "its libraries cannot be loaded"  # and ONNX Runtime goes on with the CPU by itself
    raise BundleError(
        "ONNX Runtime cannot load the graph", found=refused, allowed=list(providers),
        do="install what the provider needs, or allow the CPU; if that is refused, too, export the bundle again",
    ) from cause  # fmt: skip


def _session_by(runtime: Any, graph: bytes, num_threads: int, providers: Sequence[str]) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.log_severity_level = 3
    # a thread that spins between requests takes the core that the next one waits for
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return runtime.InferenceSession(
        graph, options,
        providers=[(provider, _OPTIONS.get(provider, {})) for provider in providers],
        disabled_optimizers=_NOT_FUSED.get(providers[0], ()), enable_fallback=0,
    )  # fmt: skip
