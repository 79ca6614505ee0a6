"""The last rung: the previous bundle answers again, and after it people are called."""

from __future__ import annotations

from typing import final

from rankwell.mitigation.mitigation_state import InForce, LoopState
from rankwell.mitigation.rung import Rung
from rankwell.mitigation.turn import Decided, Turn, decided

__all__ = ["FallbackRung"]


@final
class FallbackRung(Rung):
    """Goes back once, and judges the bundle that answers then."""

    def watching(self, turn: Turn, state: LoopState) -> Decided:
        """See `Rung`."""
        if not any(map(turn.plan.accuses, turn.seen.readings)):
            return state, ()
        previous = turn.seen.previous_bundle_id
        if not turn.plan.may_fall_back or previous is None or previous in state.left_bundles:
            return turn.paged(state, "there is nothing left to try")
        if turn.plan.mode != "act":
            return turn.proposed_or_applied(state, turn.correction(state, _reason(turn)))
        return self.approved(turn, state)

    def is_needed(self, turn: Turn, state: LoopState) -> bool:
        """See `Rung`."""
        del turn, state
        return True

    def approved(self, turn: Turn, state: LoopState) -> Decided:
        """See `Rung`."""
        previous = turn.seen.previous_bundle_id
        if previous is None:
            return turn.paged(state, "there is no bundle to go back to any more")
        back = state.model_copy(
            update={
                "phase": "in_force", "mitigation": "fallback", "correction": None, "proposal": None,
                "bundle_id": previous, "history": (InForce(from_us=turn.now_us),), "onset_us": turn.now_us,
                "verify_by_us": turn.now_us + turn.plan.verify_us,
                "left_bundles": (*state.left_bundles, turn.seen.bundle_id),
            }
        )  # fmt: skip
        bundles = turn.seen.bundle_id, previous
        return decided(back, turn.now_us, "fall_back", _reason(turn), state.proposal, bundles=bundles)

    def in_force(self, turn: Turn, state: LoopState) -> Decided:
        """See `Rung`."""
        plan = turn.plan
        judged = turn.evidence(state).of_now()
        accused_G = plan.is_in({*state.accused})
        is_enough = bool(accused_G.any() and (judged.expected_G[accused_G] >= plan.verify_clicks).all())
        is_off = bool((judged.is_beyond(plan.tolerance) & accused_G).any())
        if is_enough and not is_off:
            return turn.quiet(state, "keep", "the previous bundle is calibrated")
        if is_enough or turn.now_us >= state.verify_by_us:
            reason = "the previous bundle is off, too" if is_off else "too few clicks to judge the previous bundle"
            return turn.paged(state, reason)
        return state, ()


def _reason(turn: Turn) -> str:
    return f"back from bundle {turn.seen.bundle_id} to {turn.seen.previous_bundle_id}"
