"""What servers answered since it was read last, each request once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

import pyarrow as pa

from rankwell.errors import LogError
from rankwell.monitoring.arrivals import Arrivals, ArrivalsReport
from rankwell.schema import Schema
from rankwell.serving.log_reader import LogPosition, read_served

__all__ = ["NewRequests"]


@final
class NewRequests:
    """Follows the log of served requests, for a feed.

    Args:
        folder: That `rankwell serve` logs to.
        schema: The log's.
        on_damage: Called with what is wrong of a stretch of the log, which is passed over.
        late_s: How late requests may come.
        ahead_s: By how much a server's clock may go before ours.
    """

    def __init__(
        self, folder: str | Path, schema: Schema,
        *, on_damage: Callable[[LogError], None], late_s: float, ahead_s: float,
    ) -> None:  # fmt: skip
        self._folder, self._schema, self._on_damage = Path(folder), schema, on_damage
        self.arrivals = Arrivals(remembered_s=late_s, ahead_s=ahead_s)
        self.position: LogPosition | None = None
        """How far it was read; None: not yet."""

    def read(self, *, now_us: int, since_us: int) -> Iterator[Any]:
        """Rows of the log, piece by piece, without those that came twice, late, or from a clock that is ahead.

        Args:
            now_us: UTC microseconds.
            since_us: When it was read last; 0: not yet.

        Raises:
            LogError: The log was compacted past what was read.
        """
        for served, after in read_served(self._folder, self.position, on_damage=self._on_damage):
            is_new_R = self.arrivals.new(*self._ids_and_times(served), now_us=now_us, since_us=since_us)
            yield served.filter(pa.array(is_new_R))
            self.position = after

    def remember(self, requests: Any, *, now_us: int) -> None:
        """What was read before the position, as far as it could come again: by who goes on from there.

        Args:
            requests: With their ids and times.
            now_us: When they were read.
        """
        self.arrivals.new(*self._ids_and_times(requests), now_us=now_us)
        self.arrivals.report = ArrivalsReport()

    def _ids_and_times(self, requests: Any) -> tuple[Any, Any]:
        names = (self._schema.request_id, self._schema.time)
        ids_R, times_us_R = (requests[name].combine_chunks().cast(pa.int64()).to_numpy() for name in names)
        return ids_R, times_us_R
