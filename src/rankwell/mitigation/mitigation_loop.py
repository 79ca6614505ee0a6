"""Detect, choose, apply, verify; keep, revert or escalate: a function of where it stands, what is seen, and the time.

It reads no file and no clock: `rankwell.mitigation.mitigation_folder` does, and carries out what is decided. So every
decision can be replayed.

Letters: G segments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.mitigation.bias_correction import NeededOffsets, needed_offsets
from rankwell.mitigation.blend import drift_intensity
from rankwell.mitigation.evidence import SURE, Evidence, Seen, is_beyond, served_spans
from rankwell.mitigation.mitigation_plan import MitigationPlan
from rankwell.mitigation.mitigation_state import Decision, DecisionKind, InForce, LoopState
from rankwell.serving.correction import Blend, Correction

__all__ = ["OWN", "MitigationLoop"]

OWN: Final = "mitigation-"
"""What the ids of a loop's corrections begin with; it leaves others' alone."""

_MOST_MOVED: Final = 0.02
_Floats = NDArray[np.float64]
_Result = tuple[LoopState, tuple[Decision, ...]]


@final
@dataclass(frozen=True, slots=True)
class MitigationLoop:
    """Decides what a plan allows.

    What is applied has an end, and is renewed while it is needed. It is judged by rows that were served under it alone:
    with a the logarithm of observed / predicted under an offset o, it does harm if |a| > |a + o| beyond doubt, a + o
    being the error without it; and it suffices if |a| is within the tolerance.

    Args:
        plan: What it may do.

    Source: for changes in steps, each checked before the next, and undone first where in doubt: Beyer et al. 2016,
    "Site reliability engineering", §14 and §27.
    """

    plan: MitigationPlan

    def after(self, state: LoopState, seen: Seen, now_us: int) -> _Result:
        """Where the loop stands after a look, and what it decided, in order.

        Args:
            state: Before; `LoopState()` to begin with.
            seen: What there is to see.
            now_us: UTC microseconds, by the clock that servers go by.

        Returns:
            The state, and the decisions: "apply", "adjust" and "renew" carry the correction that is to be written;
            "revert", "end" and "stop" mean that it is to be removed; "fall_back" carries the bundles.
        """
        if seen.is_stopped or self.plan.mode == "off":
            return self._stopped(state, now_us)
        state, decisions = self._caught_up(state, seen, now_us)
        alarms = [reading for reading in seen.readings if self.plan.accuses(reading)]
        if alarms:
            named = {reading.segment for reading in alarms} & {*self.plan.segments}
            last_us = max(reading.window_end_us for reading in alarms)
            state = _with(state, accused=tuple(sorted({*state.accused, *named})), last_alarm_us=last_us)
        if state.phase == "quiet" and alarms:
            onset_us = max(min(reading.window_start_us for reading in alarms), state.onset_us)
            first = alarms[0]
            state, more = _decided(
                _with(state, phase="watching", onset_us=onset_us), now_us, "detect",
                f"{len(alarms)} alarms; {first.name} of {first.column} in segment {first.segment}: {first.value:.3g} "
                f"{first.unit}, limit {first.limit:.3g}",
            )  # fmt: skip
            decisions += more
        match state.phase:
            case "watching":
                state, more = self._watching(state, seen, now_us)
            case "waiting":
                state, more = self._waiting(state, seen, now_us)
            case "in_force":
                state, more = self._in_force(state, seen, now_us)
            case "left_to_people" if state.correction is None and now_us >= state.last_alarm_us + self.plan.rest_us:
                state, more = self._quiet(state, seen, now_us, "pass", "no alarm stands any more")
            case _:
                more = ()
        return state, decisions + more

    def failed(self, state: LoopState, reason: str, now_us: int) -> _Result:
        """Where it stands when what it decided could not be carried out: people have to see to it."""
        return _decided(_with(state, phase="left_to_people", proposal=None), now_us, "fail", reason)

    def found(self, state: LoopState, correction: Correction | None, now_us: int, *, was_interrupted: bool) -> _Result:
        """Where it stands when the folder holds another correction of its own than it remembers.

        Args:
            state: What it remembers.
            correction: The loop's own that is in the folder; None: there is none.
            now_us: UTC microseconds.
            was_interrupted: Whether the loop was ended between a decision and the writing of its state.
        """
        known = state.correction
        if correction == known or (known is not None and now_us >= known.expires_us):
            return state, ()
        if correction is not None and now_us < correction.expires_us:
            if known is not None and correction.id == known.id:  # renewed, and interrupted before it was remembered
                return _with(state, correction=correction), ()
            taken = _with(
                state, phase="in_force", correction=correction, proposal=None, is_verified=False,
                mitigation="bias_correction" if correction.blend is None else "blend", bundle_id=correction.bundle_id,
                history=(*state.history, self.plan.in_force_of(correction)), verify_by_us=now_us + self.plan.verify_us,
            )  # fmt: skip
            return _decided(taken, now_us, "adopt", f"{correction.id} is in the folder")
        if known is None:
            return state, ()
        phase, by = (
            ("watching", "before an interruption") if was_interrupted else ("left_to_people", "by somebody else")
        )
        gone = _with(_removed(state, now_us), phase=phase)
        return _decided(gone, now_us, "adopt", f"{known.id} was removed {by}", known)

    # --- the phases

    def _watching(self, state: LoopState, seen: Seen, now_us: int) -> _Result:
        if now_us >= state.last_alarm_us + self.plan.rest_us:
            return self._quiet(state, seen, now_us, "pass", "no alarm stands, and clicks are as expected")
        if state.mitigation == "bias_correction":
            evidence = Evidence(self.plan, state, seen)
            needed = evidence.needed()
            offsets_G = evidence.next_offsets(needed)
            if not offsets_G.any():
                return state, ()
            return self._offset(state, seen, now_us, offsets_G, "apply", evidence.reason(needed, offsets_G))
        if not any(map(self.plan.accuses, seen.readings)):
            return state, ()
        if state.mitigation == "blend":
            weight = self.plan.blend.next_weight(0.0, drift_intensity(seen.readings))
            return (state, ()) if not weight else self._blended(state, seen, now_us, weight, "apply")
        return self._fallen_back(state, seen, now_us)

    def _waiting(self, state: LoopState, seen: Seen, now_us: int) -> _Result:
        proposal = state.proposal
        assert proposal is not None
        if proposal.id in seen.refused:
            left = _with(state, phase="left_to_people", proposal=None)
            return _decided(left, now_us, "withdraw", f"{proposal.id} was refused", proposal)
        if proposal.id in seen.approved and now_us < proposal.expires_us and self.plan.mode == "ask":
            if state.mitigation == "fallback":
                return self._fallen_back(state, seen, now_us, is_approved=True)
            times = {"created_us": now_us, "expires_us": now_us + self.plan.lifetime_us}
            return self._applied(state, seen, now_us, proposal.model_copy(update=times), "apply")
        is_needed = True
        if state.mitigation == "bias_correction":
            evidence = Evidence(self.plan, state, seen)
            is_needed = bool(evidence.next_offsets(evidence.needed()).any())
        if now_us >= proposal.expires_us or not is_needed:
            why = "nobody approved it in time" if is_needed else "it is no longer needed"
            again = _with(state, phase="watching", proposal=None)
            return _decided(again, now_us, "withdraw", f"{proposal.id}: {why}", proposal)
        return state, ()

    def _in_force(self, state: LoopState, seen: Seen, now_us: int) -> _Result:
        judged, expected_G = Evidence(self.plan, state, seen).of_now()
        if state.mitigation == "bias_correction":
            return self._offsets_in_force(state, seen, now_us, judged, expected_G)
        accused_G = self.plan.is_in({*state.accused})
        is_enough = bool(accused_G.any() and (expected_G[accused_G] >= self.plan.verify_clicks).all())
        is_off = bool((is_beyond(judged, self.plan.tolerance) & accused_G).any())
        if state.mitigation == "blend":
            return self._blend_in_force(state, seen, now_us, judged, is_enough and is_off)
        if is_enough and not is_off:
            return self._quiet(state, seen, now_us, "keep", "the previous bundle is calibrated")
        if is_enough or now_us >= state.verify_by_us:
            reason = "the previous bundle is off, too" if is_off else "too few clicks to judge the previous bundle"
            return self._paged(state, now_us, reason)
        return state, ()

    def _offsets_in_force(
        self, state: LoopState, seen: Seen, now_us: int, judged: NeededOffsets, expected_G: _Floats
    ) -> _Result:
        offsets_G = Evidence(self.plan, state, seen).offsets_G
        is_on_G = offsets_G != 0
        without_G = judged.needed_G + offsets_G
        does_harm_G = is_on_G & (np.abs(judged.needed_G) - np.abs(without_G) > 2 * SURE * judged.noise_G)
        if does_harm_G.any() and not state.is_verified:
            reason = f"with its offset {self.plan.named(does_harm_G)} is farther off than without"
            barred = {*state.barred, *np.array(self.plan.segments)[does_harm_G].tolist()}
            state = _with(state, barred=tuple(sorted(barred)))
            kept_G = np.where(does_harm_G, 0.0, offsets_G)
            if kept_G.any():
                return self._offset(state, seen, now_us, kept_G, "adjust", reason)
            return self._escalated(state, seen, now_us, reason)
        state = self._since_a_change(state, seen, is_on_G, does_harm_G)
        evidence = Evidence(self.plan, state, seen)
        needed = evidence.needed()
        next_G = evidence.next_offsets(needed)
        if not next_G.any():
            return self._ended(state, seen, now_us, "clicks are as expected without it")
        is_enough = bool((expected_G[is_on_G] >= self.plan.verify_clicks).all())
        is_off_G = is_on_G & is_beyond(judged, self.plan.tolerance)
        if is_enough and not is_off_G.any():
            state = _with(state, num_adjusted=0)
        noise_G = np.where(np.isfinite(needed.noise_G), needed.noise_G, 0.0)
        is_other_G = np.abs(next_G - offsets_G) > np.maximum(noise_G / 2, self.plan.bias.smallest / 2)
        if (is_other_G | ((next_G == 0) & is_on_G)).any():
            if state.num_adjusted < self.plan.most_adjusted:
                return self._offset(state, seen, now_us, next_G, "adjust", evidence.reason(needed, next_G))
            return self._escalated(state, seen, now_us, f"{state.num_adjusted} adjustments did not suffice")
        if is_enough and is_off_G.any():
            return self._escalated(state, seen, now_us, f"{self.plan.named(is_off_G)} is off all the same")
        decisions: tuple[Decision, ...] = ()
        if is_enough and not state.is_verified:
            reason = f"{self.plan.named(is_on_G)} is within {self.plan.tolerance:.0%}, as far as clicks tell"
            ratios = {
                f"ratio/{self.plan.segments[g]}": math.exp(-judged.needed_G[g])
                for g in np.flatnonzero(is_on_G).tolist()
            }
            verified = _with(state, is_verified=True)
            state, decisions = _decided(verified, now_us, "keep", reason, state.correction, numbers=ratios)
        if state.is_verified or now_us < state.verify_by_us:
            state, more = self._renewed(state, now_us)
            decisions += more
        return state, decisions

    def _since_a_change(
        self, state: LoopState, seen: Seen, is_on_G: NDArray[np.bool_], does_harm_G: NDArray[np.bool_]
    ) -> LoopState:
        """Forget what was before the newest window, if that shows another world than the offsets were made for."""
        evidence = Evidence(self.plan, state, seen)
        start_us = evidence.newest_window_us()
        newest = needed_offsets(served_spans(self.plan, state, seen, start_us))
        lacking_G = np.abs(newest.needed_G - evidence.offsets_G)
        looked_at_G = is_on_G | self.plan.is_in({*state.accused})
        is_other_G = looked_at_G & (lacking_G > math.log1p(self.plan.tolerance) + (SURE + 1) * newest.noise_G)
        if (is_other_G | does_harm_G).any():
            return _with(state, onset_us=max(state.onset_us, start_us))
        return state

    def _blend_in_force(
        self, state: LoopState, seen: Seen, now_us: int, judged: NeededOffsets, is_insufficient: bool
    ) -> _Result:
        moved_G = ~self.plan.is_in({*state.accused}) & is_beyond(judged, _MOST_MOVED, SURE + 1)
        if moved_G.any():
            reason = f"{self.plan.named(moved_G)}, which no alarm named, is off by more than {_MOST_MOVED:.0%}"
            return self._escalated(state, seen, now_us, reason)
        weight = state.history[-1].blend_weight
        following = self.plan.blend.next_weight(weight, drift_intensity(seen.readings))
        if not following:
            return self._ended(state, seen, now_us, "the drift is over")
        if following != weight:
            return self._blended(state, seen, now_us, following, "adjust")
        if is_insufficient:
            return self._escalated(state, seen, now_us, "the other bundle does not suffice")
        return self._renewed(state, now_us)

    # --- what is done

    def _offset(
        self, state: LoopState, seen: Seen, now_us: int, offsets_G: _Floats, kind: DecisionKind, reason: str
    ) -> _Result:
        pairs = zip(self.plan.segments, offsets_G.tolist(), strict=True)
        values = {str(value): offset for value, offset in pairs if offset}
        correction = self._new(state, seen, now_us, reason, {self.plan.action: {self.plan.feature: values}})
        if kind == "apply":
            return self._proposed_or_applied(state, seen, now_us, correction)
        return self._applied(_with(state, num_adjusted=state.num_adjusted + 1), seen, now_us, correction, kind)

    def _blended(self, state: LoopState, seen: Seen, now_us: int, weight: float, kind: DecisionKind) -> _Result:
        assert self.plan.blend_bundle is not None
        reason = f"drift of {drift_intensity(seen.readings):.2f}: {weight:.0%} of {self.plan.blend_bundle}"
        blend = Blend(bundle=self.plan.blend_bundle, weight=weight)
        correction = self._new(state, seen, now_us, reason, {}, blend)
        if kind == "apply":
            return self._proposed_or_applied(state, seen, now_us, correction)
        return self._applied(state, seen, now_us, correction, kind)

    def _new(
        self, state: LoopState, seen: Seen, now_us: int, reason: str,
        offsets: Mapping[str, Mapping[str, Mapping[str, float]]], blend: Blend | None = None,
    ) -> Correction:  # fmt: skip
        return Correction(
            id=f"{OWN}{now_us}-{state.sequence + 1}", bundle_id=seen.bundle_id, created_us=now_us,
            expires_us=now_us + self.plan.lifetime_us, reason=reason[:1000], log_odds_offsets=offsets, blend=blend,
        )  # fmt: skip

    def _proposed_or_applied(self, state: LoopState, seen: Seen, now_us: int, correction: Correction) -> _Result:
        if self.plan.mode == "act":
            return self._applied(state, seen, now_us, correction, "apply")
        proposed = _with(state, phase="waiting", proposal=correction)
        return _decided(proposed, now_us, "propose", correction.reason, correction)

    def _applied(
        self, state: LoopState, seen: Seen, now_us: int, correction: Correction, kind: DecisionKind
    ) -> _Result:
        if seen.other_correction is not None:
            reason = f"{seen.other_correction} stands in the folder, which is not the loop's own: {correction.reason}"
            return self._paged(_removed(state, now_us), now_us, reason)
        if kind == "apply":
            state = _with(state, is_verified=False, verify_by_us=now_us + self.plan.verify_us, num_adjusted=0)
        history = (*state.history, self.plan.in_force_of(correction))
        applied = _with(state, phase="in_force", correction=correction, proposal=None, history=history)
        return _decided(applied, now_us, kind, correction.reason, correction)

    def _renewed(self, state: LoopState, now_us: int) -> _Result:
        known = state.correction
        assert known is not None
        if known.expires_us - now_us > self.plan.lifetime_us // 2:
            return state, ()
        longer = known.model_copy(update={"created_us": now_us, "expires_us": now_us + self.plan.lifetime_us})
        return _decided(_with(state, correction=longer), now_us, "renew", "it is still needed", longer)

    def _fallen_back(self, state: LoopState, seen: Seen, now_us: int, *, is_approved: bool = False) -> _Result:
        previous = seen.previous_bundle_id
        if not self.plan.may_fall_back or previous is None:
            return self._paged(state, now_us, "there is nothing left to try")
        reason = f"back from bundle {seen.bundle_id} to {previous}"
        if self.plan.mode != "act" and not is_approved:
            return self._proposed_or_applied(state, seen, now_us, self._new(state, seen, now_us, reason, {}))
        back = _with(
            state, phase="in_force", mitigation="fallback", correction=None, proposal=None, bundle_id=previous,
            history=(InForce(from_us=now_us),), onset_us=now_us, verify_by_us=now_us + self.plan.verify_us,
        )  # fmt: skip
        return _decided(back, now_us, "fall_back", reason, bundles=(seen.bundle_id, previous))

    def _escalated(self, state: LoopState, seen: Seen, now_us: int, reason: str) -> _Result:
        following = _with(_removed(state, now_us), phase="watching", mitigation=self.plan.after(state.mitigation))
        following, decisions = _decided(following, now_us, "revert", reason, state.correction)
        following, more = self._watching(following, seen, now_us)
        return following, decisions + more

    def _ended(self, state: LoopState, seen: Seen, now_us: int, reason: str) -> _Result:
        return self._quiet(_removed(state, now_us), seen, now_us, "end", reason, state.correction)

    def _paged(self, state: LoopState, now_us: int, reason: str) -> _Result:
        return _decided(_with(state, phase="left_to_people", proposal=None), now_us, "page", reason)

    def _stopped(self, state: LoopState, now_us: int) -> _Result:
        if state.phase == "quiet":
            return state, ()
        history = _removed(state, now_us).history
        still = LoopState(sequence=state.sequence, bundle_id=state.bundle_id, history=history, onset_us=state.onset_us)
        return _decided(still, now_us, "stop", "the loop is switched off", state.correction)

    def _quiet(
        self, state: LoopState, seen: Seen, now_us: int, kind: DecisionKind, reason: str,
        correction: Correction | None = None,
    ) -> _Result:  # fmt: skip
        quiet = LoopState(
            sequence=state.sequence, bundle_id=state.bundle_id, history=state.history, onset_us=seen.settled_us
        )
        return _decided(quiet, now_us, kind, reason, correction)

    def _caught_up(self, state: LoopState, seen: Seen, now_us: int) -> _Result:
        """What has happened since: another bundle, a correction's end."""
        decisions: tuple[Decision, ...] = ()
        if state.bundle_id not in (None, seen.bundle_id):
            since_us = seen.answers_since_us or now_us
            fresh = LoopState(sequence=state.sequence, history=(InForce(from_us=since_us),), onset_us=since_us)
            if state.phase != "quiet":
                reason = f"bundle {seen.bundle_id} answers, for which it was not made"
                fresh, decisions = _decided(fresh, now_us, "end", reason, state.correction)
            state = fresh
        state = _with(state, bundle_id=seen.bundle_id)
        known = state.correction
        if known is not None and now_us >= known.expires_us:
            history = (*state.history, InForce(from_us=known.expires_us))
            gone = _with(state, phase="watching", correction=None, history=history)
            state, more = _decided(gone, now_us, "expire", f"{known.id} was not renewed", known)
            decisions += more
            if not state.is_verified:
                state, more = self._paged(state, now_us, f"{known.id} could not be verified")
                decisions += more
        from_us = seen.settled_us - self.plan.memory_us
        first = max((k for k, entry in enumerate(state.history) if entry.from_us <= from_us), default=0)
        return _with(state, history=state.history[first:]), decisions


def _with(state: LoopState, **changes: Any) -> LoopState:
    return state.model_copy(update=changes)


def _removed(state: LoopState, now_us: int) -> LoopState:
    if state.correction is None:
        return state
    return _with(state, correction=None, history=(*state.history, InForce(from_us=now_us)))


def _decided(
    state: LoopState, now_us: int, kind: DecisionKind, reason: str, correction: Correction | None = None,
    *, bundles: tuple[str, str] | None = None, numbers: dict[str, float] | None = None,
) -> _Result:  # fmt: skip
    decision = Decision(
        sequence=state.sequence + 1, now_us=now_us, kind=kind, reason=reason, correction=correction, bundles=bundles,
        numbers=numbers or {},
    )  # fmt: skip
    return _with(state, sequence=decision.sequence), (decision,)
