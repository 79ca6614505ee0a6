"""What is seen, and what it says of now: rows that were served under one thing at a time, since the trouble began.

Letters: G segments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.evaluation.calibration_sums import CalibrationSums
from rankwell.mitigation.attributed_rows import AttributedRows
from rankwell.mitigation.bias_correction import NeededOffsets, ServedSpan, needed_offsets
from rankwell.mitigation.mitigation_plan import MitigationPlan
from rankwell.mitigation.mitigation_state import LoopState
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.pane import Pane
from rankwell.monitoring.reading import Reading

__all__ = ["SURE", "AsServed", "Evidence", "Seen", "served_spans"]

SURE: Final = 2.0
"""Standard errors beyond which a verdict is given."""

_MINUTE_US: Final = 60_000_000
_MOST_NAMED: Final = 5
_HALF: Final = 0.5
"""Of a click, so that segments without any have a ratio."""

_Floats = NDArray[np.float64]
_Booleans = NDArray[np.bool_]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a loop is shown at one time.

    Args:
        readings: Of the newest window.
        outcomes: What was promised and what came of it, in the minutes that the plan remembers.
        settled_us: Labels of requests before it are all known; a whole minute.
        bundle_id: Of the bundle that answers.
        answers_since_us: Since when it has answered most requests; 0: always, as far as is known.
        previous_bundle_id: Of the one that a fallback would go to.
        approved, refused: Ids of proposals.
        other_correction: The id of a correction in force that is not the loop's own.
        is_stopped: Whether the kill switch is on.
        rows: That the bundle answered, in the time that the plan remembers; None: none of its rows can be changed, or
            nobody looked.
        pane: What was counted of watched columns, a day and more of it; None: it isn't known when a feature returns.
    """

    readings: Sequence[Reading]
    outcomes: OutcomePane
    settled_us: int
    bundle_id: str
    answers_since_us: int = 0
    previous_bundle_id: str | None = None
    approved: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    other_correction: str | None = None
    is_stopped: bool = False
    rows: AttributedRows | None = None
    pane: Pane | None = None


def served_spans(plan: MitigationPlan, state: LoopState, seen: Seen, from_us: int) -> list[ServedSpan]:
    """The spans from a time on in which one thing was in force, the present one last; all but offsets being as now.

    A minute in which something changed, or in which servers may not have followed yet, belongs to no span, since panes
    are counted by the minute.

    >>> from rankwell.mitigation.mitigation_state import InForce
    >>> five = np.arange(5)  # minutes with a row of a tenth each
    >>> outcomes = OutcomePane.of("click", times_us_C=five * 60_000_000, request_C=five, segment_C=five * 0 + 3,
    ...                           probabilities_C=five * 0 + .1, labels_C=five * 0, propensity_C=five * 0 + 1.0,
    ...                           price_micros_C=five * 0)
    >>> history = (InForce(from_us=0), InForce(from_us=150_000_000, offsets={3: -0.5}))  # in the midst of minute 2
    >>> plan = MitigationPlan(action="click", feature="title", segments=(3,))
    >>> seen = Seen(readings=(), outcomes=outcomes, settled_us=300_000_000, bundle_id="b")
    >>> spans = served_spans(plan, LoopState(history=history), seen, from_us=0)
    >>> [(span.offsets_G.tolist(), span.sums.predicted_G.round(9).tolist()) for span in spans]
    [([0.0], [0.2]), ([-0.5], [0.2])]
    """
    now = state.history[-1]
    spans = []
    for entry, following in zip(state.history, [*state.history[1:], None], strict=True):
        begun_us = 0 if entry.from_us == 0 else entry.from_us + plan.pick_up_us
        start_us = _ceiled(max(from_us, begun_us))
        end_us = _floored(seen.settled_us if following is None else min(seen.settled_us, following.from_us))
        is_as_now = (entry.blend_weight, entry.wide_changes) == (now.blend_weight, now.wide_changes)
        if is_as_now and (start_us < end_us or entry is now):
            offsets_G = np.array([entry.offsets.get(segment, 0.0) for segment in plan.segments])
            part = seen.outcomes.between(start_us, end_us)
            spans.append(ServedSpan(offsets_G, part.sums("served", plan.segments), part.grid(plan.segments)))
    return spans


@final
@dataclass(frozen=True, slots=True, eq=False)
class AsServed:
    """Rows as they are served now, by segment.

    Args:
        lacking: What their probabilities lack, in log-odds.
        sums: Of them.

    >>> sums = CalibrationSums.of([.4] * 900, [1] * 400 + [0] * 500, [1] * 900, request_C=range(900))
    >>> nothing = NeededOffsets(np.zeros(1), np.ones(1), np.zeros(1))
    >>> AsServed(nothing, sums).ratio_G.round(3).tolist(), AsServed(nothing, sums).is_beyond(.05).tolist()
    ([0.9], [False])
    """

    lacking: NeededOffsets
    sums: CalibrationSums

    @property
    def expected_G(self) -> _Floats:
        """The clicks they promise."""
        return self.sums.predicted_G

    @property
    def ratio_G(self) -> _Floats:
        """Promised over observed, half a click added to both."""
        return (self.sums.predicted_G + _HALF) / (self.sums.observed_G + _HALF)

    def is_beyond(self, tolerance: float, sure: float = SURE) -> _Booleans:
        """Whether a segment's ratio is out of the tolerance by more than so many standard errors.

        The error of its logarithm is √v / O, v = Σ_q (y_q − p_q)² of whole requests at the ratio that was observed, and
        not less than O, the clicks.
        """
        observed_G = self.sums.observed_G + _HALF
        noise_G = np.sqrt(np.maximum(self.sums.residual_squared(1 / self.ratio_G), observed_G)) / observed_G
        return np.asarray(np.abs(np.log(self.ratio_G)) > math.log1p(tolerance) + sure * noise_G)


