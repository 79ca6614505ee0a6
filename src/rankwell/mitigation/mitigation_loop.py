"""Detect, choose, apply, verify; keep, revert or escalate: a function of where it stands, what is seen, and the time.

It reads no file and no clock: `rankwell.mitigation.mitigation_folder` does, and carries out what is decided. So every
decision can be replayed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, final

from rankwell.mitigation.blend_rung import BlendRung
from rankwell.mitigation.evidence import Seen
from rankwell.mitigation.fallback_rung import FallbackRung
from rankwell.mitigation.mitigation_plan import MitigationPlan
from rankwell.mitigation.mitigation_state import InForce, LoopState, MitigationKind
from rankwell.mitigation.offset_rung import OffsetRung
from rankwell.mitigation.rung import Rung
from rankwell.mitigation.turn import Decided, Turn, decided, removed
from rankwell.mitigation.upstream_drift import UpstreamDrift, known_drifts, near, that_are_over
from rankwell.mitigation.wide_rung import WideRung
from rankwell.serving.correction import Correction

__all__ = ["MitigationLoop"]

_RUNGS: Final[Mapping[MitigationKind, Rung]] = {
    "bias_correction": OffsetRung(), "wide_update": WideRung(), "blend": BlendRung(), "fallback": FallbackRung(),
}  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class MitigationLoop:
    """Decides what a plan allows.

    What is applied has an end, and is renewed while it is needed; what it is judged by, its `Rung` says.

    Args:
        plan: What it may do.

    Source: for changes in steps, each checked before the next, and undone first where in doubt: Beyer et al. 2016,
    "Site reliability engineering", §14 and §27.
    """

    plan: MitigationPlan

    def after(self, state: LoopState, seen: Seen, now_us: int) -> Decided:
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
            return _stopped(state, now_us)
        turn = Turn(self.plan, seen, now_us)
        state, decisions = _caught_up(turn, state)
        state, more = _accused(turn, state)
        decisions += more
        state, more = _returned(turn, state)
        if more:  # nothing that was seen until now says what is wrong from now on
            return state, decisions + more
        rung = _RUNGS[state.mitigation]
        match state.phase:
            case "watching":
                state, more = _watching(turn, state)
            case "waiting":
                state, more = _waiting(turn, state)
            case "in_force":
                state, more = rung.in_force(turn, state)
                if more and more[-1].kind == "revert":
                    decisions += more
                    state, more = _watching(turn, state)
            case "left_to_people" if state.correction is None and now_us >= state.last_alarm_us + self.plan.rest_us:
                state, more = turn.quiet(state, "pass", "no alarm stands any more")
            case _:
                more = ()
        return state, decisions + more

    def failed(self, state: LoopState, reason: str, now_us: int) -> Decided:
        """Where it stands when what it decided could not be carried out: people have to see to it.

        Which bundle answers is not known then, and is taken to be the one that is seen next.
        """
        left = state.model_copy(update={"phase": "left_to_people", "proposal": None, "bundle_id": None})
        return decided(left, now_us, "fail", reason)

    def found(self, state: LoopState, correction: Correction | None, now_us: int, *, was_interrupted: bool) -> Decided:
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
                return state.model_copy(update={"correction": correction}), ()
            taken = state.model_copy(
                update={
                    "phase": "in_force", "correction": correction, "proposal": None, "is_verified": False,
                    "mitigation": _kind_of(correction),
                    "bundle_id": correction.bundle_id,
                    "history": (*state.history, self.plan.in_force_of(correction)),
                    "verify_by_us": now_us + self.plan.verify_us,
                }
            )  # fmt: skip
            return decided(taken, now_us, "adopt", f"{correction.id} is in the folder")
        if known is None:
            return state, ()
        phase, by = (
            ("watching", "before an interruption") if was_interrupted else ("left_to_people", "by somebody else")
        )
        gone = removed(state, now_us).model_copy(update={"phase": phase})
        return decided(gone, now_us, "adopt", f"{known.id} was removed {by}", known)


def _kind_of(correction: Correction) -> MitigationKind:
    if correction.blend is not None:
        return "blend"
    return "wide_update" if correction.wide_changes else "bias_correction"


def _caught_up(turn: Turn, state: LoopState) -> Decided:
    """What has happened since: another bundle, a correction's end."""
    seen, now_us = turn.seen, turn.now_us
    state, decisions = _of_the_bundle(turn, state)
    known = state.correction
    if known is not None and now_us >= known.expires_us:
        history = (*state.history, InForce(from_us=known.expires_us))
        gone = state.model_copy(update={"phase": "watching", "correction": None, "history": history})
        state, more = turn.decided(gone, "expire", f"{known.id} was not renewed", known)
        decisions += more
        if not state.is_verified:
            state, more = turn.paged(state, f"{known.id} could not be verified")
            decisions += more
    from_us = seen.settled_us - turn.plan.memory_us
    first = max((k for k, entry in enumerate(state.history) if entry.from_us <= from_us), default=0)
    return state.model_copy(update={"history": state.history[first:]}), decisions


