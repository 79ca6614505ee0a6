"""What happened in a training, epoch by epoch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, final

__all__ = ["EpochRecord", "TrainingHistory"]


@final
@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch.

    Args:
        epoch: From 0.
        train_loss: Mean loss over the epoch's rows, in nats, as trained: of all actions together, with dropout, each
            batch by the weights before its step. NaN where no row had weight.
        tune_log_loss: Over the whole tune split, in nats, of the first action, uncalibrated.
        tune_auc: Likewise; NaN where tune has one class only.
        learning_rate: Of dense parameters, at the epoch's last step.
        num_candidates: Rows trained on.
        seconds: Wall time of the training part; checkpoints don't count.
        reading_s: Of that, waiting for batches.
        tune_s: Wall time of the evaluation on tune.
        monitored: What the loop went by; NaN where there was no loop.
        num_cut_histories: Histories of which the oldest events were left out, since they were longer than declared.
    """

    epoch: int
    train_loss: float
    tune_log_loss: float
    tune_auc: float
    learning_rate: float
    num_candidates: int
    seconds: float
    reading_s: float
    tune_s: float
    monitored: float = math.nan
    num_cut_histories: int = 0


@final
@dataclass(frozen=True, slots=True)
class TrainingHistory:
    """All epochs, and which one's weights the model holds.

    Args:
        epochs: In order, at least one.
        best_epoch: From 0; the first of those that tune liked best.

    >>> epochs = tuple(EpochRecord(epoch=i, train_loss=0.6, tune_log_loss=loss, tune_auc=0.7, learning_rate=1e-3,
    ...                            num_candidates=100, seconds=1.0, reading_s=0.1, tune_s=0.2)
    ...                for i, loss in enumerate((0.62, 0.58, 0.59)))
    >>> history = TrainingHistory(epochs, best_epoch=1)
    >>> history.best.tune_log_loss, history.to_rows()[2]["tune_log_loss"]
    (0.58, 0.59)
    """

    epochs: tuple[EpochRecord, ...]
    best_epoch: int

    @property
    def best(self) -> EpochRecord:
        """The epoch whose weights the model holds."""
        return self.epochs[self.best_epoch]

    def to_rows(self) -> list[dict[str, Any]]:
        """One plain dict an epoch, for JSON and tables."""
        return [asdict(record) for record in self.epochs]
