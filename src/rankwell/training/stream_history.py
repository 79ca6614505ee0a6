"""What happened in one pass over a long log, piece by piece."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, final

__all__ = ["PieceRecord", "StreamHistory"]


@final
@dataclass(frozen=True, slots=True)
class PieceRecord:
    """What happened in one piece.

    Args:
        name: The piece's.
        num_requests: Trained on.
        num_candidates: Likewise.
        weight: Σ w of the candidates of which the first action was observed.
        loss: The objective's mean, in nats; NaN where nothing had weight.
        log_loss: Of the first action, in nats, uncalibrated, each batch judged before the model is trained on it: held
            out, as nothing is read twice. In training mode: dropout, where there is any, counts. NaN without weight.
        calibration_ratio: Predicted / observed of the first action, likewise; NaN where it never happened.
        seconds: Wall time of reading and training.
        reading_s: Of that, waiting for batches.
        opening_s: Wall time until the piece was open, not among `seconds`.
        saving_s: Wall time of the checkpoints that were written in it, not among `seconds`.
        num_seen: Ids that have a row at its end, in all tables of the model together.
        num_waiting: Ids that wait for one there, being seen too seldom (`Table.admission`).
        num_evicted_by_age: Rows that were dropped since the stream began, over all starts, for nobody asked for them.
        num_evicted_by_frequency: Likewise, for others were asked for more often.
    """

    name: str
    num_requests: int
    num_candidates: int
    weight: float
    loss: float
    log_loss: float
    calibration_ratio: float
    seconds: float
    reading_s: float
    opening_s: float
    saving_s: float
    num_seen: int = 0
    num_waiting: int = 0
    num_evicted_by_age: int = 0
    num_evicted_by_frequency: int = 0


@final
@dataclass(frozen=True, slots=True)
class StreamHistory:
    """All pieces of a stream, in the order in which they were read.

    >>> def piece(name: str, weight: float, log_loss: float) -> PieceRecord:
    ...     return PieceRecord(name, num_requests=50, num_candidates=100, weight=weight, loss=log_loss,
    ...                        log_loss=log_loss, calibration_ratio=1.0, seconds=1.0, reading_s=0.1, opening_s=0.0,
    ...                        saving_s=0.0)
    >>> history = StreamHistory((piece("a", 100, 0.6), piece("b", 100, 0.5), piece("c", 300, 0.4)))
    >>> history.num_candidates, round(history.log_loss(last=2), 6)
    (300, 0.425)
    """

    pieces: tuple[PieceRecord, ...]

    @property
    def num_candidates(self) -> int:
        """Trained on in all."""
        return sum(piece.num_candidates for piece in self.pieces)

    def log_loss(self, last: int) -> float:
        """Mean held-out log loss over the `last` ≥ 1 pieces, in nats; NaN where none of them had weight."""
        recent = [piece for piece in self.pieces[-last:] if piece.weight]
        total = sum(piece.weight for piece in recent)
        return sum(piece.log_loss * piece.weight for piece in recent) / total if total else math.nan

    def to_rows(self) -> list[dict[str, Any]]:
        """One plain dict a piece, for JSON and tables."""
        return [asdict(record) for record in self.pieces]
