"""A bundle made ready to serve, as a directory that is whole or refused.

::

    manifest.json, manifest.sha256                 as of a bundle, with its own format; the checksum begins with the id
    schema.json, statistics.json, settings.json    as of a bundle
    graph.onnx                                     see `rankwell.serving.request_graph`
    rows/<part>/<table>.index, .rows, .zeros       see `rankwell.serving.row_map`
    self_test.json                                 requests, and the probabilities that PyTorch gives their candidates

Nothing of it can be trained: that takes the bundle. Every process that serves it maps the same files.

Letters in names: C candidates of a request · A actions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

import rankwell
from rankwell.data.replay import request_of_batch
from rankwell.data.request import batch_from_request
from rankwell.data.statistics import NumericStatistics
from rankwell.errors import BundleError, RankwellError
from rankwell.schema import Schema
from rankwell.serving.bundle import Bundle, check_place
from rankwell.serving.bundle_files import BundleFiles, write_declaration
from rankwell.serving.example_request import example_request, most_events
from rankwell.serving.graph_scorer import PROVIDERS, GraphScorer
from rankwell.serving.manifest import DEPLOYMENT, FileRecord, Manifest, class_path, hash_of_manifest, read_manifest
from rankwell.serving.mapped_table import MappedTable
from rankwell.serving.new_directory import NewDirectory
from rankwell.serving.request_graph import request_graph, row_lookups
from rankwell.serving.row_file import file_stem
from rankwell.serving.row_map import Precision, write_row_map
from rankwell.serving.scorer import EagerScorer, Scorer
from rankwell.types import Batch

__all__ = ["Deployment", "read_deployment", "write_deployment"]

_GRAPH: Final = "graph.onnx"
_SELF_TEST: Final = "self_test.json"
_EXPORT_AGAIN: Final = "export the bundle again"

_EXAMPLES: Final = ((1, 0), (7, 1), (60, 20))
_TOLERANCE: Final = 1e-5
_INT8_ROOM: Final = 2.0


def write_deployment(
    bundle: Bundle,
    path: str | Path,
    *,
    precision: Precision = "float32",
    graph: bytes | None = None,
    requests: Iterable[Batch] = (),
) -> None:
    """Write a deployment of a bundle, in the place of an older one if there is one.

    It takes its place once every file was read back and its answers to the requests of its self-test were those of
    PyTorch, to 1e-5 where rows are float32.

    Args:
        bundle: Nothing of it is changed.
        path: Where the directory is to stand. Missing parents are made.
        precision: Of the rows. As int8 they take some 60 % less, and answers differ by what rounding does; how far the
            self-test allows for that, twice what is found, is written with it.
        graph: Another graph of the same bundle, such as a quantised one, for which the same holds; by default
            `request_graph`.
        requests: Logged ones for the self-test, R = 1 each, beside a few that are made up.

    Raises:
        BundleError: The disk is full or refuses; the path is taken; the model cannot be a graph; or a graph of float32
            gives other numbers than PyTorch.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    target = Path(path).resolve()
    check_place(target)
    model = bundle.model
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with NewDirectory.beside(target) as directory:
            write_declaration(model, directory)
            directory.write(_GRAPH, request_graph(bundle) if graph is None else graph)
            for part, table in sorted(model.tables.items()):
                for name in table.names:
                    write_row_map(table, name, directory, file_stem(part, name), precision)
            seed = next((table.seed for table in model.tables.values()), 0)
            exact = precision == "float32" and graph is None
            manifest = Manifest(
                library_version=rankwell.__version__, created_us=int(bundle.created_us), model=class_path(model),
                calibrators={action: class_path(c) for action, c in sorted(bundle.calibrators.items())}, seed=seed,
                label_smoothing=bundle.label_smoothing, calibrate_by=list(bundle.calibrate_by), files={},
                format=DEPLOYMENT,
            )  # fmt: skip
            unsealed = Deployment(directory.path, BundleFiles(directory.path, _listing(manifest, directory)), "")
            test = _self_test(bundle, unsealed.scorer(), requests, exact=exact)
            directory.write(_SELF_TEST, json.dumps(test).encode() + b"\n")
            _listing(manifest, directory).write(directory)
            read_deployment(directory.path)
            directory.put_in_place()
    except OSError as error:
        raise BundleError(
            f"the deployment could not be written to {target}", found=str(error),
            do="free space or mend the permissions, and write it again; what stood there before still does",
        ) from error  # fmt: skip


def read_deployment(path: str | Path) -> Deployment:
    """Open a deployment, after holding every file against its checksum.

    Raises:
        BundleError: It is none, a file is missing or damaged, or its format is unknown.
    """
    directory = Path(path)
    manifest = read_manifest(directory, kind=DEPLOYMENT)
    manifest.check_files(directory)
    return Deployment(directory, BundleFiles(directory, manifest), hash_of_manifest(directory)[:16])


