"""Many are laid off in two trades, and look for jobs of these trades.

Letters in names: C candidates, flat.
"""

from __future__ import annotations

import math
from typing import ClassVar, Final, final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rankwell.simulation.incident import Incident

__all__ = ["Layoffs"]

_TRADES: Final = (0, 1)
_FACTOR: Final = 3.0


@final
class Layoffs(Incident):
    """Jobs of two titles, a tenth of all that is shown, are clicked on at three times the odds: concept drift.

    Nothing that the server is told has changed; clicks alone tell.
    """

    name: ClassVar[str] = "layoffs"
    summary: ClassVar[str] = (
        f"jobs of the titles {_TRADES[0]} and {_TRADES[1]} are clicked on at {_FACTOR:.0f} times the odds"
    )
    segment_by: ClassVar[str] = "job_title"
    suspects: ClassVar[frozenset[str]] = frozenset({"click"})
    segments: ClassVar[frozenset[int]] = frozenset(_TRADES)
    clicks_within: ClassVar[int | None] = 2
    traffic: ClassVar[int] = 4
    num_after: ClassVar[int] = 6  # no bundle changes when it is over: it takes labels to see that it is

    def wanted(self, click_logits_C: NDArray[np.float64], requests: pa.Table) -> NDArray[np.float64]:
        """See `Incident`."""
        titles_C = requests["job_title"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        moved_C: NDArray[np.float64] = click_logits_C + np.where(np.isin(titles_C, _TRADES), math.log(_FACTOR), 0.0)
        return moved_C