@final
@dataclass(frozen=True, slots=True)
class Evidence:
    """What rows since the onset of an incident say, of the bundle that answers and no older than the plan's memory.

    Args:
        plan: Of the loop.
        state: Where it stands.
        seen: What there is to see.
    """

    plan: MitigationPlan
    state: LoopState
    seen: Seen

    @property
    def offsets_G(self) -> _Floats:
        """The offsets in force."""
        return np.array([self.state.history[-1].offsets.get(segment, 0.0) for segment in self.plan.segments])

    def needed(self) -> NeededOffsets:
        """What probabilities without any correction lack."""
        return needed_offsets(served_spans(self.plan, self.state, self.seen, self.from_us))

    def next_offsets(self, needed: NeededOffsets, is_other_G: _Booleans | None = None) -> _Floats:
        """The offsets to apply next; 0 for segments that are barred.

        Args:
            needed: By segment.
            is_other_G: Where the world is another than the offsets in force were made for: they have no claim to stay,
                and what is needed now has to be as sure as if none were there. None: nowhere.
        """
        bias, in_force_G = self.plan.bias, self.offsets_G
        with_claim_G = in_force_G if is_other_G is None else np.where(is_other_G, 0.0, in_force_G)
        target_G = bias.targets(needed, with_claim_G, self.plan.is_in({*self.state.accused}))
        return bias.stepped(np.where(self.plan.is_in({*self.state.barred}), 0.0, target_G), in_force_G)

    def of_now(self) -> AsServed:
        """The rows that were served under what is in force."""
        span = served_spans(self.plan, self.state, self.seen, self._remembered_us)[-1]
        uncorrected = ServedSpan(np.zeros(len(self.plan.segments)), span.sums, span.grid)
        return AsServed(needed_offsets([uncorrected]), span.sums)

    def newest_window_us(self) -> int:
        """Where the newest window of settled rows begins."""
        return max(_ceiled(self.seen.settled_us - self.plan.window_us), self.seen.answers_since_us, 0)

    def changed_us(self, from_us: int, needed_G: _Floats, is_asked_G: _Booleans) -> int:
        """The minute from which on clicks fit what is needed now better than the offsets in force.

        With O_m the clicks of minute m, and E_m(δ) those expected under offsets δ, it is the t that maximises
        Σ_{m ≥ t} O_m ln(E_m(needed) / E_m(in force)) − E_m(needed) + E_m(in force): the change point of Poisson counts.

        Args:
            from_us: Where to begin, UTC microseconds, a whole minute.
            needed_G: Log-odds, of the rows since then.
            is_asked_G: Which segments' clicks are looked at.
        """
        gained = []
        for minute_us in range(from_us, self.seen.settled_us, _MINUTE_US):
            minute = replace(self.seen, outcomes=self.seen.outcomes.between(minute_us, minute_us + _MINUTE_US))
            spans = served_spans(self.plan, self.state, minute, minute_us)
            observed_G = np.sum([span.sums.observed_G for span in spans], axis=0)
            expected_G, before_G = (
                np.sum([span.moved(offset_G)[0] for span in spans], axis=0) for offset_G in (needed_G, self.offsets_G)
            )
            is_there_G = is_asked_G & (expected_G > 0) & (before_G > 0)
            o_g, e_g, b_g = observed_G[is_there_G], expected_G[is_there_G], before_G[is_there_G]
            gained.append(float((o_g * np.log(e_g / b_g) - e_g + b_g).sum()))
        since = np.cumsum(gained[::-1])[::-1]
        return from_us + int(np.argmax(since)) * _MINUTE_US if gained else from_us

    def reason(self, needed: NeededOffsets, offsets_G: _Floats) -> str:
        """Why these offsets, in words."""
        worst = sorted(np.flatnonzero(offsets_G).tolist(), key=lambda g: -abs(float(needed.z_G[g])))
        parts = [
            f"{self.plan.feature} {self.plan.segments[g]}: the odds of a {self.plan.action} are "
            f"{math.exp(needed.needed_G[g]):.2f} × those promised (z {needed.z_G[g]:+.1f})"
            for g in worst[:_MOST_NAMED]
        ]
        return ", ".join(parts) + (f" and {len(worst) - _MOST_NAMED} more" if len(worst) > _MOST_NAMED else "")

    @property
    def from_us(self) -> int:
        """Rows before it say nothing of now."""
        return max(self.state.onset_us, self._remembered_us)

    @property
    def _remembered_us(self) -> int:
        return max(self.seen.settled_us - self.plan.memory_us, self.seen.answers_since_us, 0)


def _ceiled(time_us: int) -> int:
    return -(-time_us // _MINUTE_US) * _MINUTE_US


def _floored(time_us: int) -> int:
    return time_us // _MINUTE_US * _MINUTE_US
