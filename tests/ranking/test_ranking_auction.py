"""Auctions against a plain loop, and what they come to in sums that can be done by hand."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rankwell.errors import RequestError
from rankwell.ranking.auction import Auction, Sale, first_price, generalized_second_price, second_price, settle

PARAMETERS = list(inspect.signature(Auction.__call__).parameters)[1:]


def _auctions() -> Iterator[Auction]:
    module = importlib.import_module("rankwell.ranking.auction")
    for name in module.__all__:
        member = getattr(module, name)
        if inspect.isfunction(member) and list(inspect.signature(member).parameters) == PARAMETERS:
            yield member


AUCTIONS = list(_auctions())
every_auction = pytest.mark.parametrize("auction", AUCTIONS, ids=lambda auction: auction.__name__)


def test_all_auctions_were_found() -> None:
    assert [first_price, generalized_second_price, second_price] == AUCTIONS


def _plain(
    auction: Auction, bids: list[float], ps: list[float], requests: list[int], num_slots: int, reserve: float
) -> dict[int, tuple[int, float]]:
    """Row to slot and price."""
    sold = {}
    for request in set(requests):
        own = sorted((-bids[i] * ps[i], i) for i in range(len(bids)) if requests[i] == request)
        for slot, (negative, i) in enumerate(own[:num_slots], start=1):
            evc = -negative
            following = max(-own[slot][0] if slot < len(own) else 0.0, reserve)
            if evc > 0 and evc >= reserve:
                price = {first_price: evc, second_price: following}.get(auction, following / ps[i])  # type: ignore[call-overload]
                sold[i] = (slot, price)
    return sold


candidates = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, 2.0, 5.0]), st.sampled_from([0.0, 0.25, 0.5, 1.0])),
    max_size=12,
)


@every_auction
@settings(max_examples=60)
@given(rows=candidates, num_slots=st.integers(1, 3), reserve=st.sampled_from([0.0, 0.4, 1.0]))
def test_an_auction_is_a_plain_loop(
    auction: Auction, rows: list[tuple[int, float, float]], num_slots: int, reserve: float
) -> None:
    requests, bids, ps = ([row[i] for row in rows] for i in range(3))
    sale = auction(
        torch.tensor(bids), torch.tensor(ps), item_ids_C=torch.arange(len(rows)),
        request_C=torch.tensor(requests, dtype=torch.int64), num_slots=num_slots, reserve_micros=reserve,
    )  # fmt: skip
    found = {
        int(row): (int(slot), float(price))
        for row, slot, price in zip(sale.row_n, sale.slot_n, sale.price_n, strict=True)
    }
    assert found == _plain(auction, bids, ps, requests, num_slots, reserve)


def _random(num: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    bids_C = torch.rand(num, generator=generator, dtype=torch.float64) * 1e6
    true_C = torch.rand(num, generator=generator, dtype=torch.float64) * 0.2
    return bids_C, true_C, torch.arange(num), torch.arange(num) // 8


@every_auction
def test_with_true_probabilities_nobody_is_over_billed(auction: Auction) -> None:
    bids_C, true_C, items_C, request_C = _random(4000, 1)
    sale = auction(bids_C, true_C, item_ids_C=items_C, request_C=request_C, num_slots=3, reserve_micros=0.0)
    settlement = settle(sale, bids_C, true_C, true_C, examination=(1.0, 0.7, 0.5))
    assert settlement.over_billed < 1e-6 * settlement.spend
    assert settlement.ratio == pytest.approx(1.0)
    assert settlement.surplus >= -1e-6
    assert (settlement.surplus < 1e-6) == (auction is first_price)  # the first price leaves nothing


@every_auction
def test_the_order_of_rows_and_other_requests_mean_nothing(auction: Auction) -> None:
    bids_C, true_C, items_C, request_C = _random(80, 2)
    shuffled = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    whole = auction(bids_C, true_C, item_ids_C=items_C, request_C=request_C, num_slots=2, reserve_micros=0.0)
    again = auction(
        bids_C[shuffled], true_C[shuffled], item_ids_C=items_C[shuffled], request_C=request_C[shuffled], num_slots=2,
        reserve_micros=0.0,
    )  # fmt: skip
    assert shuffled[again.row_n].tolist() == whole.row_n.tolist()
    assert again.price_n.tolist() == whole.price_n.tolist()
    alone = auction(
        bids_C[:8], true_C[:8], item_ids_C=items_C[:8], request_C=request_C[:8], num_slots=2, reserve_micros=0.0
    )
    assert alone.price_n.tolist() == whole.price_n[:2].tolist()


def test_a_common_factor_cancels_by_the_click_and_is_paid_for_by_the_impression() -> None:
    bids_C, true_C, items_C, request_C = _random(4000, 3)

    def spend(auction: Auction, factor: float) -> float:
        sale = auction(
            bids_C, true_C * factor, item_ids_C=items_C, request_C=request_C, num_slots=1, reserve_micros=0.0
        )
        return settle(sale, bids_C, true_C * factor, true_C).spend

    assert spend(generalized_second_price, 2.0) == pytest.approx(spend(generalized_second_price, 1.0))
    for auction in (first_price, second_price):
        assert spend(auction, 2.0) == pytest.approx(2 * spend(auction, 1.0))


def test_one_over_confident_ad_takes_slots_from_better_ones() -> None:
    bids_C, true_C, items_C, request_C = _random(4000, 4)
    boosted_C = torch.where(items_C % 8 == 0, (true_C * 3).clamp(max=1.0), true_C)
    right = generalized_second_price(bids_C, true_C, item_ids_C=items_C, request_C=request_C)
    wrong = generalized_second_price(bids_C, boosted_C, item_ids_C=items_C, request_C=request_C)

    def share(sale: Sale) -> float:
        return float((items_C[sale.row_n] % 8 == 0).float().mean())

    assert share(wrong) > share(right) + 0.1
    assert settle(wrong, bids_C, boosted_C, true_C).value < settle(right, bids_C, true_C, true_C).value


def test_labels_settle_what_happened() -> None:
    bids_C, zeros_C = torch.tensor([100.0, 80.0]), torch.zeros(2, dtype=torch.int64)
    p_C = torch.tensor([0.5, 0.5])
    sale = generalized_second_price(bids_C, p_C, item_ids_C=torch.arange(2), request_C=zeros_C)
    assert settle(sale, bids_C, p_C, torch.tensor([1, 0])).spend == 80
    assert settle(sale, bids_C, p_C, torch.tensor([0, 1])).spend == 0


def test_nothing_is_sold_of_nothing() -> None:
    empty = torch.zeros(0)
    sale = second_price(empty, empty, item_ids_C=empty.long(), request_C=empty.long())
    assert len(sale) == 0
    settlement = settle(sale, empty, empty, empty)
    assert (settlement.spend, settlement.num_sold) == (0, 0)
    assert settlement.ratio != settlement.ratio


@every_auction
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bids_C": torch.tensor([1.0, -1.0])}, "1 of 2 bids are none"),
        ({"bids_C": torch.tensor([1.0, torch.inf])}, "1 of 2 bids are none"),
        ({"probabilities_C": torch.tensor([0.5, torch.nan])}, "1 of 2 candidates have no probability"),
        ({"probabilities_C": torch.tensor([0.5, 1.5])}, "1 of 2 candidates have no probability"),
        ({"item_ids_C": torch.arange(3)}, "differ in length"),
        ({"num_slots": 0}, "without slots"),
        ({"reserve_micros": -1.0}, "reserve"),
    ],
)
def test_bad_input_is_refused(auction: Auction, wrong: dict[str, object], message: str) -> None:
    fine = {
        "bids_C": torch.ones(2),
        "probabilities_C": torch.tensor([0.5, 0.2]),
        "item_ids_C": torch.arange(2),
        "request_C": torch.zeros(2, dtype=torch.int64),
        "num_slots": 1,
        "reserve_micros": 0.0,
    }
    with pytest.raises(RequestError, match=message):
        auction(**{**fine, **wrong})  # type: ignore[arg-type]


def test_examination_is_a_chance() -> None:
    empty = torch.zeros(0)
    sale = second_price(empty, empty, item_ids_C=empty.long(), request_C=empty.long())
    with pytest.raises(RequestError, match="examination"):
        settle(sale, empty, empty, empty, examination=(1.2,))
