"""Another retrieval goes live: choosier, from a larger index."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Final, final

from rankwell.simulation.incident import Incident
from rankwell.simulation.marketplace import Marketplace

__all__ = ["RetrievalShift"]

_RAISED: Final = 0.35
_TIMES_OFFERED: Final = 1.5


@final
class RetrievalShift(Incident):
    """The index offers half as many jobs again, and only those of higher retrieval scores come through.

    The share of senior jobs rises, too. Retrieval goes by a score that the model sees, so for what is left a click is
    as probable as it was, and a model is as right as it was for these: the feature has drifted, and whatever is
    corrected must not make it worse.
    """

    name: ClassVar[str] = "retrieval-shift"
    summary: ClassVar[str] = f"retrieval lets jobs through from a score that is {_RAISED} higher"
    suspects: ClassVar[frozenset[str]] = frozenset({"retrieval_score"})
    drift_within: ClassVar[int | None] = 1
    num_after: ClassVar[int] = 6

    def offered(self, marketplace: Marketplace) -> Marketplace:
        """See `Incident`."""
        settings = marketplace.settings
        num_eligible = round(settings.num_eligible * _TIMES_OFFERED)
        return dataclasses.replace(
            marketplace,
            settings=dataclasses.replace(
                settings, num_eligible=num_eligible, max_slots=max(settings.max_slots, num_eligible)
            ),
            retrieval_threshold=marketplace.retrieval_threshold + _RAISED,
        )
