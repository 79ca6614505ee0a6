"""What an alarm comes from, as far as the log tells: what moved, since when, and what else happened then.

Letters: G segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

import numpy as np

from rankwell.data.served_columns import served_probability
from rankwell.evaluation.confidence_sequence import RatioSequence
from rankwell.mitigation.requests_to_look_at import RequestToLookAt
from rankwell.monitoring.alarm_runs import AlarmRun
from rankwell.monitoring.causes import Cause, ranked_causes
from rankwell.monitoring.onset import onset_us
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.pane import MINUTE_US
from rankwell.monitoring.reading import Reading
from rankwell.monitoring.report_gap import REPORT_DELAY
from rankwell.monitoring.tick_history import TICK_US
from rankwell.monitoring.trial_readings import bundle_on_trial
from rankwell.monitoring.version_pane import VersionPane, VersionSpan
from rankwell.monitoring.watch_counts import WatchCounts

__all__ = ["Explanation", "SegmentOutcome", "Suspect", "explained", "of_latest_incident", "own_doing_last"]

SuspectKind = Literal["trial", "bundle", "correction", "upstream", "unwatched", "labels", "world"]

_MOST_CAUSES: Final = 8
_ONE_INCIDENT_US: Final = 24 * TICK_US
_NEAR_US: Final = TICK_US
"""What happened so near to an onset may have to do with it."""
_SERVED: Final = "served_"
_OF_CLICKS: Final = ("calibration", "rate", REPORT_DELAY)
_ALIKE: Final = 1.5
"""Segments whose ratios differ by no more than this factor lack clicks alike."""


@final
@dataclass(frozen=True, slots=True)
class Suspect:
    """Something that happened, or must have.

    Args:
        kind: "trial": a bundle beside the current one is off · "bundle": another one began to answer · "correction":
            one began or ended · "upstream": a feature changed before any model saw it · "unwatched": scores moved, and
            nothing that is watched did · "labels": clicks are late or lost · "world": people do otherwise than they
            did.
        at_us: When, UTC microseconds.
        what: In words.
    """

    kind: SuspectKind
    at_us: int
    what: str


@final
@dataclass(frozen=True, slots=True)
class SegmentOutcome:
    """What became of a segment's requests of the newest hour whose labels are known, or of those since the onset.

    Args:
        segment: A value of the segments' feature.
        observed, expected: Clicks, or whatever the action is.
        spend_micros: Charged.
    """

    segment: int
    observed: float
    expected: float
    spend_micros: int

    @property
    def over_micros(self) -> float:
        """Charged beyond what the clicks were worth, if prices are bid × p: the spend times 1 − observed / expected."""
        return self.spend_micros * (1 - self.observed / self.expected) if self.expected else 0.0


@final
@dataclass(frozen=True, slots=True)
class Explanation:
    """Of the alarms of one round.

    Args:
        action: Whose outcomes are watched.
        feature: By whose values segments are told apart; "" where there is one of all rows.
        settled_us: Until when outcomes are complete, UTC microseconds.
        found_us: The end of the window that was looked at, UTC microseconds.
        since_us: Since when the first cause is what it is.
        causes: The likeliest first, eight at most.
        suspects: What is to be asked about, the likeliest first; one at least.
        outcomes: By segment: of the bundle that answers, or of the one on trial whose calibration the first cause is.
        requests: A few to look at, those that cost most first.
    """

    action: str
    feature: str
    settled_us: int
    found_us: int
    since_us: int
    causes: tuple[Cause, ...]
    suspects: tuple[Suspect, ...]
    outcomes: tuple[SegmentOutcome, ...]
    requests: tuple[RequestToLookAt, ...] = ()


def explained(
    readings: Sequence[Reading],
    counts: WatchCounts,
    segments: Sequence[int],
    *,
    spend_micros: Mapping[int, int],
    window_end_us: int,
    known_bundles: frozenset[str] | None = None,
) -> Explanation | None:
    """What the alarms of a round come from.

    Causes are ranked by `ranked_causes`, those of a correction's own doing last; the onset of drift is the change point
    of its minutes, that of calibration the quarter-hour from which its evidence comes. Then suspects, in this order:
    bundles that nobody deployed; one on trial that is off; a bundle or a correction that began or ended within a
    quarter-hour of the onset, where scores or their calibration have moved; features that moved, since no bundle
    changes those. Where there is none of that, scores that moved did so by what isn't watched; clicks that are few
    everywhere alike are late or lost; and else it is the world.

    Args:
        readings: Of the round.
        counts: Of the watch.
        segments: That are watched.
        spend_micros: By segment.
        window_end_us: Of the drift windows, UTC microseconds.
        known_bundles: Those of the servers' folder: others that answered are named; None: nobody knows.

    Returns:
        None where there is no alarm.
    """
    corrected = [(s.first_us, s.last_us + MINUTE_US) for s in counts.versions.spans() if s.kind == "correction"]
    ranked = own_doing_last(ranked_causes(readings, spend_micros), corrected, counts.outcomes.action)
    causes = tuple(ranked[:_MOST_CAUSES])
    if not causes:
        return None
    began = {cause: _began_us(cause, counts, window_end_us) for cause in causes}
    since_us = began[causes[0]]
    trial = bundle_on_trial(causes[0].reading)
    answered = counts.outcomes if trial is None else counts.trials.get(trial, counts.outcomes)
    outcomes = _outcomes(answered, counts.settled_us, segments, since_us)
    suspects = [
        *_strangers(counts.versions, known_bundles, since_us),
        *_trials(ranked),
        *(_versions(counts.versions, since_us) if any(map(_is_scored, causes)) else ()),
        *_upstream(causes, began),
        *_unreported(readings, counts.outcomes.action),
    ]
    if not suspects:
        has_drifted = any(not cause.reading.name.startswith(_OF_CLICKS) for cause in causes)
        suspects = [_unwatched(since_us) if has_drifted else _labels_or_world(counts, segments, since_us)]
    bins = counts.pane.layout.segments
    return Explanation(
        action=counts.outcomes.action,
        feature="" if bins is None else bins.name,
        settled_us=counts.settled_us,
        found_us=window_end_us,
        since_us=since_us,
        causes=causes,
        suspects=tuple(suspects),
        outcomes=outcomes,
    )


def own_doing_last(causes: Sequence[Cause], corrected: Sequence[tuple[int, int]], action: str) -> list[Cause]:
    """Causes in their order, but those last that a correction has brought about: it moves probabilities, as it should.

    Args:
        causes: The likeliest first.
        corrected: From when until when a correction was in force, UTC microseconds.
        action: Whose served probabilities corrections move.
    """

    def is_own_doing(cause: Cause) -> bool:
        start_us, end_us = cause.reading.window_start_us, cause.reading.window_end_us
        is_corrected = any(from_us < end_us and start_us < until_us for from_us, until_us in corrected)
        return is_corrected and cause.column == served_probability(action)

    return sorted(causes, key=is_own_doing)


def of_latest_incident(readings: Iterable[Reading], standing: Iterable[AlarmRun]) -> list[Reading]:
    """The readings without those of alarms that began six hours before the latest of all, or earlier.

    What has stood for long is not what somebody is called for now, however far it is beyond its limit.

    Args:
        readings: Of a round.
        standing: The alarms in force after it.
    """
    since = {run.key: run.since_us for run in standing}
    latest_us = max(since.values(), default=0)
    return [reading for reading in readings if latest_us - since.get(reading.key, latest_us) < _ONE_INCIDENT_US]


def _is_scored(cause: Cause) -> bool:
    return cause.reading.name.startswith(_OF_CLICKS) or cause.column.startswith(_SERVED)


def _began_us(cause: Cause, counts: WatchCounts, window_end_us: int) -> int:
    reading = cause.reading
    if reading.name.startswith(_OF_CLICKS):
        return reading.window_start_us
    found_us = onset_us(counts.pane, cause.column, cause.segment, until_us=window_end_us)
    return reading.window_start_us if found_us is None else found_us


def _outcomes(
    outcomes: OutcomePane, settled_us: int, segments: Sequence[int], since_us: int
) -> tuple[SegmentOutcome, ...]:
    """Since the onset, or of the newest hour where no label since then is known yet."""
    until_us = settled_us // MINUTE_US * MINUTE_US
    from_us = since_us if since_us < until_us else until_us - 4 * TICK_US
    pane = outcomes.between(from_us, until_us)
    sums, spend_G = pane.sums("served", segments), pane.spend_micros(segments)
    rows = zip(segments, sums.observed_G, sums.predicted_G, spend_G, strict=True)
    return tuple(SegmentOutcome(s, float(seen), float(expected), int(spent)) for s, seen, expected, spent in rows)


def _strangers(versions: VersionPane, known: frozenset[str] | None, since_us: int) -> Iterable[Suspect]:
    for span in versions.between(since_us - _NEAR_US, 2**62).spans():
        if known is not None and span.kind == "bundle" and span.version not in known:
            yield Suspect(
                "bundle", span.first_us,
                f"bundle {span.version} answered {span.num_requests:,} requests, and is not in the servers' folder",
            )  # fmt: skip


def _trials(causes: Sequence[Cause]) -> Iterable[Suspect]:
    """Each bundle once, as its worst segment shows it."""
    named: set[str] = set()
    for cause in causes:
        bundle_id = bundle_on_trial(cause.reading)
        if bundle_id is not None and bundle_id not in named:
            named.add(bundle_id)
            what = "answers beside the current one, on trial, and people do otherwise than it says: end the trial"
            yield Suspect("trial", cause.reading.window_start_us, f"bundle {bundle_id} {what}")


def _versions(versions: VersionPane, since_us: int) -> Iterable[Suspect]:
    spans = versions.spans()
    if not spans:
        return
    oldest_us, newest_us = min(span.first_us for span in spans), max(span.last_us for span in spans)
    for span in sorted(spans, key=lambda span: (span.kind, abs(span.first_us - since_us))):
        if oldest_us < span.first_us and abs(span.first_us - since_us) <= _NEAR_US:
            before = [other.version for other in spans if _is_before(other, span)]
            after = f", after {before[-1]}" if before else ""
            what = f"{span.kind} {span.version} began to answer{after}"
            yield Suspect(_kind(span), span.first_us, f"{what}: {_apart(span.first_us, since_us)}")
        elif span.kind == "correction" and span.last_us < newest_us and abs(span.last_us - since_us) <= _NEAR_US:
            ended_us = span.last_us + MINUTE_US
            what = f"correction {span.version} was no longer in force"
            yield Suspect("correction", ended_us, f"{what}: {_apart(ended_us, since_us)}")


def _kind(span: VersionSpan) -> SuspectKind:
    return "bundle" if span.kind == "bundle" else "correction"


def _is_before(other: VersionSpan, span: VersionSpan) -> bool:
    return other.kind == span.kind and other.first_us < span.first_us


def _apart(time_us: int, since_us: int) -> str:
    minutes = round((time_us - since_us) / MINUTE_US)
    if not minutes:
        return "the very minute"
    return f"{abs(minutes)} min {'after' if minutes > 0 else 'before'} the onset"


def _upstream(causes: Sequence[Cause], began: Mapping[Cause, int]) -> Iterable[Suspect]:
    """Each feature once, as its worst segment shows it."""
    named: set[str] = set()
    for cause in causes:
        if not _is_scored(cause) and cause.column not in named:
            named.add(cause.column)
            reading = cause.reading
            what = f"{cause.column} moved: {reading.name} {reading.value:.3g} {reading.unit}"
            what += f", {cause.times:.1f} × its limit"
            yield Suspect("upstream", began[cause], what)


def _unreported(readings: Sequence[Reading], action: str) -> Iterable[Suspect]:
    for reading in readings:
        if reading.is_alarm and reading.name == REPORT_DELAY:
            what = f"next to no {action} is reported from then on, though many were expected: nothing is counted beyond"
            yield Suspect("labels", reading.window_start_us, what)


def _unwatched(since_us: int) -> Suspect:
    what = "scores moved, and no bundle, no correction and no feature that is counted did: look at those that are not"
    return Suspect("unwatched", since_us, f"{what} (items, lists, histories), and at who asks")


def _labels_or_world(counts: WatchCounts, segments: Sequence[int], since_us: int) -> Suspect:
    sums = counts.outcomes.between(since_us, 2**62).sums("served", segments)
    low_G, _ = RatioSequence().bounds(sums)
    share_G = np.divide(sums.observed_G, sums.predicted_G, out=np.ones(len(segments)), where=sums.predicted_G > 0)
    has_rows_G = sums.predicted_G > 0
    are_few = bool(has_rows_G.any() and (low_G[has_rows_G] > 1).all())
    if are_few and len(segments) > 1 and share_G[has_rows_G].max() <= _ALIKE * share_G[has_rows_G].min():
        missing = 1 - float(sums.observed_G.sum() / sums.predicted_G.sum())
        what = (
            f"{missing:.0%} of the expected {counts.outcomes.action}s are missing in all segments alike, and no score"
        )
        return Suspect("labels", since_us, f"{what} has moved: are they reported?")
    what = f"no bundle, no correction and no feature changed then: {counts.outcomes.action}s did"
    return Suspect("world", since_us, what)
