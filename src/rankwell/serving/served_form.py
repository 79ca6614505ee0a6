"""A bundle in one form of serving: its graph and its rows at the precision that was chosen.

Letters: C candidates of a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

from rankwell.serving.budget_fit import Form
from rankwell.serving.bundle import Bundle
from rankwell.serving.deployment import read_deployment, write_deployment
from rankwell.serving.graph_scorer import GraphScorer
from rankwell.serving.half_precision_graph import half_precision_graph
from rankwell.serving.quantised_graph import dynamic_int8_graph, static_int8_graph
from rankwell.serving.request_graph import request_graph, row_lookups
from rankwell.serving.scorer import Scorer
from rankwell.types import Batch

__all__ = ["DeployingEngine", "write_form"]


def write_form(
    bundle: Bundle, form: Form, path: Path, *, requests: Sequence[Batch] = (), graph: bytes | None = None
) -> None:
    """Write a deployment of a bundle in a form.

    Args:
        bundle: Nothing of it is changed.
        form: Of rows and products.
        path: Of the deployment; an older one is replaced.
        requests: Logged ones, R = 1 each, by whose ranges "static int8" scales activations.
        graph: What `request_graph` wrote of this bundle, where somebody has it already.

    Raises:
        BundleError: "static int8" without requests; the model cannot be a graph; or as `write_deployment` says.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    written = graph  # a graph that is left to `write_deployment` is held to PyTorch's numbers exactly
    if form.dense != "float32":
        graph = request_graph(bundle) if graph is None else graph
        if form.dense == "dynamic int8":
            written = dynamic_int8_graph(graph)
        elif form.dense == "float16":
            written = half_precision_graph(graph)
        else:
            scorer = GraphScorer(
                bundle.schema, bundle.model.statistics, graph, row_lookups(bundle.model),
                calibrate_by=bundle.calibrate_by,
            )  # fmt: skip
            written = static_int8_graph(graph, [scorer.inputs(batch) for batch in requests])
    write_deployment(bundle, path, precision=form.rows, graph=written)


@final
class DeployingEngine:
    """Deploys each bundle and form into a folder of its own and answers from there, as a server does.

    Args:
        folder: Where deployments are written.
        requests: See `write_form`.
        num_threads: That one request is worked on by.
    """

    def __init__(self, folder: Path, requests: Sequence[Batch], *, num_threads: int = 1) -> None:
        self._folder, self._requests, self._num_threads = folder, requests, num_threads
        self._num_written = 0
        self._exported: tuple[Bundle, bytes] | None = None

    def __call__(self, bundle: Bundle, form: Form) -> Scorer:
        """What answers for a bundle in a form."""
        path = self._folder / str(self._num_written)
        self._num_written += 1
        if self._exported is None or self._exported[0] is not bundle:  # the tracer takes longer than all the rest
            self._exported = (bundle, request_graph(bundle))
        write_form(bundle, form, path, requests=self._requests, graph=self._exported[1])
        return read_deployment(path).scorer(num_threads=self._num_threads)
