"""Nothing happens."""

from __future__ import annotations

from typing import ClassVar, Final, final

from rankwell.simulation.incident import Incident

__all__ = ["Quiet"]

_A_WEEK: Final = 7 * 96


@final
class Quiet(Incident):
    """A week of days, nights and a weekend, of clicks that depend on each other, and nothing wrong."""

    name: ClassVar[str] = "quiet"
    summary: ClassVar[str] = "nothing"
    may_be_corrected: ClassVar[bool] = False
    num_windows: ClassVar[int] = _A_WEEK
    num_after: ClassVar[int] = 0
