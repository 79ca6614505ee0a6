"""Nothing happens."""

from __future__ import annotations

from typing import ClassVar, final

from rankwell.simulation.incident import Incident

__all__ = ["Quiet"]


@final
class Quiet(Incident):
    """Days, requests and clicks that depend on each other, and nothing wrong: whoever corrects anything has failed."""

    name: ClassVar[str] = "quiet"
    summary: ClassVar[str] = "nothing"
