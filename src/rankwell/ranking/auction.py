"""Who is shown for whose money: auctions over EVC = bid × p(click), and what they come to.

Letters: C candidates, flat over requests · n candidates sold.

An impression that is sold is priced by a probability. An advertiser who pays by the impression pays for p̂, whatever p
is: over-confidence is over-billing. One who pays by the click pays for clicks that happened, and a factor common to all
p̂ cancels in its price; what is left there is who wins: one over-confident ad takes slots from better ones.

Budgets and their pacing are not here: each request is sold by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rankwell.errors import RequestError

__all__ = ["Auction", "Sale", "Settlement", "first_price", "generalized_second_price", "second_price", "settle"]

Floats = npt.NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Sale:
    """What was sold, by request and slot.

    Args:
        row_n: int64, the candidates sold, as rows of the auction's arguments.
        slot_n: int64, the slot of each, 1 the best.
        price_n: float64 micros, of one impression or of one click.
        is_per_click: What is paid for.
    """

    row_n: Tensor
    slot_n: Tensor
    price_n: Tensor
    is_per_click: bool

    def __len__(self) -> int:
        return len(self.row_n)


class Auction(Protocol):
    """What every auction is: bids and probabilities in, a sale out; each request by itself.

    Slots go by EVC = bid × probability, ties by smaller item id. What is worth nothing, or less than the reserve, is
    not sold. A price is never above what the bid is worth by the probability given, so with true probabilities nobody
    pays more than the value, on average.
    """

    def __call__(
        self,
        bids_C: Tensor,
        probabilities_C: Tensor,
        *,
        item_ids_C: Tensor,
        request_C: Tensor,
        num_slots: int,
        reserve_micros: float,
    ) -> Sale:
        """The sale.

        Args:
            bids_C: Micros, what one click is worth to the bidder, ≥ 0.
            probabilities_C: Of a click, in [0, 1].
            item_ids_C: int64; they break ties.
            request_C: int64, the request of each candidate, in any order.
            num_slots: To be sold a request, ≥ 1.
            reserve_micros: The least EVC that is sold, ≥ 0.

        Raises:
            RequestError: Columns differ in length; a bid is negative or not finite, a probability no probability;
                `num_slots` or the reserve is out of range.
        """
        ...


def first_price(
    bids_C: Tensor,
    probabilities_C: Tensor,
    *,
    item_ids_C: Tensor,
    request_C: Tensor,
    num_slots: int = 1,
    reserve_micros: float = 0.0,
) -> Sale:
    """Each impression at its own EVC, ``bid · p̂``: whoever is over-confident by a fifth pays a fifth too much.

    Args:
        bids_C, probabilities_C, item_ids_C, request_C, num_slots, reserve_micros: See `Auction`.

    Raises:
        RequestError: See `Auction`.

    >>> bids_C, p_C, zeros_C = torch.tensor([100.0, 40.0]), torch.tensor([0.25, 0.5]), torch.zeros(2, dtype=torch.int64)
    >>> first_price(bids_C, p_C, item_ids_C=torch.arange(2), request_C=zeros_C).price_n.tolist()
    [25.0]
    """
    ranked = _ranked(bids_C, probabilities_C, item_ids_C, request_C, num_slots, reserve_micros)
    return ranked.sale(ranked.evc_n, is_per_click=False)


def second_price(
    bids_C: Tensor,
    probabilities_C: Tensor,
    *,
    item_ids_C: Tensor,
    request_C: Tensor,
    num_slots: int = 1,
    reserve_micros: float = 0.0,
) -> Sale:
    """Each impression at the EVC of the next one in the order, or at the reserve where that is more.

    Args:
        bids_C, probabilities_C, item_ids_C, request_C, num_slots, reserve_micros: See `Auction`.

    Raises:
        RequestError: See `Auction`.

    >>> bids_C, p_C, zeros_C = torch.tensor([100.0, 40.0]), torch.tensor([0.25, 0.5]), torch.zeros(2, dtype=torch.int64)
    >>> second_price(bids_C, p_C, item_ids_C=torch.arange(2), request_C=zeros_C).price_n.tolist()
    [20.0]

    Source: Vickrey 1961, "Counterspeculation, auctions, and competitive sealed tenders".
    """
    ranked = _ranked(bids_C, probabilities_C, item_ids_C, request_C, num_slots, reserve_micros)
    return ranked.sale(ranked.next_n, is_per_click=False)


def generalized_second_price(
    bids_C: Tensor,
    probabilities_C: Tensor,
    *,
    item_ids_C: Tensor,
    request_C: Tensor,
    num_slots: int = 1,
    reserve_micros: float = 0.0,
) -> Sale:
    """Each click at the least bid that would have kept the slot, ``EVC of the next / p̂``.

    A factor common to all probabilities cancels, but for the reserve.

    Args:
        bids_C, probabilities_C, item_ids_C, request_C, num_slots, reserve_micros: See `Auction`.

    Raises:
        RequestError: See `Auction`.

    >>> bids_C, p_C, zeros_C = torch.tensor([100.0, 40.0]), torch.tensor([0.25, 0.5]), torch.zeros(2, dtype=torch.int64)
    >>> generalized_second_price(bids_C, p_C, item_ids_C=torch.arange(2), request_C=zeros_C).price_n.tolist()
    [80.0]

    Source: Edelman, Ostrovsky and Schwarz 2007, "Internet advertising and the generalized second-price auction".
    """
    ranked = _ranked(bids_C, probabilities_C, item_ids_C, request_C, num_slots, reserve_micros)
    return ranked.sale(ranked.next_n / ranked.probability_n, is_per_click=True)


@final
@dataclass(frozen=True, slots=True)
class Settlement:
    """What a sale comes to, in micros.

    Args:
        num_sold: Impressions.
        expected: Σ bid·p̂, what the clicks of the impressions sold were thought to be worth.
        value: Σ bid·p, what they are worth.
        spend: What is paid for them: the platform's revenue.
        over_billed: Σ max(0, paid − bid·p), what is paid beyond the worth of the very impression.
    """

    num_sold: int
    expected: float
    value: float
    spend: float
    over_billed: float

    @property
    def surplus(self) -> float:
        """What is left to advertisers, value − spend; below 0 they would have done better to stay away."""
        return self.value - self.spend

    @property
    def ratio(self) -> float:
        """The calibration ratio in money, expected / value; NaN where nothing is worth anything."""
        return self.expected / self.value if self.value > 0 else float("nan")


def settle(
    sale: Sale,
    bids_C: Tensor,
    probabilities_C: Tensor,
    true_probabilities_C: Tensor,
    *,
    examination: Sequence[float] = (),
) -> Settlement:
    """What a sale comes to if clicks come by the true probabilities, or as they came.

    Args:
        sale: Of these candidates.
        bids_C: Micros, what one click is worth.
        probabilities_C: By which it was sold.
        true_probabilities_C: Of a click; labels settle what happened.
        examination: The chance that each slot is looked at, by which all its probabilities are multiplied; 1 for slots
            that it doesn't name.

    Raises:
        RequestError: `examination` holds no chances.

    >>> bids_C, zeros_C = torch.tensor([100.0, 50.0]), torch.zeros(2, dtype=torch.int64)
    >>> thought_C, true_C = torch.tensor([0.5, 0.4]), torch.tensor([0.25, 0.4])
    >>> sale = first_price(bids_C, thought_C, item_ids_C=torch.arange(2), request_C=zeros_C)
    >>> settle(sale, bids_C, thought_C, true_C)
    Settlement(num_sold=1, expected=50.0, value=25.0, spend=50.0, over_billed=25.0)
    """
    if not all(0 <= chance <= 1 for chance in examination):
        raise RequestError("examination is no chance", found=list(examination), allowed="numbers in [0, 1]")
    chance_n = torch.ones(len(sale), dtype=torch.float64)
    for slot, chance in enumerate(examination, start=1):
        chance_n[sale.slot_n == slot] = chance
    bid_n = bids_C[sale.row_n].double()
    true_n = true_probabilities_C[sale.row_n].double() * chance_n
    value_n = bid_n * true_n
    # who buys an impression buys the slot with it: its price goes by p̂ where it is looked at
    spend_n = sale.price_n * (true_n if sale.is_per_click else chance_n)
    return Settlement(
        num_sold=len(sale),
        expected=float((bid_n * probabilities_C[sale.row_n].double() * chance_n).sum()),
        value=float(value_n.sum()),
        spend=float(spend_n.sum()),
        over_billed=float((spend_n - value_n).clamp(min=0).sum()),
    )


@final
@dataclass(frozen=True, slots=True)
class _Ranked:
    """Those that are sold, before anybody asks for how much."""

    row_n: Tensor
    slot_n: Tensor
    evc_n: Tensor
    next_n: Tensor  # the EVC of the next in the order, or the reserve
    probability_n: Tensor

    def sale(self, price_n: Tensor, *, is_per_click: bool) -> Sale:
        return Sale(self.row_n, self.slot_n, price_n, is_per_click)


def _ranked(
    bids_C: Tensor,
    probabilities_C: Tensor,
    item_ids_C: Tensor,
    request_C: Tensor,
    num_slots: int,
    reserve_micros: float,
) -> _Ranked:
    _check(bids_C, probabilities_C, item_ids_C, request_C, num_slots, reserve_micros)
    bid_C, probability_C = bids_C.double().numpy(), probabilities_C.double().numpy()
    evc_C: Floats = bid_C * probability_C
    request_sorted = request_C.numpy()
    order_C = np.lexsort((item_ids_C.numpy(), -evc_C, request_sorted))  # lexsort's last key is the first to count
    evc_C, request_sorted = evc_C[order_C], request_sorted[order_C]
    is_first_C = np.ones(len(order_C), dtype=bool)
    is_first_C[1:] = request_sorted[1:] != request_sorted[:-1]
    place_C = np.arange(len(order_C))
    slot_C = place_C - np.maximum.accumulate(np.where(is_first_C, place_C, 0)) + 1
    next_C = np.zeros_like(evc_C)
    next_C[:-1] = np.where(is_first_C[1:], 0.0, evc_C[1:])
    is_sold_C = (slot_C <= num_slots) & (evc_C > 0) & (evc_C >= reserve_micros)
    return _Ranked(
        row_n=torch.from_numpy(order_C[is_sold_C]),
        slot_n=torch.from_numpy(slot_C[is_sold_C]),
        evc_n=torch.from_numpy(evc_C[is_sold_C]),
        next_n=torch.from_numpy(np.maximum(next_C, reserve_micros)[is_sold_C]),
        probability_n=torch.from_numpy(probability_C[order_C[is_sold_C]]),
    )


def _check(
    bids_C: Tensor,
    probabilities_C: Tensor,
    item_ids_C: Tensor,
    request_C: Tensor,
    num_slots: int,
    reserve_micros: float,
) -> None:
    lengths = {len(column) for column in (bids_C, probabilities_C, item_ids_C, request_C)}
    if len(lengths) > 1:
        raise RequestError("the columns of an auction differ in length", found=sorted(lengths), allowed="one length")
    bad_C = ~(bids_C.isfinite() & (bids_C >= 0))
    if bool(bad_C.any()):
        raise RequestError(
            f"{int(bad_C.sum())} of {len(bids_C)} bids are none", found=bids_C[bad_C][:5].tolist(),
            allowed="finite micros, 0 or more", do="leave those candidates out; a bid of 0 is never sold",
        )  # fmt: skip
    bad_C = ~((probabilities_C >= 0) & (probabilities_C <= 1))
    if bool(bad_C.any()):
        raise RequestError(
            f"{int(bad_C.sum())} of {len(bids_C)} candidates have no probability",
            found=probabilities_C[bad_C][:5].tolist(), allowed="numbers in [0, 1]", do="calibrate the logits first",
        )  # fmt: skip
    if num_slots < 1:
        raise RequestError("an auction without slots sells nothing", found=num_slots, allowed="1 or more")
    if not (np.isfinite(reserve_micros) and reserve_micros >= 0):
        raise RequestError("the reserve is no price", found=reserve_micros, allowed="finite micros, 0 or more")
