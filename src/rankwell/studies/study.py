"""What every study gives back: a title, a table of numbers, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from rich.table import Table

__all__ = ["StudyResult"]


@final
@dataclass(frozen=True, slots=True)
class StudyResult:
    """The outcome of a study.

    Args:
        name: Of the study.
        tables: To be printed in this order.
        finding: One or two sentences on what the numbers say.
        numbers: Flat names to numbers, for ``--json``.
    """

    name: str
    tables: tuple[Table, ...]
    finding: str
    numbers: Mapping[str, float]
