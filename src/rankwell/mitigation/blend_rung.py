"""The second rung, where the plan names another bundle: mixed in as much as the world drifts."""

from __future__ import annotations

from typing import Final, final

from rankwell.mitigation.blend import drift_intensity
from rankwell.mitigation.evidence import SURE
from rankwell.mitigation.mitigation_state import DecisionKind, LoopState
from rankwell.mitigation.rung import Rung, applied_as_proposed
from rankwell.mitigation.turn import Decided, Turn
from rankwell.serving.correction import Blend

__all__ = ["BlendRung"]

_MOST_MOVED: Final = 0.02


@final
class BlendRung(Rung):
    """A weight that follows the drift, and is taken back where it puts segments off that were right."""

    def watching(self, turn: Turn, state: LoopState) -> Decided:
        """See `Rung`."""
        if not any(map(turn.plan.accuses, turn.seen.readings)):
            return state, ()
        weight = turn.plan.blend.next_weight(0.0, drift_intensity(turn.seen.readings))
        return _applied(turn, state, weight, "apply") if weight else (state, ())

    def is_needed(self, turn: Turn, state: LoopState) -> bool:
        """See `Rung`."""
        del turn, state
        return True

    def approved(self, turn: Turn, state: LoopState) -> Decided:
        """See `Rung`."""
        return applied_as_proposed(turn, state)

    def in_force(self, turn: Turn, state: LoopState) -> Decided:
        """See `Rung`."""
        plan = turn.plan
        judged = turn.evidence(state).of_now()
        accused_G = plan.is_in({*state.accused})
        moved_G = ~accused_G & judged.is_beyond(_MOST_MOVED, SURE + 1)
        if moved_G.any():
            reason = f"{plan.named(moved_G)}, which no alarm named, is off by more than {_MOST_MOVED:.0%}"
            return turn.escalated(state, reason)
        weight = state.history[-1].blend_weight
        following = plan.blend.next_weight(weight, drift_intensity(turn.seen.readings))
        if not following:
            return turn.ended(state, "the drift is over")
        if following != weight:
            return _applied(turn, state, following, "adjust")
        is_enough = bool(accused_G.any() and (judged.expected_G[accused_G] >= plan.verify_clicks).all())
        if is_enough and (judged.is_beyond(plan.tolerance) & accused_G).any():
            return turn.escalated(state, "the other bundle does not suffice")
        return turn.renewed(state)


def _applied(turn: Turn, state: LoopState, weight: float, kind: DecisionKind) -> Decided:
    other = turn.plan.blend_bundle
    assert other is not None
    reason = f"drift of {drift_intensity(turn.seen.readings):.2f}: {weight:.0%} of {other}"
    correction = turn.correction(state, reason, blend=Blend(bundle=other, weight=weight))
    return turn.proposed_or_applied(state, correction) if kind == "apply" else turn.applied(state, correction, kind)
