"""The logging policy: what is shown where, with the probability of it.

Letters in names: R requests · P jobs offered to one request (a rectangle) · K positions of one request (a rectangle)
· N candidates that retrieval let through · L positions that are filled.

In production order (best first) candidate b of N would stand at position b, and the first L would be shown. With
probability ε (one coin a request) the declared exploration slots up to L are filled anew: by a uniformly random
ordered draw, without replacement, from the m candidates that would have stood in them or not at all. So, for an
exploration slot k::

    propensity(b, k) = ε / m + (1 - ε) · [b = k]    for those m candidates;   0 for all others
    m = number of exploration slots ≤ L  +  N - L

and 1 at its own position for a candidate outside of them. The sum over candidates is 1 for each position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from rankwell.simulation.population import Floats, Ints

__all__ = ["Shown", "SlotExploration"]


@final
@dataclass(frozen=True, slots=True)
class Shown:
    """Which of the candidates stand where: column `choice_RK` of the request's row, valid where ``position ≤ length``.

    `propensity_RK` is the marginal probability of this candidate at this position, given the production order.
    """

    choice_RK: Ints
    propensity_RK: Floats
    length_R: Ints

    @property
    def filled_RK(self) -> NDArray[np.bool_]:
        """Whether there is a candidate at the position."""
        filled: NDArray[np.bool_] = np.arange(self.choice_RK.shape[1]) < self.length_R[:, None]
        return filled


@final
@dataclass(frozen=True, slots=True)
class SlotExploration:
    """Show in production order, and explore in declared slots.

    Args:
        slots: 1-based positions, ascending.
        rate: ε, the probability that a request explores.
    """

    slots: tuple[int, ...]
    rate: float

    def marginals(self, num_retrieved: int, length: int) -> NDArray[np.float64]:
        """The marginal propensity of each candidate (row b - 1, in production order) at each position (column k - 1).

        Args:
            num_retrieved: N ≥ `length`.
            length: L.

        >>> SlotExploration(slots=(1,), rate=0.5).marginals(3, 2).round(2)
        array([[0.75, 0.  ],
               [0.  , 1.  ],
               [0.25, 0.  ]])
        """
        propensity_NL = np.eye(num_retrieved, length)
        slots = [slot for slot in self.slots if slot <= length]
        drawable = np.array([rank in slots or rank > length for rank in range(1, num_retrieved + 1)])
        for slot in slots:
            propensity_NL[:, slot - 1] *= 1 - self.rate
            propensity_NL[drawable, slot - 1] += self.rate / drawable.sum()
        return propensity_NL

    def show(
        self, production_RP: Floats, passed_RP: NDArray[np.bool_], slots_R: Ints, rng: np.random.Generator
    ) -> Shown:
        """Rank and explore.

        Args:
            production_RP: What the production order descends by.
            passed_RP: Which entries are candidates at all; at least one a row.
            slots_R: How many positions the page has.
            rng: Where coins and draws come from.
        """
        num_requests = len(slots_R)
        order_RP = np.argsort(np.where(passed_RP, -production_RP, np.inf), axis=1)
        retrieved_R = passed_RP.sum(axis=1)
        length_R = np.minimum(retrieved_R, slots_R)
        width = int(min(slots_R.max(initial=1), passed_RP.shape[1]))
        choice_RK = order_RP[:, :width].copy()
        propensity_RK = np.ones((num_requests, width), dtype=np.float32)

        slot_S = np.array([slot for slot in self.slots if slot <= width], dtype=np.int64)
        num_slots_R = np.searchsorted(slot_S, length_R, side="right")
        drawable_R = num_slots_R + retrieved_R - length_R
        explored = np.flatnonzero((rng.random(num_requests) < self.rate) & (num_slots_R > 0))
        drawn = self._draw(slot_S, retrieved_R[explored], length_R[explored], passed_RP.shape[1], rng)
        for place, slot in enumerate(slot_S.tolist()):
            in_page_R = slot <= length_R
            explores = place < num_slots_R[explored]
            rows = explored[explores]
            base_rank = drawn[explores, place]
            choice_RK[rows, slot - 1] = order_RP[rows, base_rank]
            chance_R = self.rate / np.maximum(drawable_R, 1)
            stays_R = np.ones(num_requests, dtype=np.bool_)
            stays_R[rows] = base_rank == slot - 1
            propensity_RK[:, slot - 1] = np.where(in_page_R, chance_R + (1 - self.rate) * stays_R, 1.0)
        return Shown(choice_RK=choice_RK, propensity_RK=propensity_RK, length_R=length_R)

    @staticmethod
    def _draw(slot_S: Ints, retrieved_R: Ints, length_R: Ints, width: int, rng: np.random.Generator) -> Ints:
        """For each request the 0-based production ranks of its drawable candidates, shuffled, as far as slots go."""
        rank = np.arange(1, width + 1)
        in_tail = (rank > length_R[:, None]) & (rank <= retrieved_R[:, None])
        drawable = in_tail | (np.isin(rank, slot_S) & (rank <= length_R[:, None]))
        key = np.where(drawable, rng.random(drawable.shape), np.inf)
        return np.argsort(key, axis=1)[:, : len(slot_S)]
