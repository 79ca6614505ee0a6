"""What a watch knows after a round, for all who are told: sinks of alarms, and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self, final

from rankwell.mitigation.watch_round import RoundReport, WatchRound
from rankwell.monitoring.alarm_runs import AlarmRun
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.pane_layout import ALL_ROWS, MISSING, NEVER_SEEN, OTHER
from rankwell.serving.correction import Correction

__all__ = ["WatchView", "segment_text"]

_DAY_US: Final = 86_400_000_000


@final
@dataclass(frozen=True, slots=True)
class WatchView:
    """A round and what is in force after it; nothing of it changes.

    Args:
        now_us: When the round was made, UTC microseconds.
        action: Whose calibration is watched.
        feature: By whose values segments are told apart.
        segments: Its values that are.
        report: What the round found.
        standing: Alarms in force, by their beginning.
        ended: Alarms that are over since the last round.
        outcomes: Of the last day, of requests whose labels are in.
        settled_us: Outcomes of requests before it are complete.
        bundle_id: That answers; None where no folder of servers is looked at.
        correction: In force; None: none is.
        problems: What is wrong with the watching itself, in words.
        trials: As `outcomes`, of bundles on trial, by their ids.
    """

    now_us: int
    action: str
    feature: str
    segments: tuple[int, ...]
    report: RoundReport
    standing: tuple[AlarmRun, ...]
    ended: tuple[AlarmRun, ...]
    outcomes: OutcomePane
    settled_us: int
    bundle_id: str | None = None
    correction: Correction | None = None
    problems: tuple[str, ...] = field(default=())
    trials: Mapping[str, OutcomePane] = field(default_factory=dict)

    @classmethod
    def after(
        cls, watch: WatchRound, report: RoundReport, *, now_us: int, before: Sequence[AlarmRun],
        bundle_id: str | None = None, correction: Correction | None = None, problems: tuple[str, ...] = (),
    ) -> Self:  # fmt: skip
        """What is known after a round.

        Args:
            watch: That made it.
            report: What it found.
            now_us, bundle_id, correction, problems: See above.
            before: The alarms that were in force before it.
        """
        counts, standing = watch.counts, watch.alarms.standing
        keys = {run.key for run in standing}
        bins = counts.pane.layout.segments
        day = counts.settled_us - _DAY_US, counts.settled_us
        return cls(
            now_us=now_us,
            action=counts.outcomes.action,
            feature="" if bins is None else bins.name,
            segments=watch.segments,
            report=report,
            standing=standing,
            ended=tuple(run for run in before if run.key not in keys),
            outcomes=counts.outcomes.between(*day),
            settled_us=counts.settled_us,
            bundle_id=bundle_id,
            correction=correction,
            problems=problems,
            trials={trial: part for trial, pane in counts.trials.items() if len(part := pane.between(*day))},
        )

    @property
    def is_news(self) -> bool:
        """Whether somebody should hear of it: an alarm began or is over, or something was decided."""
        return bool(self.report.new_alarms or self.ended or self.report.decisions)


def segment_text(feature: str, segment: int) -> str:
    """A segment in words.

    >>> segment_text("title", 7), segment_text("title", -1), segment_text("title", -4)
    ('title 7', 'title missing', 'all')
    """
    named = {MISSING: f"{feature} missing", OTHER: f"{feature}: others", NEVER_SEEN: f"{feature}: new values"}
    return "all" if segment == ALL_ROWS else named.get(segment, f"{feature} {segment}")
