"""A watch of a folder that keeps what it needs beside the log, and goes on where it was.

::

    FOLDER/watch/layout.json    what is counted, made of the first rows of the log, and for which action
    FOLDER/watch/counts.arrow   panes, outcomes, and how far the log was read
    FOLDER/watch/alarms.json    alarms in force
    FOLDER/watch/lock           held by the one process that watches

What is damaged is put aside as NAME.damaged-TIME, and said. Without its counts a watch begins with the oldest segments
of the log that are there; without its layout with a new one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self, final

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from rankwell.data.atomic_file import AtomicFile
from rankwell.data.layout import LogLayout
from rankwell.errors import LogError, MonitoringError, RankwellError
from rankwell.mitigation.attributed_rows import AttributedLog
from rankwell.mitigation.folder_watch import FolderWatch
from rankwell.mitigation.mitigation_folder import MitigationFolder
from rankwell.mitigation.mitigation_plan import MitigationPlan
from rankwell.mitigation.watch_round import WatchRound
from rankwell.mitigation.watch_view import WatchView
from rankwell.mitigation.wide_update import ProximalUpdate
from rankwell.monitoring.alarm_runs import AlarmRuns
from rankwell.monitoring.alarm_threshold import AlarmPromise
from rankwell.monitoring.baseline import HeldDays
from rankwell.monitoring.calibration_watch import CalibrationWatch
from rankwell.monitoring.drift_watch import DriftWatch
from rankwell.monitoring.pane import MINUTE_US
from rankwell.monitoring.pane_layout import ALL_ROWS, PaneLayout
from rankwell.monitoring.rate_watch import RateWatch
from rankwell.monitoring.reference_layout import reference_layout, segment_features
from rankwell.monitoring.tick_history import TICK_US
from rankwell.monitoring.watch_counts import WatchCounts
from rankwell.schema import Schema
from rankwell.schema.transforms import Declaration, as_schema_error
from rankwell.serving.correction import Correction, correction_in_force
from rankwell.serving.log_folder import FolderLock, LogFolder
from rankwell.serving.log_reader import read_served
from rankwell.serving.rollout import RolloutFolder

__all__ = ["KeptWatch", "WatchSettings", "why_not_yet"]

_KINDS: Final = 3
_VIEWS: Final = 2
_STEP: Final = 0.02
"""Of a wide update: a weight follows its rows within some 50 clicks, and swings by a tenth."""
_LATEST_US: Final = 2**62 // MINUTE_US * MINUTE_US


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """How a folder is watched.

    Args:
        folder: That a server logs to.
        segment: The categorical feature by whose values segments are told apart.
        action: Whose calibration is watched; None: the schema's first.
        deployed: The root of the `RolloutFolder` that the servers follow, for corrections; None: it isn't looked at.
        mode: Of mitigation, see `MitigationPlan`; without `deployed` there is none.
        days_per_false_alarm: One false alarm in so many days, of drift, calibration and rates together.
        baseline: What drift and rates are compared with: which days are off, and when a day begins.
        reference_rows: So many rows that were shown make the layout, or all there are where the first round is due and
            there are `least_rows`.
        least_rows: Fewer make none.
    """

    folder: Path
    segment: str
    action: str | None = None
    deployed: Path | None = None
    mode: Literal["act", "ask", "watch", "off"] = "watch"
    days_per_false_alarm: float = 7.0
    baseline: HeldDays = field(default_factory=HeldDays)
    reference_rows: int = 50_000
    least_rows: int = 500


@final
class _Kept(Declaration):
    format_version: Literal[1] = 1
    action: str
    segment: str
    layout: PaneLayout


@final
class KeptWatch:
    """The embedded engine with all that it keeps. Use it in a ``with`` block, or call `close`.

    Args:
        settings: What to watch, and how.
        now_us: UTC microseconds, by the clock that the servers go by.
        say: Told what was found damaged or missing, in words.

    Raises:
        LogError: The folder holds no served log; or another process watches it.
        MonitoringError: The log can't be watched like this: no times, another action or feature than before, too few
            rows to make a layout of.
        MitigationError: Another mitigation loop is at work in the servers' folder.
    """

    def __init__(self, settings: WatchSettings, *, now_us: Callable[[], int], say: Callable[[str], None]) -> None:
        self.settings, self._now_us, self._say = settings, now_us, say
        self._problems: list[str] = []
        self._heard = frozenset[str]()
        schema = LogFolder(settings.folder / "served", "served").schema()
        self._action = _action(schema, settings)
        self._own = settings.folder / "watch"
        self._own.mkdir(exist_ok=True)
        self._lock = FolderLock.exclusive(
            self._own / "lock", held=f"another process watches the folder {str(settings.folder)!r}"
        )
        self._mitigation: MitigationFolder | None = None
        try:
            layout = self._layout(schema)
            self._watch = self._counting(schema, layout)
            self._round = self._rounds(layout)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process watch; what is in force stays until it ends."""
        if self._mitigation is not None:
            self._mitigation.close()
            self._mitigation = None
        self._lock.release()

    @property
    def is_called(self) -> bool:
        """Whether people have said something since the last look (the kill switch, an approval): it must not wait."""
        words = frozenset[str]() if self._mitigation is None else self._mitigation.words()
        self._heard &= words
        return bool(words - self._heard)

    def look(self) -> WatchView:
        """One round, to be made soon after each quarter-hour, and where it `is_called`.

        A round whose `keep` was not called is made again by the next process: its alarms are told twice, not never.

        Raises:
            RankwellError: It can't be made; the next one may.
        """
        now_us, before = self._now_us(), self._round.alarms.standing
        if self._mitigation is not None:
            self._heard = self._mitigation.words()
        report = self._round.after(now_us=now_us, known_bundles=self._known_bundles())
        bundle_id, correction = self._served(now_us)
        self._say_strangers(report.window_end_us)
        problems, self._problems = tuple(self._problems), []
        return WatchView.after(
            self._round, report, now_us=now_us, before=before, bundle_id=bundle_id, correction=correction,
            problems=problems,
        )  # fmt: skip

    def keep(self) -> None:
        """Put down which alarms are in force, once all have been told.

        Raises:
            OSError: The disk does not take it.
        """
        self._write(self._own / "alarms.json", self._round.alarms.to_json())

    # --- what is kept

    def _layout(self, schema: Schema) -> PaneLayout:
        path, settings = self._own / "layout.json", self.settings
        if path.exists():
            try:
                kept = _Kept.model_validate_json(path.read_bytes())
            except (ValidationError, RankwellError, OSError) as error:
                found = as_schema_error(error) if isinstance(error, ValidationError) else error
                self._put_aside(path, str(found))
            else:
                if (kept.action, kept.segment) != (self._action, settings.segment):
                    raise MonitoringError(
                        f"the folder {str(settings.folder)!r} is watched in another way",
                        found=f"action {self._action!r}, segments by {settings.segment!r}",
                        allowed=f"action {kept.action!r}, segments by {kept.segment!r}",
                        do=f"move {str(self._own)!r} away, and it is watched from its oldest segments on",
                    )
                return kept.layout
        layout = reference_layout(self._first_rows(schema), schema, segment=settings.segment)
        self._write(path, _Kept(action=self._action, segment=settings.segment, layout=layout).model_dump_json())
        return layout

    def _first_rows(self, schema: Schema) -> Any:
        tables, num_rows = [], 0
        for served, _ in read_served(self.settings.folder, on_damage=self._damage):
            tables.append(served)
            num_rows += _num_shown(served, schema)
            if num_rows >= self.settings.reference_rows:
                break
        if num_rows < self.settings.least_rows:
            raise MonitoringError(
                "there are too few rows to watch by", found=f"{num_rows} that were shown",
                allowed=f"{self.settings.least_rows} and more", do="wait until more was served",
            )  # fmt: skip
        return pa.concat_tables(tables)

    def _counting(self, schema: Schema, layout: PaneLayout) -> FolderWatch:
        path, folder = self._own / "counts.arrow", self.settings.folder
        try:
            counts = WatchCounts(schema, layout, self._action)
            return FolderWatch(folder, counts, path, on_damage=self._damage)
        except MonitoringError as error:
            if not path.exists():
                raise
            self._put_aside(path, str(error))
        return FolderWatch(folder, WatchCounts(schema, layout, self._action), path, on_damage=self._damage)

    def _rounds(self, layout: PaneLayout) -> WatchRound:
        # Drift, calibration and rates share the promise: false alarms add up.
        promise = AlarmPromise(_KINDS * self.settings.days_per_false_alarm)
        segments = (ALL_ROWS,) if layout.segments is None else layout.segments.top
        if self.settings.deployed is not None:
            plan = MitigationPlan(
                action=self._action, feature=self.settings.segment, segments=segments, mode=self.settings.mode,
                wide=ProximalUpdate(step=_STEP),
            )  # fmt: skip
            log = AttributedLog(self.settings.folder, self.settings.deployed, self._action)
            self._mitigation = MitigationFolder(
                self.settings.deployed, plan, now_us=self._now_us, say=self._problem, log=log
            )
        rounds = WatchRound(
            self._watch,
            DriftWatch(layout, self.settings.baseline, promise, kl_too=True),
            CalibrationWatch(_VIEWS * len(segments), promise),
            self._mitigation,
            on_failure=lambda error: self._problem(f"nothing is mitigated: {error}"),
            rates=RateWatch(layout.segments, self.settings.baseline, promise),
        )
        path = self._own / "alarms.json"
        if path.exists():
            try:
                rounds.alarms = AlarmRuns.from_json(path.read_text("utf-8"))
            except (MonitoringError, UnicodeDecodeError, AttributeError) as error:
                self._put_aside(path, str(error))
        return rounds

    # --- what is served

    def _known_bundles(self) -> frozenset[str] | None:
        root = self.settings.deployed
        return None if root is None else RolloutFolder(root).bundle_ids()

    def _say_strangers(self, window_end_us: int) -> None:
        """A bundle that nobody deployed answers: that is no drift, and may be a server of another folder."""
        known = self._known_bundles()
        for span in self._watch.counts.versions.between(window_end_us - TICK_US, _LATEST_US).spans():
            if known is not None and span.kind == "bundle" and span.version not in known:
                self._problem(
                    f"bundle {span.version} answered {span.num_requests:,} requests since the last quarter-hour began, "
                    f"and is not in {self.settings.deployed}"
                )

    def _served(self, now_us: int) -> tuple[str | None, Correction | None]:
        root = self.settings.deployed
        if root is None:
            return None, None
        try:
            bundle_id = RolloutFolder(root).read().current
        except RankwellError as error:
            self._problem(str(error))
            return None, None
        try:
            return bundle_id, correction_in_force(root, bundle_id=bundle_id, now_us=now_us)
        except RankwellError as error:
            self._problem(f"no correction is in force: {error}")
            return bundle_id, None

    # --- files

    def _write(self, path: Path, text: str) -> None:
        with AtomicFile(path) as file:
            file.write(text.encode())

    def _put_aside(self, path: Path, why: str) -> None:
        aside = path.with_name(f"{path.name}.damaged-{self._now_us()}")
        with suppress(OSError):
            path.replace(aside)
        self._problem(f"{path} was damaged, and is now {aside.name}: {why}")

    def _damage(self, error: LogError) -> None:
        self._problem(str(error))

    def _problem(self, text: str) -> None:
        self._problems.append(text)
        self._say(text)


