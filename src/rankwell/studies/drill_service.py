"""What answers in a drill: one signature, for the server and for what stands in its place where that would take hours.

Letters in names: C candidates, flat.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from rankwell.studies.drill_world import Asked

__all__ = ["Answered", "DrillService"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """What was shown of the candidates that were sent.

    Args:
        row_C: The places of those shown among all candidates, request after request, best first.
        promised_C: Their p(click) as served.
        correction_ids: That were in force, as the answers say.
    """

    row_C: NDArray[np.int64]
    promised_C: NDArray[np.float64]
    correction_ids: frozenset[str]


class DrillService(ABC):
    """Answers requests and writes the log, from `start` to the end of a block, by a clock that the drill sets."""

    piece_us: ClassVar[int]
    """How long a stretch of time is asked for at once, and the clicks of that time reported after it."""

    @abstractmethod
    def start(self) -> None:
        """Follow the folder that bundles and corrections stand in, and take requests."""

    @abstractmethod
    def now_us(self) -> int:
        """The time of the drill."""

    @abstractmethod
    def set_time(self, now_us: int) -> None:
        """Let it be another time."""

    @abstractmethod
    def wait_for(self, *, bundle_id: str, correction_id: str | None) -> float:
        """Until it answers with these; the real seconds it took."""

    @abstractmethod
    def answered(self, sent: Asked) -> Answered:
        """The answers to requests; the time goes with theirs."""

    @abstractmethod
    def report(self, clicks: NDArray[np.int64]) -> None:
        """Report clicks, a row each: request, item, when it was, and when it is reported."""

    @abstractmethod
    def close(self) -> None:
        """End."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
