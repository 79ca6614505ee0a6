"""What a server logs of its answers beside what it answers: prices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rankwell.calibration.platt import Platt
from rankwell.data.statistics import NumericStatistics
from rankwell.models.wide_deep import Logistic
from rankwell.ranking.utility import Utility
from rankwell.schema import Action, Categorical, Exposure, Schema
from rankwell.serving.bundle import Bundle, write_bundle
from rankwell.serving.live_bundles import LiveBundles
from rankwell.serving.log_reader import read_served
from rankwell.serving.rank_service import RankService
from rankwell.serving.ranker import Ranker
from rankwell.serving.served_log import ServedLog
from rankwell.serving.server_clock import ServerClock

SCHEMA = Schema(
    features=(Categorical(name="job"),),
    actions=(Action(name="click"),),
    item="job",
    bid="bid_micros",
    exposure=Exposure(position="position", propensity="propensity"),
)
CLOCK = ServerClock(lambda: 5, lambda: 0.0)


@pytest.mark.parametrize("utility", [None, Utility(bid_on="click"), Utility(values={"click": 2.0})])
def test_a_first_price_is_logged_where_lists_are_sorted_by_bids(tmp_path: Path, utility: Utility | None) -> None:
    model = Logistic(SCHEMA, NumericStatistics(), seed=0)  # untrained: each p is σ(−1)
    write_bundle(Bundle(model=model, calibrators={"click": Platt(1.0, -1.0)}, created_us=0), tmp_path / "bundle")
    live = LiveBundles(tmp_path / "bundle", make_ranker=lambda scorer: Ranker(scorer, utility=utility))
    bids = [1_000_000, 3_000_000, 2_000_000]
    with ServedLog(tmp_path / "log", SCHEMA, worker="w", seed=0, now_us=CLOCK.now_us, all_candidates_rate=0.0) as log:
        service = RankService(live, clock=CLOCK, log=log)
        request = {"request_id": 1, "member_id": 2, "candidates": {"job": [7, 8, 9], "bid_micros": bids}}
        assert service.rank(request, length=2).is_logged
    [(served, _)] = list(read_served(tmp_path / "log"))
    prices = served["served_price_micros"].to_pylist()[0]
    if utility is None or utility.bid_on is None:
        assert prices == [None, None]
    else:
        p = 1 / (1 + np.exp(1.0))
        assert prices == [round(3_000_000 * p), round(2_000_000 * p)]  # the highest bids first
