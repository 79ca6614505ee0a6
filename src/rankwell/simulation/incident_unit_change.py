"""An upstream job begins to send months where it sent years."""

from __future__ import annotations

from typing import ClassVar, Final, final

import pyarrow as pa
import pyarrow.compute as pc

from rankwell.simulation.incident import Incident

__all__ = ["UnitChange"]

_COLUMN: Final = "experience_years"
_MONTHS: Final = 12.0


@final
class UnitChange(Incident):
    """A member's experience arrives in months: nobody has been a beginner since."""

    name: ClassVar[str] = "unit-change"
    summary: ClassVar[str] = f"{_COLUMN} arrives in months"
    suspects: ClassVar[frozenset[str]] = frozenset({_COLUMN})
    drift_within: ClassVar[int | None] = 1
    clicks_within: ClassVar[int | None] = 1
    num_after: ClassVar[int] = 6

    def sent(self, requests: pa.Table) -> pa.Table:
        """See `Incident`."""
        months = pc.multiply(requests[_COLUMN], pa.scalar(_MONTHS, requests.schema.field(_COLUMN).type))
        return requests.set_column(requests.schema.get_field_index(_COLUMN), _COLUMN, months)
