"""A rung of the ladder that a mitigation loop climbs: one signature for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod

from rankwell.mitigation.mitigation_state import LoopState
from rankwell.mitigation.turn import Decided, Turn

__all__ = ["Rung"]


class Rung(ABC):
    """One kind of mitigation: when it is applied, and what becomes of it.

    A rung that does not suffice, or does harm, calls `Turn.escalated`, and the loop asks the next one at once.
    """

    @abstractmethod
    def watching(self, turn: Turn, state: LoopState) -> Decided:
        """Nothing is in force, and something is wrong: apply, leave it, or give it to people."""

    @abstractmethod
    def is_needed(self, turn: Turn, state: LoopState) -> bool:
        """Whether a proposal that waits for approval still has its reason."""

    @abstractmethod
    def approved(self, turn: Turn, state: LoopState) -> Decided:
        """What waited is applied."""

    @abstractmethod
    def in_force(self, turn: Turn, state: LoopState) -> Decided:
        """It was applied: keep, adjust, renew, end or escalate."""


def applied_as_proposed(turn: Turn, state: LoopState) -> Decided:
    """The proposal, from now on."""
    assert state.proposal is not None
    times = {"created_us": turn.now_us, "expires_us": turn.now_us + turn.plan.lifetime_us}
    return turn.applied(state, state.proposal.model_copy(update=times), "apply")
