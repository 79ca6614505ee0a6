"""What was asked of a feature store, and what became of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import final

__all__ = ["FeatureCounts", "LookUps"]


@final
@dataclass(frozen=True, slots=True)
class LookUps:
    """Ids that were looked up. Those that are in none of the other three numbers were found.

    Args:
        num_looked_up: All.
        num_missing: The store has nothing of them, or wrote it for another schema.
        num_late: Nothing came before the deadline.
        num_failed: The store could not be reached, or what it holds of them is damaged.
    """

    num_looked_up: int = 0
    num_missing: int = 0
    num_late: int = 0
    num_failed: int = 0

    def __add__(self, other: LookUps) -> LookUps:
        return LookUps(
            self.num_looked_up + other.num_looked_up,
            self.num_missing + other.num_missing,
            self.num_late + other.num_late,
            self.num_failed + other.num_failed,
        )


@final
class FeatureCounts:
    """Counts of one store, of items and of members, added to by any number of threads.

    >>> counts = FeatureCounts()
    >>> counts.add(items=LookUps(num_looked_up=500, num_missing=3))
    >>> counts.add(items=LookUps(num_looked_up=500), members=LookUps(num_looked_up=1, num_late=1))
    >>> counts.items.num_looked_up, counts.items.num_missing, counts.members.num_late
    (1000, 3, 1)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items, self._members = LookUps(), LookUps()

    def add(self, *, items: LookUps | None = None, members: LookUps | None = None) -> None:
        """Count what one request asked for."""
        with self._lock:
            if items is not None:
                self._items += items
            if members is not None:
                self._members += members

    @property
    def items(self) -> LookUps:
        """Of items."""
        return self._items

    @property
    def members(self) -> LookUps:
        """Of members."""
        return self._members
