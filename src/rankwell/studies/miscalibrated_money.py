"""What miscalibration costs, and whom: auctions in which the odds are wrong by a factor, for all ads or for one.

Letters: S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, final

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from rankwell.evaluation.calibration_error import ece
from rankwell.ranking.auction import Auction, Settlement, first_price, generalized_second_price, second_price, settle
from rankwell.simulation.winners_curse import CurseSettings, cursed_requests
from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.study import StudyResult

__all__ = ["study_miscalibrated_money"]

AUCTIONS: Final[Mapping[str, Auction]] = {
    "first price": first_price,
    "second price": second_price,
    "by the click (GSP)": generalized_second_price,
}
_FACTORS: Final = (0.1, 0.2, 0.5, 0.8, 1.0, 1.25, 2.0, 5.0, 10.0)
_PRINTED: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
_ADS: Final = 10
_SCHEMES: Final = ("all ads", "one ad in ten")
_DEAR: Final = "the dear half", "the cheap half"


@final
@dataclass(frozen=True, slots=True)
class _Ads:
    """One candidate of each of ten advertisers in each request."""

    bids_C: Tensor
    true_C: Tensor
    advertiser_C: Tensor
    request_C: Tensor
    labels_C: Tensor

    def wrong_by(self, factor: float, who_C: Tensor) -> Tensor:
        """Probabilities whose odds are multiplied for some."""
        return torch.where(who_C, torch.sigmoid(self.true_C.logit() + math.log(factor)), self.true_C)

    def settled(self, auction: Auction, probabilities_C: Tensor) -> tuple[Settlement, float]:
        """What a sale by these probabilities comes to, and the share of impressions that ad 0 takes."""
        sale = partial(auction, item_ids_C=self.advertiser_C, request_C=self.request_C, num_slots=1, reserve_micros=0)(
            self.bids_C, probabilities_C
        )
        settlement = settle(sale, self.bids_C, probabilities_C, self.true_C)
        return settlement, float((self.advertiser_C[sale.row_n] == 0).double().mean())


def _ads(num_requests: int, seed: int) -> _Ads:
    settings = CurseSettings(noise=0.0, fewest=_ADS, most=_ADS, bid_correlation=0.0)
    drawn = cursed_requests(settings, num_requests, seed=seed)
    advertiser_C = torch.arange(len(drawn.bids_C)) % _ADS
    return _Ads(drawn.bids_C, drawn.true_probabilities_C, advertiser_C, drawn.request_C, drawn.labels_C)


def study_miscalibrated_money(
    *, seeds: Sequence[int], num_requests: int = 20_000, say: Callable[[str], None] = lambda _: None
) -> StudyResult:
    """Spend, value, surplus and over-billing as functions of a factor on the odds; money's calibration beside ECE.

    Args:
        seeds: One set of requests each.
        num_requests: Of ten ads each.
        say: Told what is going on.
    """
    numbers: dict[str, float] = {}
    markets = [_ads(num_requests, seed) for seed in seeds]
    say(f"{len(markets)} markets of {num_requests:,} requests")
    money = {
        (scheme, name, factor): _mean(
            [market.settled(auction, market.wrong_by(factor, _who(market, scheme))) for market in markets]
        )
        for scheme in _SCHEMES
        for name, auction in AUCTIONS.items()
        for factor in _FACTORS
    }
    tables = [_money_table(scheme, money, numbers) for scheme in _SCHEMES]
    tables.append(_ece_table(markets, numbers))
    dear, cheap = (numbers[f"{which}/wrong value share"] for which in _DEAR)
    first, second, by_click = (_relative(money, "all ads", name, 2.0) for name in AUCTIONS)
    right, wrong = (money["one ad in ten", "by the click (GSP)", factor].share for factor in (1.0, 2.0))
    finding = (
        f"Where impressions are sold, odds that are twice too high for all raise the spend by {first:+.0%} at first "
        f"and {second:+.0%} at second price, and advertisers pay for it; by the click the same factor changes it by "
        f"{by_click:+.1%}. One ad in ten with odds twice too high takes {wrong:.0%} of the impressions sold by the "
        f"click, for {right:.0%}. ECE does not see money: the same odds, wrong for the dearer half of the ads or for "
        f"the cheaper one, misstate {dear:.0%} and {cheap:.0%} of what is sold."
    )
    return StudyResult("money", tuple(tables), finding, numbers, (_chart(money),))


@final
@dataclass(frozen=True, slots=True)
class _Money:
    spend: float
    value: float
    surplus: float
    over_billed: float
    ratio: float
    share: float


def _mean(settled_S: Sequence[tuple[Settlement, float]]) -> _Money:
    rows = [(s.spend, s.value, s.surplus, s.over_billed, s.ratio, share) for s, share in settled_S]
    return _Money(*np.mean(rows, axis=0).tolist())


def _who(market: _Ads, scheme: str) -> Tensor:
    return (
        market.advertiser_C == 0
        if scheme == "one ad in ten"
        else torch.ones_like(market.advertiser_C, dtype=torch.bool)
    )


def _relative(money: Mapping[tuple[str, str, float], _Money], scheme: str, name: str, factor: float) -> float:
    return money[scheme, name, factor].spend / money[scheme, name, 1.0].spend - 1


def _money_table(scheme: str, money: Mapping[tuple[str, str, float], _Money], numbers: dict[str, float]) -> Table:
    table = Table(title=f"odds wrong by a factor for {scheme}; in % of the value that right probabilities would sell")
    for heading in (
        "sold by",
        "odds ×",
        "spend",
        "value",
        "surplus",
        "over-billed",
        "expected / value",
        "ad 0's share",
    ):
        table.add_column(heading, justify="left" if heading == "sold by" else "right")
    for name in AUCTIONS:
        right = money[scheme, name, 1.0].value
        for factor in _FACTORS:
            one = money[scheme, name, factor]
            key = f"{scheme}/{name}/odds × {factor:g}"
            parts = {"spend": one.spend, "value": one.value, "surplus": one.surplus, "over-billed": one.over_billed}
            numbers |= {f"{key}/{part}": value / right for part, value in parts.items()}
            numbers |= {f"{key}/expected over value": one.ratio, f"{key}/share of ad 0": one.share}
            if factor in _PRINTED:
                cells = [f"{100 * value / right:.1f}" for value in parts.values()]
                table.add_row(name, f"{factor:g}", *cells, f"{one.ratio:.3f}", f"{one.share:.1%}")
    return table


def _ece_table(markets: Sequence[_Ads], numbers: dict[str, float]) -> Table:
    """Odds twice too high for the half of the ads with the higher bids, or the other half: one ECE, two bills."""
    table = Table(title="the same error on dear and on cheap ads, sold at second price")
    for heading in ("odds × 2 for", "ECE", "expected / value", "|expected − value| / value"):
        table.add_column(heading, justify="left" if heading == "odds × 2 for" else "right")
    for which in _DEAR:
        eces, ratios = [], []
        for market in markets:
            is_dear_C = market.bids_C >= market.bids_C.median()
            thought_C = market.wrong_by(2.0, is_dear_C if which == _DEAR[0] else ~is_dear_C)
            eces.append(ece(thought_C, market.labels_C, torch.ones_like(thought_C)))
            ratios.append(market.settled(second_price, thought_C)[0].ratio)
        numbers |= {
            f"{which}/ECE": float(np.mean(eces)),
            f"{which}/expected over value": float(np.mean(ratios)),
            f"{which}/wrong value share": float(np.mean(np.abs(np.array(ratios) - 1))),
        }
        table.add_row(
            which, f"{np.mean(eces):.4f}", f"{np.mean(ratios):.3f}", f"{numbers[f'{which}/wrong value share']:.1%}"
        )
    return table


def _chart(money: Mapping[tuple[str, str, float], _Money]) -> Chart:
    def panel(title: str, of: Callable[[str, float], float], names: Mapping[str, str]) -> Panel:
        lines = tuple(Line(name=shown, x=_FACTORS, y=[of(name, f) for f in _FACTORS]) for name, shown in names.items())
        return Panel(
            title=title,
            x_label="factor on the odds",
            y_label="% of right value",
            lines=lines,
            is_log_x=True,
            upright=1.0,
        )

    def spend(name: str, factor: float) -> float:
        return 100 * money["all ads", name, factor].spend / money["all ads", name, 1.0].value

    def surplus(name: str, factor: float) -> float:
        return 100 * money["all ads", name, factor].surplus / money["all ads", name, 1.0].value

    def value(name: str, factor: float) -> float:
        return 100 * money["one ad in ten", name, factor].value / money["one ad in ten", name, 1.0].value

    each = {name: name for name in AUCTIONS}
    return Chart(
        name="money",
        title="Whom miscalibration costs",
        caption="All in % of the value that is sold at right probabilities (the upright line). Left: what advertisers "
        "pay when all odds are wrong by one factor. Middle: what is left to them. Right: the value that is sold when "
        "the odds of one ad in ten are wrong, alike in all auctions: above 1 it takes slots from better ads, below it "
        "loses its own.",
        description="Spend, surplus and value against a factor on the odds, for three auctions.",
        panels=(
            panel("all ads: spend", spend, each),
            panel("all ads: surplus", surplus, each),
            panel("one ad in ten: value sold", value, {"first price": "in all three"}),
        ),
    )