def _action(schema: Schema, settings: WatchSettings) -> str:
    if schema.time is None:
        raise MonitoringError("a log without times cannot be watched", do="declare `time` in the schema")
    if settings.segment not in segment_features(schema):
        raise MonitoringError(
            "segments can't be told apart by this feature", found=settings.segment,
            allowed=sorted(segment_features(schema)), do="name a categorical feature",
        )  # fmt: skip
    action = schema.actions[0].name if settings.action is None else settings.action
    schema.action_index(action)
    return action


def _num_shown(served: Any, schema: Schema) -> int:
    position = LogLayout.of(schema, "requests").of_role("position")
    assert position is not None  # no served log is without one
    return int(pc.sum(pc.greater(pc.list_flatten(served[position.name]), 0)).as_py() or 0)


def why_not_yet(settings: WatchSettings) -> str | None:
    """Why a watch can't begin yet: nothing is logged, or too little to make a layout of; None where it can.

    >>> why_not_yet(WatchSettings(folder=Path("nowhere"), segment="title"))
    "no served log in 'nowhere' yet"
    """
    if not (settings.folder / "served" / "log.json").exists():
        return f"no served log in {str(settings.folder)!r} yet"
    if (settings.folder / "watch" / "layout.json").exists():
        return None
    schema, num_rows = LogFolder(settings.folder / "served", "served").schema(), 0
    for served, _ in read_served(settings.folder, on_damage=lambda _: None):
        num_rows += _num_shown(served, schema)
        if num_rows >= settings.least_rows:
            return None
    return f"{num_rows} rows were shown so far, and {settings.least_rows} make a layout"
