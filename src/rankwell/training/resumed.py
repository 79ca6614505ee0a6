"""Where a training goes on that had begun before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import final

__all__ = ["Resumed"]


@final
@dataclass(frozen=True, slots=True)
class Resumed:
    """What is told of a checkpoint when a training goes on from it.

    Args:
        step: Steps taken before it, over all starts.
        place: Where it stands in what is read, in words.
        written_at: When it was written.

    >>> from datetime import UTC
    >>> print(Resumed(1200, "epoch 1", datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)))
    going on from step 1,200, in epoch 1: checkpoint of 2026-05-04 03:02:01 UTC
    """

    step: int
    place: str
    written_at: datetime

    def __str__(self) -> str:
        written = f"{self.written_at:%Y-%m-%d %H:%M:%S %Z}"
        return f"going on from step {self.step:,}, in {self.place}: checkpoint of {written}"
