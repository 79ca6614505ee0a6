"""What happened in a training, epoch by epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, final

__all__ = ["EpochRecord", "TrainingHistory"]


@final
@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch.

    Args:
        epoch: From 0.
        train_loss: Mean loss over the epoch's batches, in nats, as trained (with dropout, before calibration).
        tune_log_loss: Over the whole tune split, in nats, first action.
        tune_auc: Likewise.
        learning_rate: Of dense parameters during the epoch.
        num_candidates: Rows trained on.
        seconds: Wall time of the training part.
        reading_s: Of that, waiting for batches.
        tune_s: Wall time of the evaluation on tune.
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


@final
@dataclass(frozen=True, slots=True)
class TrainingHistory:
    """All epochs, and which one's weights the model holds."""

    epochs: tuple[EpochRecord, ...]
    best_epoch: int

    def to_rows(self) -> list[dict[str, Any]]:
        """One plain dict an epoch, for JSON and tables."""
        return [asdict(record) for record in self.epochs]
