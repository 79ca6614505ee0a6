"""One turn of a mitigation loop: what it may do, what it sees, and what it can decide of where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from rankwell.mitigation.attributed_rows import RowChanges
from rankwell.mitigation.evidence import Evidence, Seen
from rankwell.mitigation.mitigation_plan import MitigationPlan
from rankwell.mitigation.mitigation_state import Decision, DecisionKind, InForce, LoopState
from rankwell.serving.correction import Blend, Correction

__all__ = ["OWN", "Decided", "Turn", "decided", "removed"]

OWN: Final = "mitigation-"
"""What the ids of a loop's corrections begin with; it leaves others' alone."""

_LONGEST_REASON: Final = 1000
Decided = tuple[LoopState, tuple[Decision, ...]]
"""Where the loop stands after it, and what was decided, in order."""


def decided(
    state: LoopState,
    now_us: int,
    kind: DecisionKind,
    reason: str,
    correction: Correction | None = None,
    *,
    bundles: tuple[str, str] | None = None,
    numbers: Mapping[str, float] | None = None,
) -> Decided:
    """A state after one decision; see `Decision`."""
    decision = Decision(
        sequence=state.sequence + 1, now_us=now_us, kind=kind, reason=reason, correction=correction, bundles=bundles,
        numbers=numbers or {},
    )  # fmt: skip
    return state.model_copy(update={"sequence": decision.sequence}), (decision,)


def removed(state: LoopState, now_us: int) -> LoopState:
    """A state in which no correction is in force any more."""
    if state.correction is None:
        return state
    return state.model_copy(update={"correction": None, "history": (*state.history, InForce(from_us=now_us))})


@final
@dataclass(frozen=True, slots=True)
class Turn:
    """What the rungs of the ladder have in common.

    Args:
        plan: What may be done.
        seen: What there is to see.
        now_us: UTC microseconds, by the clock that servers go by.
    """

    plan: MitigationPlan
    seen: Seen
    now_us: int

    def evidence(self, state: LoopState) -> Evidence:
        """What rows say, from where the loop stands."""
        return Evidence(self.plan, state, self.seen)

    def decided(
        self,
        state: LoopState,
        kind: DecisionKind,
        reason: str,
        correction: Correction | None = None,
        *,
        numbers: Mapping[str, float] | None = None,
    ) -> Decided:
        """A state after one decision of now."""
        return decided(state, self.now_us, kind, reason, correction, numbers=numbers)

    def correction(
        self,
        state: LoopState,
        reason: str,
        *,
        log_odds_offsets: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
        wide_changes: RowChanges | None = None,
        blend: Blend | None = None,
    ) -> Correction:
        """A new one of the bundle that answers, with its end."""
        return Correction(
            id=f"{OWN}{self.now_us}-{state.sequence + 1}", bundle_id=self.seen.bundle_id, created_us=self.now_us,
            expires_us=self.now_us + self.plan.lifetime_us, reason=reason[:_LONGEST_REASON],
            log_odds_offsets=log_odds_offsets or {}, wide_changes=wide_changes or {}, blend=blend,
        )  # fmt: skip

    def proposed_or_applied(self, state: LoopState, correction: Correction) -> Decided:
        """What is new to an incident: applied, or proposed where people are to be asked."""
        if self.plan.mode == "act":
            return self.applied(state, correction, "apply")
        proposed = state.model_copy(update={"phase": "waiting", "proposal": correction})
        return self.decided(proposed, "propose", correction.reason, correction)

    def applied(self, state: LoopState, correction: Correction, kind: DecisionKind) -> Decided:
        """A correction in force, unless somebody else's stands in its place."""
        if self.seen.other_correction is not None:
            other = self.seen.other_correction
            reason = f"{other} stands in the folder, which is not the loop's own: {correction.reason}"
            return self.paged(removed(state, self.now_us), reason)
        changes: dict[str, object] = {
            "phase": "in_force", "correction": correction, "proposal": None,
            "history": (*state.history, self.plan.in_force_of(correction)),
        }  # fmt: skip
        if kind == "apply":
            changes |= {"is_verified": False, "verify_by_us": self.now_us + self.plan.verify_us, "num_adjusted": 0}
        return self.decided(state.model_copy(update=changes), kind, correction.reason, correction)

    def renewed(self, state: LoopState) -> Decided:
        """What is in force, for longer, once half its time is over."""
        known = state.correction
        assert known is not None
        if known.expires_us - self.now_us > self.plan.lifetime_us // 2:
            return state, ()
        times = {"created_us": self.now_us, "expires_us": self.now_us + self.plan.lifetime_us}
        longer = known.model_copy(update=times)
        return self.decided(state.model_copy(update={"correction": longer}), "renew", "it is still needed", longer)

    def escalated(self, state: LoopState, reason: str) -> Decided:
        """What is in force is taken back, and the next rung is in turn."""
        following = removed(state, self.now_us).model_copy(
            update={"phase": "watching", "mitigation": self.plan.after(state.mitigation)}
        )
        return self.decided(following, "revert", reason, state.correction)

    def ended(self, state: LoopState, reason: str) -> Decided:
        """It is no longer needed."""
        return self.quiet(removed(state, self.now_us), "end", reason, state.correction)

    def paged(self, state: LoopState, reason: str) -> Decided:
        """People have to see to it."""
        left = state.model_copy(update={"phase": "left_to_people", "proposal": None})
        return self.decided(left, "page", reason)

    def quiet(self, state: LoopState, kind: DecisionKind, reason: str, correction: Correction | None = None) -> Decided:
        """The incident is over."""
        onset_us = max(state.onset_us, self.seen.settled_us)
        quiet = state.at_rest(bundle_id=state.bundle_id, history=state.history, onset_us=onset_us)
        return self.decided(quiet, kind, reason, correction)
