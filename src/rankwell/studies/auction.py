"""Probabilities as money: what miscalibration costs whom, the winner's curse, and bids replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rankwell.studies.bid_replay import study_bid_replay
from rankwell.studies.miscalibrated_money import study_miscalibrated_money
from rankwell.studies.study import StudyResult, joined
from rankwell.studies.winners_curse import study_winners_curse

__all__ = ["study_auction"]


def study_auction(
    *,
    seeds: Sequence[int],
    num_requests: int = 20_000,
    replay: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Odds wrong by a factor in three auctions; served against scored; a replay of bids.

    Args:
        seeds: One set of requests each; three or more for intervals.
        num_requests: Of ten ads each; a sixth as many, of up to 500, for the winner's curse.
        replay: A Parquet file of auctions with `click`, `market_price` and `pctr_lr`.
        say: Told what is going on.
    """
    parts = [
        study_miscalibrated_money(seeds=seeds, num_requests=num_requests, say=say),
        study_winners_curse(seeds=seeds, num_requests=max(num_requests // 6, 1), say=say),
    ]
    if replay is not None:
        parts.append(study_bid_replay(replay, say=say))
    return joined("auction", parts)
