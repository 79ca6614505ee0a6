"""Clients deliver clicks three quarters of an hour late."""

from __future__ import annotations

from typing import ClassVar, Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.simulation.incident import Incident

__all__ = ["LateLabels"]

_LATE_S: Final = 2_700.0


@final
class LateLabels(Incident):
    """Clicks are made in time and reported after their attribution window has closed: to a watcher none are made.

    Nothing is wrong with any probability, so nothing may be corrected; what is to be found is that reports are late.
    """

    name: ClassVar[str] = "late-labels"
    summary: ClassVar[str] = f"clicks are reported {_LATE_S / 60:.0f} minutes late"
    suspects: ClassVar[frozenset[str]] = frozenset({"report_delay"})
    drift_within: ClassVar[int | None] = 1
    may_be_corrected: ClassVar[bool] = False
    num_after: ClassVar[int] = 6

    def reported_after_s(self, delays_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Incident`."""
        return delays_s + _LATE_S
