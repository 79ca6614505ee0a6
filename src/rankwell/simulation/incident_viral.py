"""Jobs that a group of members talks about.

Letters in names: R requests · C candidates, flat.
"""

from __future__ import annotations

import math
from typing import ClassVar, Final, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rankwell.simulation.incident import Incident

__all__ = ["Viral"]

_MOST_SENIOR: Final = 2
_JOBS: Final = 2
_FACTOR: Final = 4.0


@final
class Viral(Incident):
    """Members up to one seniority pass on jobs of another, and click on them at four times the odds.

    No feature, logit or probability looks other than before; clicks alone tell. Advertisers of these jobs get more
    clicks than they pay for.
    """

    name: ClassVar[str] = "viral"
    summary: ClassVar[str] = (
        f"members of seniority 0 to {_MOST_SENIOR} click at {_FACTOR:.0f} times the odds on jobs of seniority {_JOBS}"
    )
    suspects: ClassVar[frozenset[str]] = frozenset({"click"})
    segments: ClassVar[frozenset[int]] = frozenset({_JOBS})
    clicks_within: ClassVar[int | None] = 2
    num_after: ClassVar[int] = 6  # no bundle changes when the talk is over: it takes labels to see that it is

    def wanted(self, click_logits_C: NDArray[np.float64], requests: pa.Table) -> NDArray[np.float64]:
        """See `Incident`."""
        jobs = requests["job_seniority"].combine_chunks()
        is_junior_R = requests["seniority"].to_numpy() <= _MOST_SENIOR
        is_junior_C = np.repeat(is_junior_R, pc.list_value_length(jobs).to_numpy())
        is_talked_of_C = jobs.flatten().to_numpy(zero_copy_only=False) == _JOBS
        moved_C: NDArray[np.float64] = click_logits_C + np.where(is_junior_C & is_talked_of_C, math.log(_FACTOR), 0.0)
        return moved_C
