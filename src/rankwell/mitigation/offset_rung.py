"""The first rung: an offset in log-odds for each segment that is off.

Letters: G segments.
"""

from __future__ import annotations

import math
from typing import final

import numpy as np
from numpy.typing import NDArray

from rankwell.mitigation.bias_correction import needed_offsets
from rankwell.mitigation.evidence import SURE, AsServed, served_spans
from rankwell.mitigation.mitigation_state import Decision, DecisionKind, LoopState
from rankwell.mitigation.rung import Rung, applied_as_proposed
from rankwell.mitigation.turn import Decided, Turn

__all__ = ["OffsetRung"]

_Floats = NDArray[np.float64]
_Booleans = NDArray[np.bool_]


@final
class OffsetRung(Rung):
    """Offsets that follow what clicks say.

    They are judged by rows that were served under them alone: with a the log-odds that are lacking under an offset o,
    it does harm if |a| > |a + o| beyond doubt, a + o being what would be lacking without it; and it suffices if their
    ratio is within the tolerance.
    """

    def watching(self, turn: Turn, state: LoopState) -> Decided:
        """See `Rung`."""
        evidence = turn.evidence(state)
        needed = evidence.needed()
        offsets_G = evidence.next_offsets(needed)
        if not offsets_G.any():
            return state, ()
        return _applied(turn, state, offsets_G, "apply", evidence.reason(needed, offsets_G))

    def is_needed(self, turn: Turn, state: LoopState) -> bool:
        """See `Rung`."""
        evidence = turn.evidence(state)
        return bool(evidence.next_offsets(evidence.needed()).any())

    def approved(self, turn: Turn, state: LoopState) -> Decided:
        """See `Rung`."""
        return applied_as_proposed(turn, state)

    def in_force(self, turn: Turn, state: LoopState) -> Decided:
        """See `Rung`."""
        plan = turn.plan
        judged = turn.evidence(state).of_now()
        offsets_G = turn.evidence(state).offsets_G
        is_on_G = offsets_G != 0
        lacking_G, without_G = judged.lacking.needed_G, judged.lacking.needed_G + offsets_G
        does_harm_G = is_on_G & (np.abs(lacking_G) - np.abs(without_G) > 2 * SURE * judged.lacking.noise_G)
        if does_harm_G.any() and not state.is_verified:
            reason = f"with its offset {plan.named(does_harm_G)} is farther off than without"
            barred = {*state.barred, *np.array(plan.segments)[does_harm_G].tolist()}
            state = state.model_copy(update={"barred": tuple(sorted(barred))})
            kept_G = np.where(does_harm_G, 0.0, offsets_G)
            if kept_G.any():
                return _applied(turn, state, kept_G, "adjust", reason)
            return turn.escalated(state, reason)
        state, is_other_G = _since_a_change(turn, state, is_on_G, does_harm_G)
        evidence = turn.evidence(state)
        needed = evidence.needed()
        next_G = evidence.next_offsets(needed, is_other_G)
        if not next_G.any():
            return turn.ended(state, "clicks are as expected without it")
        is_enough = bool((judged.expected_G[is_on_G] >= plan.verify_clicks).all())
        is_off_G = is_on_G & judged.is_beyond(plan.tolerance)
        if is_enough and not is_off_G.any():
            state = state.model_copy(update={"num_adjusted": 0})
        noise_G = np.where(np.isfinite(needed.noise_G), needed.noise_G, 0.0)
        is_other_G = np.abs(next_G - offsets_G) > np.maximum(noise_G / 2, plan.bias.smallest / 2)
        if (is_other_G | ((next_G == 0) & is_on_G)).any():
            if state.num_adjusted < plan.most_adjusted:
                return _applied(turn, state, next_G, "adjust", evidence.reason(needed, next_G))
            return turn.escalated(state, f"{state.num_adjusted} adjustments did not suffice")
        if is_enough and is_off_G.any():
            return turn.escalated(state, f"{plan.named(is_off_G)} is off all the same")
        return _kept(turn, state, judged, is_on_G, is_enough=is_enough)


def _applied(turn: Turn, state: LoopState, offsets_G: _Floats, kind: DecisionKind, reason: str) -> Decided:
    pairs = zip(turn.plan.segments, offsets_G.tolist(), strict=True)
    values = {str(value): offset for value, offset in pairs if offset}
    offsets = {turn.plan.action: {turn.plan.feature: values}}
    correction = turn.correction(state, reason, log_odds_offsets=offsets)
    if kind == "apply":
        return turn.proposed_or_applied(state, correction)
    return turn.applied(state.model_copy(update={"num_adjusted": state.num_adjusted + 1}), correction, kind)


def _kept(turn: Turn, state: LoopState, judged: AsServed, is_on_G: _Booleans, *, is_enough: bool) -> Decided:
    decisions: tuple[Decision, ...] = ()
    if is_enough and not state.is_verified:
        reason = f"{turn.plan.named(is_on_G)} is within {turn.plan.tolerance:.0%}, as far as clicks tell"
        ratios = {f"ratio/{turn.plan.segments[g]}": float(judged.ratio_G[g]) for g in np.flatnonzero(is_on_G).tolist()}
        verified = state.model_copy(update={"is_verified": True})
        state, decisions = turn.decided(verified, "keep", reason, state.correction, numbers=ratios)
    if state.is_verified or turn.now_us < state.verify_by_us:
        state, more = turn.renewed(state)
        decisions += more
    return state, decisions


def _since_a_change(
    turn: Turn, state: LoopState, is_on_G: _Booleans, does_harm_G: _Booleans
) -> tuple[LoopState, _Booleans]:
    """Where the newest window shows another world than the offsets were made for; what was before it is forgotten."""
    evidence = turn.evidence(state)
    start_us = evidence.newest_window_us()
    newest = needed_offsets(served_spans(turn.plan, state, turn.seen, start_us))
    lacking_G = np.abs(newest.needed_G - evidence.offsets_G)
    looked_at_G = is_on_G | turn.plan.is_in({*state.accused})
    is_other_G = looked_at_G & (lacking_G > math.log1p(turn.plan.tolerance) + (SURE + 1) * newest.noise_G)
    is_other_G |= does_harm_G
    if is_other_G.any():
        changed_us = evidence.changed_us(start_us, newest.needed_G, is_other_G)
        state = state.model_copy(update={"onset_us": max(state.onset_us, changed_us)})
    return state, is_other_G
