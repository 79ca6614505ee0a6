"""An upstream job no longer sends a feature."""

from __future__ import annotations

from typing import ClassVar, Final, final

import pyarrow as pa

from rankwell.simulation.incident import Incident

__all__ = ["MissingFeature"]

_COLUMN: Final = "seniority"


@final
class MissingFeature(Incident):
    """Members come without their seniority: the model reads the row of what is missing, and so of no cross, either."""

    name: ClassVar[str] = "missing-feature"
    summary: ClassVar[str] = f"the {_COLUMN} of members no longer arrives"
    suspects: ClassVar[frozenset[str]] = frozenset({_COLUMN})
    drift_within: ClassVar[int | None] = 1
    num_after: ClassVar[int] = 6  # no bundle changes with the mend: it takes labels to see that it is over

    def sent(self, requests: pa.Table) -> pa.Table:
        """See `Incident`."""
        place = requests.schema.get_field_index(_COLUMN)
        return requests.set_column(place, _COLUMN, pa.nulls(len(requests), requests.schema.field(_COLUMN).type))
