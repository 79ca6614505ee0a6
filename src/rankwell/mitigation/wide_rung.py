"""The rung of single keys: weights of the wide part from the newest rows, where a concept has moved."""

from __future__ import annotations

from typing import Final, final

from rankwell.mitigation.evidence import SURE
from rankwell.mitigation.mitigation_state import Decision, DecisionKind, LoopState
from rankwell.mitigation.rung import Rung, applied_as_proposed
from rankwell.mitigation.turn import Decided, Turn
from rankwell.mitigation.wide_evidence import KeyChanges, MovedKeys, WideEvidence

__all__ = ["WideRung"]

_SURE_OF_GAIN: Final = 4.0
_SMALLEST: Final = 0.15
"""Of a weight, in log-odds: by less it is not changed, since as much is swing."""
_MOST_NAMED: Final = 5


@final
class WideRung(Rung):
    """A wide update, where an alarm about the action stands and the gain is sure.

    It stands after the offsets, which are the smaller means: a few numbers that are read at a glance, for any bundle.
    And before the blend and the fallback, which move every row for the sake of a few. No segment's offset brings back
    the clicks of one job; so it is asked too where an alarm stands and no offset is called for, and not only where
    offsets did not suffice.

    It is judged by the log loss of rows that were served under it, against what they would have had without.
    """

    def watching(self, turn: Turn, state: LoopState) -> Decided:
        """See `Rung`."""
        found = _moved(turn, state)
        if found is None:
            return state, ()
        evidence, moved = found
        return _applied(turn, state, evidence, _worth(moved.changes), "apply", _reason(turn, moved))

    def is_needed(self, turn: Turn, state: LoopState) -> bool:
        """See `Rung`."""
        return _moved(turn, state) is not None

    def approved(self, turn: Turn, state: LoopState) -> Decided:
        """See `Rung`."""
        return applied_as_proposed(turn, state)

    def in_force(self, turn: Turn, state: LoopState) -> Decided:
        """See `Rung`."""
        plan, evidence = turn.plan, _evidence(turn, state)
        if evidence is None:  # rows can't be read: what was found to do good goes on, and what was not ends
            return turn.renewed(state) if state.is_verified else (state, ())
        z, gain = evidence.served_gain(0)
        newest_z, _ = evidence.served_gain(turn.evidence(state).newest_window_us())
        if min(z, newest_z) < -(SURE + 1):
            reason = f"with it the loss is greater (z {min(z, newest_z):+.1f})"
            return turn.ended(state, reason) if state.is_verified else turn.escalated(state, reason)
        learned = evidence.wanted()
        wanted = _worth(learned)
        if not wanted and (learned or (state.is_verified and z < SURE)):
            return turn.ended(state, "nothing is off without it any more, as far as clicks tell")
        judged = turn.evidence(state).of_now()
        accused_G = plan.is_in({*state.accused})
        is_enough_G = judged.expected_G >= plan.verify_clicks
        is_off_G = accused_G & is_enough_G & judged.is_beyond(plan.tolerance, SURE + 1)
        if z > SURE and is_enough_G[accused_G].all() and not is_off_G.any():
            state = state.model_copy(update={"num_adjusted": 0})
        if _is_another(evidence.row_changes(wanted), state) and state.num_adjusted < plan.most_adjusted:
            again = state.model_copy(update={"num_adjusted": state.num_adjusted + 1})
            return _applied(turn, again, evidence, wanted, "adjust", f"{_named(wanted)}, by more rows")
        if state.is_verified and is_off_G.any():
            return turn.escalated(state, f"{plan.named(is_off_G)} is off all the same")
        return _kept(turn, state, z, gain)


def _evidence(turn: Turn, state: LoopState) -> WideEvidence | None:
    rows, update = turn.seen.rows, turn.plan.wide
    if rows is None or update is None:
        return None
    return WideEvidence(rows.kept(rows.times_us_n >= turn.evidence(state).from_us), state.history, update)


def _moved(turn: Turn, state: LoopState) -> tuple[WideEvidence, MovedKeys] | None:
    """What is to be changed, if it is sure and an alarm stands."""
    evidence = _evidence(turn, state)
    if evidence is None or not any(map(turn.plan.concerns, turn.seen.readings)):
        return None
    moved = evidence.moved()
    return (evidence, moved) if _worth(moved.changes) and moved.gain_z >= _SURE_OF_GAIN else None


def _worth(changes: KeyChanges) -> KeyChanges:
    large = {
        table: {key: change for key, change in keys.items() if abs(change) >= _SMALLEST}
        for table, keys in changes.items()
    }
    return {table: keys for table, keys in large.items() if keys}


def _applied(
    turn: Turn, state: LoopState, evidence: WideEvidence, changes: KeyChanges, kind: DecisionKind, reason: str
) -> Decided:
    state = state.model_copy(update={"mitigation": "wide_update"})
    correction = turn.correction(state, reason, wide_changes=evidence.row_changes(changes))
    return turn.proposed_or_applied(state, correction) if kind == "apply" else turn.applied(state, correction, kind)


def _is_another(wanted: dict[str, dict[str, dict[str, tuple[float, ...]]]], state: LoopState) -> bool:
    """Whether a weight is to be changed otherwise than it is; none at all is for the verdict to say."""
    now = state.history[-1].wide_changes
    flat = [
        {(part, table, key): sum(row) for part in of for table in of[part] for key, row in of[part][table].items()}
        for of in (wanted, now)
    ]
    keys = {*flat[0], *flat[1]}
    return bool(wanted) and max(abs(flat[0].get(key, 0.0) - flat[1].get(key, 0.0)) for key in keys) > _SMALLEST


def _kept(turn: Turn, state: LoopState, z: float, gain: float) -> Decided:
    decisions: tuple[Decision, ...] = ()
    if z > SURE and not state.is_verified:
        reason = f"with it the loss is less by {gain:.1f} nats (z {z:+.1f}) on what was served under it"
        verified = state.model_copy(update={"is_verified": True})
        numbers = {"gain": gain, "gain_z": z}
        state, decisions = turn.decided(verified, "keep", reason, state.correction, numbers=numbers)
    if state.is_verified or turn.now_us < state.verify_by_us:
        state, more = turn.renewed(state)
        decisions += more
    return state, decisions


def _reason(turn: Turn, moved: MovedKeys) -> str:
    gain = f"{moved.gain:.1f} nats (z {moved.gain_z:+.1f})"
    return f"{turn.plan.action} of {_named(moved.changes)}: later rows would have gained {gain} of log loss"


def _named(changes: KeyChanges) -> str:
    all_of_them = sorted(
        ((table, key, change) for table, keys in changes.items() for key, change in keys.items()),
        key=lambda one: -abs(one[2]),
    )
    words = ", ".join(f"{table} {key} {change:+.2f}" for table, key, change in all_of_them[:_MOST_NAMED])
    return words + (f" and {len(all_of_them) - _MOST_NAMED} more" if len(all_of_them) > _MOST_NAMED else "")
