"""What answers are made with, whatever it was loaded from: a deployment, or a bundle in PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from rankwell.data.layout import LogLayout
from rankwell.data.statistics import NumericStatistics
from rankwell.errors import BundleError
from rankwell.schema import Schema
from rankwell.serving.bundle import read_bundle
from rankwell.serving.deployment import read_deployment
from rankwell.serving.manifest import hash_of_manifest, is_deployment
from rankwell.serving.scorer import EagerScorer, Scorer

__all__ = ["LoadedBundle", "load_bundle"]


@final
@dataclass(frozen=True, slots=True)
class LoadedBundle:
    """A bundle in memory.

    Args:
        id: What answers and logs name it by: the first 16 digits of its manifest's SHA-256.
        scorer: Warmed up.
        statistics: Of train.
        label_smoothing: ε of the loss that the model was trained with.
        created_us: When it was made, UTC microseconds.
    """

    id: str
    scorer: Scorer
    statistics: NumericStatistics
    label_smoothing: float
    created_us: int

    @property
    def schema(self) -> Schema:
        """What a request's columns mean."""
        return self.scorer.schema

    def check_schema(self, expected: Schema) -> None:
        """See that requests and logs of `expected` are requests and logs of this bundle.

        Raises:
            BundleError: A column is another.
        """
        mine, theirs = (set(LogLayout.of(schema, "requests").columns) for schema in (self.schema, expected))
        if mine != theirs or self.schema.item != expected.item:
            raise BundleError(
                f"bundle {self.id} has another schema than the one that is served",
                found=sorted({f"{column.role} {column.name}" for column in mine ^ theirs}) or self.schema.item,
                allowed="the same columns: clients send them, and the log keeps them",
                do="start another server for it, with a log folder of its own",
            )


def load_bundle(path: str | Path, *, num_threads: int = 1) -> LoadedBundle:
    """Load and warm up a deployment or a bundle, after its checksums and, of a deployment, its self-test.

    Args:
        path: Of the directory.
        num_threads: That one request is worked on by.

    Raises:
        BundleError: It is neither, it is damaged, of a newer format, or fails its self-test.
        MissingExtraError: ONNX Runtime is not installed, and it is a deployment.
    """
    directory = Path(path)
    if is_deployment(directory):
        deployment = read_deployment(directory)
        scorer = deployment.scorer(num_threads=num_threads)
        deployment.test(scorer)
        return LoadedBundle(
            deployment.id, scorer, deployment.statistics, deployment.label_smoothing, deployment.created_us
        )
    bundle = read_bundle(directory)
    return LoadedBundle(
        hash_of_manifest(directory)[:16],
        EagerScorer(bundle),
        bundle.model.statistics,
        bundle.label_smoothing,
        bundle.created_us,
    )
