"""What the loop goes by after each epoch, where that is neither log loss nor AUC."""

from __future__ import annotations

import abc
from collections.abc import Iterable

from rankwell.models.model import Model
from rankwell.types import Batch

__all__ = ["Monitor"]


class Monitor(abc.ABC):
    """A figure of a model on tune; higher is better.

    Concrete monitors are frozen dataclasses: a training goes on from a checkpoint only under a monitor of the same
    `repr`.
    """

    @abc.abstractmethod
    def value(self, model: Model, tune: Iterable[Batch]) -> float:
        """The figure; NaN where it is undefined, which ends the training.

        Args:
            model: In eval mode, with nothing lent.
            tune: All of the split; may be gone through more than once.
        """
