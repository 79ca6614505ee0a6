"""Round after round until it is told to end: waits for a log, goes on after what fails, tells everybody."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, final

from rankwell.errors import RankwellError
from rankwell.mitigation.alarm_sinks import AlarmSink
from rankwell.mitigation.kept_watch import KeptWatch, WatchSettings, why_not_yet
from rankwell.mitigation.watch_view import WatchView
from rankwell.monitoring.tick_history import TICK_US

__all__ = ["WatchLoop"]

_LOG: Final = logging.getLogger("rankwell.watching")
_AFTER_US: Final = 5_000_000
"""A round is made so long after its quarter-hour: what was answered at its end is on the disk by then."""
_AGAIN_US: Final = 30_000_000
_NAP_S: Final = 2.0


@final
class WatchLoop:
    """Watches a folder.

    Args:
        settings: What to watch, and how.
        sinks: Told of every round.
        now_us: UTC microseconds. Whatever it does, a round is made when the quarter-hour changes.
        wait: Sleeps for so many seconds at most; True: it is time to end.
        on_problem: Told why nothing is looked at, and None once it is again.
    """

    def __init__(
        self,
        settings: WatchSettings,
        sinks: Sequence[AlarmSink],
        *,
        now_us: Callable[[], int],
        wait: Callable[[float], bool],
        on_problem: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        self._settings, self._sinks, self._now_us, self._wait = settings, sinks, now_us, wait
        self._on_problem, self._problem = on_problem, ""

    def once(self) -> WatchView:
        """One round.

        Raises:
            RankwellError: It can't be made.
        """
        with self._opened() as watch:
            return self._look(watch)

    def run(self) -> None:
        """Round after round, until `wait` says that it is time to end.

        Raises:
            RankwellError: The folder can't be watched with these settings.
        """
        while (why := why_not_yet(self._settings)) is not None:
            self._say(why)
            if self._wait(_NAP_S):
                return
        with self._opened() as watch:
            while True:
                began_us = self._now_us()
                due_us = (began_us // TICK_US + 1) * TICK_US + _AFTER_US
                try:
                    self._look(watch)
                    self._say(None)
                except (RankwellError, OSError) as error:  # a full disk, say: the next round may go well
                    self._say(f"nothing is looked at: {error}")
                    due_us = began_us + _AGAIN_US
                # a clock that went back has another next quarter-hour; people who call need not wait for it
                while began_us <= self._now_us() < due_us and not watch.is_called:
                    if self._wait(_NAP_S):
                        return

    def _opened(self) -> KeptWatch:
        return KeptWatch(self._settings, now_us=self._now_us, say=_LOG.warning)

    def _look(self, watch: KeptWatch) -> WatchView:
        view = watch.look()
        for sink in self._sinks:
            sink.tell(view)
        watch.keep()
        return view

    def _say(self, problem: str | None) -> None:
        if problem is not None and problem != self._problem:
            _LOG.warning("%s", problem)
        self._problem = problem or ""
        self._on_problem(problem)