@final
class Deployment:
    """A deployment on disk; `read_deployment` opens one.

    Args:
        directory: Where it stands.
        files: What is in it.
        id: What answers name it by.
    """

    def __init__(self, directory: Path, files: BundleFiles, id: str) -> None:  # noqa: A002 - its name everywhere
        self.directory, self.id, self._files = directory, id, files
        self._model = files.empty_model()
        self._tables = {
            part: MappedTable(directory, part, table.specs, table.width) for part, table in self._model.tables.items()
        }

    @property
    def schema(self) -> Schema:
        """What a request's columns mean."""
        return self._model.schema

    @property
    def created_us(self) -> int:
        """When the bundle was made, UTC microseconds."""
        return self._files.manifest.created_us

    @property
    def statistics(self) -> NumericStatistics:
        """Of train."""
        return self._model.statistics

    @property
    def label_smoothing(self) -> float:
        """ε of the loss that the model was trained with."""
        return self._files.manifest.label_smoothing

    @property
    def table_bytes(self) -> dict[str, int]:
        """Of rows and indexes, by the part of the model that reads them."""
        return {part: table.num_bytes for part, table in self._tables.items()}

    def scorer(self, *, num_threads: int = 1, providers: Sequence[str] = PROVIDERS) -> GraphScorer:
        """What answers with it, warmed up; arguments and errors as those of `GraphScorer`."""
        lookups = row_lookups(self._model)
        part_of = {id(table): part for part, table in self._model.tables.items()}
        for lookup in lookups.values():
            part = part_of.get(id(lookup.table))
            lookup.table = lookup.table if part is None else self._tables[part]
        return GraphScorer(
            self.schema, self._model.statistics, self._files.path(_GRAPH).read_bytes(), lookups,
            calibrate_by=self._files.manifest.calibrate_by, linear_parts=self._model.linear_parts,
            num_threads=num_threads, providers=providers,
        )  # fmt: skip

    def test(self, scorer: Scorer) -> None:
        """Hold a scorer's answers against those that were written with the deployment.

        Raises:
            BundleError: An answer is another.
        """
        content = self._files.json(_SELF_TEST)
        for case in content["cases"]:
            try:
                found_CA = scorer.score(batch_from_request(case["request"], self.schema)).probabilities_CA.numpy()
            except RankwellError as error:
                raise self._failed(case, str(error)) from error
            expected_CA = np.array(case["probabilities"])
            apart = _apart(found_CA, expected_CA)
            if not apart <= content["tolerance"]:
                raise self._failed(case, f"probabilities up to {apart:.2g} apart")

    def _failed(self, case: Any, found: str) -> BundleError:
        return BundleError(
            f"the deployment {self.directory} fails its self-test",
            found=f"request {case['request'].get('request_id')}: {found}",
            allowed="the answers that were written with it", do=_EXPORT_AGAIN,
        )  # fmt: skip


def _listing(manifest: Manifest, directory: NewDirectory) -> Manifest:
    files = {
        name: FileRecord(num_bytes=file.num_bytes, sha256=file.sha256)
        for name, file in sorted(directory.written.items())
    }
    return manifest.model_copy(update={"files": files})


def _self_test(bundle: Bundle, scorer: Scorer, requests: Iterable[Batch], *, exact: bool) -> dict[str, Any]:
    """Requests with PyTorch's answers, after holding the graph's against them."""
    schema, statistics = bundle.schema, bundle.model.statistics
    made_up = [
        example_request(schema, statistics, num_candidates=num, num_events=min(events, most_events(schema)), seed=num)
        for num, events in _EXAMPLES
    ]
    cases, worst, eager = [], 0.0, EagerScorer(bundle)
    for batch in (*made_up, *requests):
        request = request_of_batch(batch, 0, schema)
        again = batch_from_request(request, schema)
        expected_CA = eager.score(again).probabilities_CA.numpy()
        worst = max(worst, _apart(scorer.score(again).probabilities_CA.numpy(), expected_CA))
        cases.append({"request": request, "probabilities": expected_CA.tolist()})
    if exact and not worst <= _TOLERANCE:
        raise BundleError(
            "the graph gives other numbers than PyTorch", found=f"probabilities up to {worst:.2g} apart",
            allowed=_TOLERANCE, do="serve the bundle with rankwell.serving.ranker.Ranker, and report what it is",
        )  # fmt: skip
    return {"tolerance": _TOLERANCE if exact else max(_TOLERANCE, _INT8_ROOM * worst), "cases": cases}


def _apart(found_CA: NDArray[np.float64], expected_CA: NDArray[np.float64]) -> float:
    if found_CA.shape != expected_CA.shape:
        return float("inf")
    apart = float(np.abs(found_CA - expected_CA).max(initial=0.0))
    return float("inf") if np.isnan(apart) else apart
