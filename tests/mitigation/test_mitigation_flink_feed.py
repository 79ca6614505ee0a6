"""Rows for Flink: whenever the feed is killed, each request's rows stand in one file, once."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pytest
import torch

from rankwell.errors import LogError, MonitoringError
from rankwell.mitigation.flink_feed import FlinkFeed
from rankwell.monitoring.flink_files import write_flink_rows
from rankwell.monitoring.pane_layout import CategoricalBins, NumericBins, PaneLayout
from rankwell.schema import Action, Categorical, Exposure, Numeric, Schema
from rankwell.serving.log_compaction import compact_served
from rankwell.serving.log_reader import LogPosition
from rankwell.serving.served_log import ServedLog
from rankwell.serving.served_request import ServedRequest
from rankwell.types import MISSING_ID, Features

S_US = 1_000_000
WRITE = "rankwell.mitigation.flink_feed.write_flink_rows"
SCHEMA = Schema(
    features=(Categorical(name="job"), Categorical(name="level"), Numeric(name="years", on="request")),
    actions=(Action(name="click", window_s=60),),
    item="job",
    exposure=Exposure(position="position", propensity="propensity"),
)
LAYOUT = PaneLayout(
    columns=(NumericBins(name="years", edges=(5.0,)), CategoricalBins(name="job", top=(4,))),
    segments=CategoricalBins(name="level", top=(0, 1)),
)


def _answer(request_id: int, time_us: int) -> ServedRequest:
    """Shows jobs 6 and 4; its years are its number."""
    features = Features(
        context={"years": torch.tensor([float(request_id)])},
        history={},
        candidates={"job": torch.tensor([4, 5, 6]), "level": torch.arange(3)},
        offsets=torch.tensor([0, 3]),
        request_C=torch.zeros(3, dtype=torch.int64),
    )
    logits_KA = torch.zeros(3, 1)
    return ServedRequest(
        request_id=request_id, member_id=MISSING_ID, time_us=time_us, features=features,
        item_ids_K=torch.tensor([4, 5, 6]), places_n=np.array([2, 0]), propensities_n=np.array([1.0, 0.25]),
        logits_KA=logits_KA, probabilities_KA=logits_KA.sigmoid().double(), bundle_id="b",
    )  # fmt: skip


def _fail(error: LogError) -> None:
    raise error


def _feed(folder: Path) -> FlinkFeed:
    return FlinkFeed(folder, SCHEMA, LAYOUT, folder / "rows", on_damage=_fail)


def _lines(folder: Path) -> list[tuple[Any, ...]]:
    read = pyarrow.csv.ReadOptions(column_names=["time", "years", "job", "level"])
    tables = [pyarrow.csv.read_csv(file, read) for file in sorted(folder.glob("rows-*.csv"))]
    return [tuple(row.values())[1:] for table in tables for row in table.to_pylist()]


class _KilledError(Exception):
    pass


def test_killed_at_any_moment_each_row_is_written_once(tmp_path: Path, monkeypatch: Any) -> None:
    rng, clock, number, kills = random.Random(0), [10_000 * S_US], 0, 0
    log = ServedLog(tmp_path, SCHEMA, worker="w0", seed=1, now_us=lambda: clock[0], segment_bytes=4_000)
    feed = _feed(tmp_path)
    while kills < 20:
        clock[0] += S_US
        for _ in range(rng.randrange(4)):
            log.append(_answer(number, clock[0]))
            number += 1
        if rng.random() < 0.5:
            kills += 1
            after = rng.random() < 0.5

            def dies(*given: Any, real: Any = write_flink_rows, after: bool = after) -> None:
                if after:
                    real(*given)
                raise _KilledError

            with monkeypatch.context() as patch, suppress(_KilledError):
                patch.setattr(WRITE, dies)
                feed.step(now_us=clock[0])
            feed = _feed(tmp_path)
        else:
            feed.step(now_us=clock[0])
        if rng.random() < 0.2:
            compact_served(tmp_path, read_by=[feed.read_by])
    log.close()
    feed.step(now_us=clock[0])
    assert number > 20
    assert sorted(_lines(tmp_path / "rows")) == [
        (n, job, level) for n in range(number) for job, level in ((4, 0), (6, 2))
    ]
    assert feed.num_rows == _feed(tmp_path).num_rows == 2 * number
    assert feed.step(now_us=clock[0]) == 0
    assert len(list((tmp_path / "rows").glob(".rows-*.state"))) == 1


def test_what_the_disk_did_not_take_is_written_with_what_comes_next(tmp_path: Path, monkeypatch: Any) -> None:
    clock = [10_000 * S_US]
    log = ServedLog(tmp_path, SCHEMA, worker="w0", seed=1, now_us=lambda: clock[0])
    feed = _feed(tmp_path)
    log.append(_answer(0, clock[0]))
    assert feed.read_by == LogPosition()

    def full(*_: Any) -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(WRITE, full)
        with pytest.raises(OSError):
            feed.step(now_us=clock[0])
    log.append(_answer(1, clock[0]))
    log.close()
    assert feed.step(now_us=clock[0]) == feed.num_rows == 4
    assert {years for years, *_ in _lines(tmp_path / "rows")} == {0, 1}


def test_a_file_is_in_order_of_time_and_has_no_request_twice(tmp_path: Path) -> None:
    clock = [10_000 * S_US]
    for worker, shifts in (("w0", (0, 2, 2)), ("w1", (1, 3, 9_999))):  # the last is ahead of the clock
        log = ServedLog(tmp_path, SCHEMA, worker=worker, seed=1, now_us=lambda: clock[0])
        for shift in shifts:
            log.append(_answer(shift, clock[0] + shift * S_US))
        log.close()
    feed = _feed(tmp_path)
    assert feed.step(now_us=clock[0] + 5 * S_US) == 8
    assert [years for years, *_ in _lines(tmp_path / "rows")] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert (feed.arrivals.report.num_duplicates, feed.arrivals.report.num_ahead) == (1, 1)


def test_a_feed_that_does_not_know_where_it_was_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "rows-000000004.csv").write_text("")
    for text in (None, "", "{}", '{"served": "[]", "stepped_us": 1, "num_rows": 1}'):
        if text is not None:
            (tmp_path / "rows" / ".rows-000000004.state").write_text(text)
        with pytest.raises(MonitoringError, match="how far"):
            _feed(tmp_path)