def _of_the_bundle(turn: Turn, state: LoopState) -> Decided:
    """What was known is of the bundle that answered then; of another one nothing is."""
    bundle_id = turn.seen.bundle_id
    if state.bundle_id in (None, bundle_id):
        return state.model_copy(update={"bundle_id": bundle_id}), ()
    since_us = turn.seen.answers_since_us or turn.now_us
    fresh = state.at_rest(bundle_id=bundle_id, history=(InForce(from_us=since_us),), onset_us=since_us)
    if state.phase == "quiet":
        return fresh, ()
    return turn.decided(fresh, "end", f"bundle {bundle_id} answers, for which it was not made", state.correction)


def _accused(turn: Turn, state: LoopState) -> Decided:
    """Whom alarms about the bundle that answers name; the first one opens an incident."""
    since_us = turn.seen.answers_since_us
    if state.phase == "quiet":
        since_us = max(since_us, state.onset_us)
    is_heard = turn.plan.accuses if turn.seen.rows is None else turn.plan.concerns
    alarms = [r for r in turn.seen.readings if is_heard(r) and r.window_end_us > since_us]
    if not alarms:
        return state, ()
    named = {reading.segment for reading in alarms if turn.plan.accuses(reading)} & {*turn.plan.segments}
    last_us = max(reading.window_end_us for reading in alarms)
    state = state.model_copy(update={"accused": tuple(sorted({*state.accused, *named})), "last_alarm_us": last_us})
    if state.phase != "quiet":
        return state, ()
    onset_us = max(min(reading.window_start_us for reading in alarms), state.onset_us)
    first = alarms[0]
    return turn.decided(
        state.model_copy(update={"phase": "watching", "onset_us": onset_us, "drifts": near(state.drifts, onset_us)}),
        "detect",
        f"{len(alarms)} alarms; {first.name} of {first.column} in segment {first.segment}: {first.value:.3g} "
        f"{first.unit}, limit {first.limit:.3g}",
    )  # fmt: skip


def _returned(turn: Turn, state: LoopState) -> Decided:
    """Features that drifted before anything was applied; when all are what they were, what they brought about is over.

    What drifts under a correction is not looked at: what is shown changes with a correction, too.
    """
    pane, readings, is_quiet = turn.seen.pane, turn.seen.readings, state.phase == "quiet"
    if pane is None:
        return state, ()
    if state.phase in ("quiet", "watching", "waiting"):
        drifts = known_drifts(state.drifts, readings, pane)
        state = state.model_copy(update={"drifts": drifts if is_quiet else near(drifts, state.onset_us)})
    drifting = [drift for drift in state.drifts if drift.returned_us is None]
    over = that_are_over(drifting, readings, pane)
    if not over or (not is_quiet and len(over) < len(drifting)):
        return state, ()
    keys = {drift.key for drift in over}
    drifts = (*(drift for drift in state.drifts if drift.key not in keys), *over)
    since_us = max(state.onset_us, *(drift.returned_us or 0 for drift in over))
    state = state.model_copy(update={"drifts": drifts, "onset_us": since_us})  # rows before say nothing of now
    reason, proposal = _said(over), state.proposal
    if is_quiet:
        return state, ()
    if state.correction is not None:
        return turn.ended(state, reason)
    if proposal is not None:
        return turn.quiet(state, "withdraw", f"{proposal.id}: {reason}", proposal)
    return turn.quiet(state, "pass", reason)


def _said(drifts: Sequence[UpstreamDrift]) -> str:
    began_us = min(drift.onset_us for drift in drifts)
    columns = ", ".join(sorted({drift.bins.name for drift in drifts}))
    return f"{columns}: again as before {datetime.fromtimestamp(began_us / 1e6, UTC):%a %H:%M} UTC, when it drifted"


def _watching(turn: Turn, state: LoopState) -> Decided:
    if turn.now_us >= state.last_alarm_us + turn.plan.rest_us:
        return turn.quiet(state, "pass", "no alarm stands, and clicks are as expected")
    found = _RUNGS[state.mitigation].watching(turn, state)
    following = turn.plan.after(state.mitigation)
    # Where no offset is called for, single keys may be off; where no key is, there is still the rung above.
    if found[1] or "wide_update" not in (state.mitigation, following):
        return found
    climbed = _RUNGS[following].watching(turn, state.model_copy(update={"mitigation": following}))
    return climbed if climbed[1] else found


def _waiting(turn: Turn, state: LoopState) -> Decided:
    proposal, rung = state.proposal, _RUNGS[state.mitigation]
    assert proposal is not None
    if proposal.id in turn.seen.refused:
        left = state.model_copy(update={"phase": "left_to_people", "proposal": None})
        return turn.decided(left, "withdraw", f"{proposal.id} was refused", proposal)
    if proposal.id in turn.seen.approved and turn.now_us < proposal.expires_us and turn.plan.mode == "ask":
        return rung.approved(turn, state)
    is_needed = rung.is_needed(turn, state)
    if turn.now_us >= proposal.expires_us or not is_needed:
        why = "nobody approved it in time" if is_needed else "it is no longer needed"
        again = state.model_copy(update={"phase": "watching", "proposal": None})
        return turn.decided(again, "withdraw", f"{proposal.id}: {why}", proposal)
    return state, ()


def _stopped(state: LoopState, now_us: int) -> Decided:
    if state.phase == "quiet":
        return state, ()
    history = removed(state, now_us).history
    still = state.at_rest(bundle_id=state.bundle_id, history=history, onset_us=state.onset_us)
    return decided(still, now_us, "stop", "the loop is switched off", state.correction)
