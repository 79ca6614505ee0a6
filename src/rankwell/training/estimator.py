"""What is trained by other means than gradients joins here: the same logs, calibrators, bundles and reports."""

from __future__ import annotations

import abc
import math
import time
from collections.abc import Iterable, Iterator
from typing import ClassVar, final

from rankwell.data.statistics import NumericStatistics
from rankwell.errors import TrainingError
from rankwell.evaluation.discrimination import auc, log_loss_from_logits
from rankwell.models.model import Model
from rankwell.schema import Schema
from rankwell.training.history import EpochRecord, TrainingHistory
from rankwell.training.predictions import predict_action
from rankwell.types import Batch

__all__ = ["Estimator", "fit_estimator"]


class Estimator(abc.ABC):
    """Settings of a fit that gives a finished model.

    A recipe names one in the place of what builds a model for the loop. What it fits is a `Model` like all others:
    calibrated on the calibrate split, written into a bundle and served from it. Concrete estimators are frozen
    dataclasses; two fits under one seed are equal in every bit, on the same machine.
    """

    model_class: ClassVar[type[Model]]
    """What it fits."""

    @abc.abstractmethod
    def fit(
        self,
        schema: Schema,
        statistics: NumericStatistics,
        train: Iterable[Batch],
        tune: Iterable[Batch],
        *,
        seed: int,
    ) -> Model:
        """The fitted model, in eval mode.

        Args:
            schema: Of the batches.
            statistics: Of the numerics, measured on `train`.
            train: What it is fitted on; may be gone through more than once.
            tune: What tells it when to stop.
            seed: Of all that is drawn, ≥ 0.

        Raises:
            TrainingError: There is nothing to fit on.
            MissingExtraError: The library that fits is not installed.
        """


def fit_estimator(
    estimator: Estimator,
    schema: Schema,
    statistics: NumericStatistics,
    train: Iterable[Batch],
    tune: Iterable[Batch],
    *,
    seed: int,
) -> tuple[Model, TrainingHistory]:
    """Fit, and say what came of it on tune, as the loop says it of an epoch.

    Args:
        estimator: What fits.
        schema, statistics, train, tune, seed: As in `Estimator.fit`.

    Returns:
        The model, and a history of one epoch: its loss on train is NaN, for what an estimator minimises need not be in
        nats; its rows and its time are those of the whole fit.

    Raises:
        TrainingError: There is nothing to fit on, or logits on tune are not finite.
        MissingExtraError: The library that fits is not installed.
    """
    started = time.perf_counter()
    counted = _Counted(train)
    model = estimator.fit(schema, statistics, counted, tune, seed=seed)
    fitted = time.perf_counter()
    logits_C, labels_C, weights_C = predict_action(model, tune, 0)
    if not logits_C.isfinite().all():
        raise TrainingError(
            f"logits on tune are not finite after the fit of {type(estimator).__name__}",
            found=f"{int((~logits_C.isfinite()).sum())} of {len(logits_C)}",
            do="look for outliers among the numeric columns",
        )
    record = EpochRecord(
        epoch=0,
        train_loss=math.nan,
        tune_log_loss=log_loss_from_logits(logits_C, labels_C, weights_C),
        tune_auc=auc(logits_C.double().sigmoid(), labels_C, weights_C),
        learning_rate=math.nan,
        num_candidates=counted.num_candidates,
        seconds=fitted - started,
        reading_s=counted.reading_s,
        tune_s=time.perf_counter() - fitted,
    )
    return model, TrainingHistory((record,), best_epoch=0)


@final
class _Counted:
    """Batches whose rows are counted, and the time that reading them takes; of several passes the last one counts."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches
        self.num_candidates, self.reading_s = 0, 0.0

    def __iter__(self) -> Iterator[Batch]:
        self.num_candidates, self.reading_s = 0, 0.0
        asked = time.perf_counter()
        for batch in self._batches:
            self.reading_s += time.perf_counter() - asked
            self.num_candidates += batch.features.num_candidates
            yield batch
            asked = time.perf_counter()
