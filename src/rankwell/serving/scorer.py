"""What turns a request into logits and probabilities: a bundle in PyTorch, or its graph.

Letters in names: R requests · C candidates, flat over the batch · A actions.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from rankwell.calibration.segment_columns import segments_of
from rankwell.losses.label_smoothing import undo_label_smoothing
from rankwell.schema import Schema
from rankwell.serving.bundle import Bundle
from rankwell.types import Batch

__all__ = ["EagerScorer", "Scorer", "Scores"]


@final
@dataclass(frozen=True, slots=True)
class Scores:
    """What a model says of candidates, in the order in which they came.

    Args:
        logits_CA: float32, the model's own log-odds, one column an action of the schema.
        probabilities_CA: float64 in (0, 1), calibrated.
    """

    logits_CA: Tensor
    probabilities_CA: Tensor


class Scorer(abc.ABC):
    """Scores requests; any number of threads may ask at once."""

    @property
    @abc.abstractmethod
    def schema(self) -> Schema:
        """What a request's columns mean."""

    @property
    @abc.abstractmethod
    def calibrate_by(self) -> tuple[str, ...]:
        """Features that the calibrators take as segments, from coarse to fine."""

    @abc.abstractmethod
    def score(self, batch: Batch) -> Scores:
        """Logits and calibrated probabilities of every candidate, for every action.

        Raises:
            RequestError: There are more requests, or more candidates, than it takes.
        """


@final
class EagerScorer(Scorer):
    """A bundle in PyTorch: any number of requests at once, and whatever a model does.

    Args:
        bundle: Its model is put into eval mode.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        bundle.model.eval()

    @property
    def schema(self) -> Schema:
        """See `Scorer`."""
        return self._bundle.schema

    @property
    def calibrate_by(self) -> tuple[str, ...]:
        """See `Scorer`."""
        return self._bundle.calibrate_by

    def score(self, batch: Batch) -> Scores:
        """See `Scorer`."""
        # nothing made in inference mode leaves the scorer: a caller could neither change it nor fit on it
        with torch.inference_mode():
            logits_CA: Tensor = self._bundle.model(batch.features)
        unsmoothed_CA = undo_label_smoothing(logits_CA, self._bundle.label_smoothing)
        segments_CS = segments_of(batch, self._bundle.calibrate_by)
        calibrators = [self._bundle.calibrators[action.name] for action in self.schema.actions]
        probabilities = [of(unsmoothed_CA[:, a], segments_CS) for a, of in enumerate(calibrators)]
        return Scores(logits_CA.clone(), torch.stack(probabilities, dim=1))
