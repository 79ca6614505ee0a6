"""The auction study on a small scale: what its sums must keep, whatever is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankwell.errors import LogError
from rankwell.studies.auction import study_auction
from rankwell.studies.bid_replay import study_bid_replay
from rankwell.studies.miscalibrated_money import AUCTIONS


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    p = rng.beta(1, 60, 4000)
    file = tmp_path_factory.mktemp("auctions") / "auctions.parquet"
    columns = {
        "click": (rng.random(4000) < p).astype(np.int8),
        "market_price": rng.integers(1, 120, 4000).astype(np.int16),
        "pctr_lr": np.clip(2 * p, 0, 1),
    }
    pq.write_table(pa.table(columns), file)
    return file


def test_money_adds_up_and_every_part_is_there(replay: Path) -> None:
    result = study_auction(seeds=range(2), num_requests=240, replay=replay)
    numbers = result.numbers
    for scheme in ("all ads", "one ad in ten"):
        for name in AUCTIONS:
            for factor in (0.1, 1, 10):
                part = {
                    key: numbers[f"money/{scheme}/{name}/odds × {factor:g}/{key}"]
                    for key in ("spend", "value", "surplus", "over-billed")
                }
                assert part["value"] - part["spend"] == pytest.approx(part["surplus"], abs=1e-9)
                if factor == 1:
                    assert part["value"] == 1
                    assert part["over-billed"] == pytest.approx(0.0, abs=1e-9)
                else:
                    assert part["value"] < 1  # what is sold by wrong odds is worth less
    by_click = [numbers[f"money/all ads/by the click (GSP)/odds × {factor}/over-billed"] for factor in (2, 5, 10)]
    assert max(by_click) < 0.02
    assert numbers["money/all ads/first price/odds × 2/surplus"] < -0.3
    assert len(result.charts) == len(result.tables) - 2 == 3
    assert "no winner is claimed" in result.finding


def test_a_replay_says_how_many_clicks_it_has_and_mends_the_ratio(replay: Path) -> None:
    numbers = study_bid_replay(replay).numbers
    click = pq.read_table(replay)["click"].to_numpy()
    assert numbers["clicks fitted on"] == click[:2000].sum()
    assert numbers["clicks replayed"] == click[2000:].sum()
    assert numbers["given: calibration ratio, second half"] > 1.5
    assert 0.6 < numbers["recalibrated: calibration ratio, second half"] < 1.5
    for name in ("given", "recalibrated"):
        key = f"value × 1/{name}/surplus by clicks"
        assert numbers[f"{key}/low"] <= numbers[key] <= numbers[f"{key}/high"]


def test_a_replay_without_its_columns_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"click": [0, 1]}), tmp_path / "x.parquet")
    with pytest.raises(LogError, match=r"\['market_price', 'pctr_lr'\]"):
        study_bid_replay(tmp_path / "x.parquet")
