"""An upstream job no longer sends a feature."""

from __future__ import annotations

from typing import ClassVar, Final, final

import pyarrow as pa

from rankwell.simulation.incident import Incident

__all__ = ["MissingFeature"]

_COLUMN: Final = "seniority"
_DEFAULT: Final = 0


@final
class MissingFeature(Incident):
    """Members come without their seniority. Requests must have one, so the job that sends them fills in its default.

    That is a value like others: no request is refused, and nothing tells but how often it comes.
    """

    name: ClassVar[str] = "missing-feature"
    summary: ClassVar[str] = f"the {_COLUMN} of members no longer arrives, and is {_DEFAULT} for all"
    suspects: ClassVar[frozenset[str]] = frozenset({_COLUMN})
    drift_within: ClassVar[int | None] = 1
    num_after: ClassVar[int] = 6

    def sent(self, requests: pa.Table) -> pa.Table:
        """See `Incident`."""
        place = requests.schema.get_field_index(_COLUMN)
        default = pa.scalar(_DEFAULT, requests.schema.field(_COLUMN).type)
        return requests.set_column(place, _COLUMN, pa.repeat(default, len(requests)))
