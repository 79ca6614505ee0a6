"""Settled rows for Flink: the labels of the embedded engine, each request in one file, whenever the feed is killed."""

from __future__ import annotations

import csv
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rankwell.errors import LogError, MonitoringError
from rankwell.mitigation.flink_outcome_feed import FlinkOutcomeFeed
from rankwell.mitigation.folder_watch import FolderWatch
from rankwell.monitoring.flink_files import write_flink_outcomes
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.pane_layout import CategoricalBins, PaneLayout
from rankwell.monitoring.watch_counts import WatchCounts
from rankwell.schema import Action, Categorical, Exposure, Schema
from rankwell.serving.action_log import ActionLog, ReportedAction, compact_actions
from rankwell.serving.log_compaction import compact_served
from rankwell.serving.log_reader import LogPosition
from rankwell.serving.served_log import ServedLog
from rankwell.serving.served_request import ServedRequest
from rankwell.types import MISSING_ID, Features

S_US = 1_000_000
BEGIN_US = 10_000 * S_US
SCHEMA = Schema(
    features=(Categorical(name="job"), Categorical(name="level")),
    actions=(Action(name="click", window_s=60),),
    item="job",
    exposure=Exposure(position="position", propensity="propensity"),
)
LAYOUT = PaneLayout(columns=(), segments=CategoricalBins(name="level", top=(0, 1)))


def _answer(request_id: int, time_us: int) -> ServedRequest:
    """Shows job 6, of an unknown segment, and job 4, where it explores and which costs nothing."""
    features = Features(
        context={},
        history={},
        candidates={"job": torch.tensor([4, 5, 6]), "level": torch.arange(3)},
        offsets=torch.tensor([0, 3]),
        request_C=torch.zeros(3, dtype=torch.int64),
    )
    logits_KA = torch.tensor([[-2.0], [0.5], [request_id % 3 - 1.0]])
    return ServedRequest(
        request_id=request_id, member_id=MISSING_ID, time_us=time_us, features=features,
        item_ids_K=torch.tensor([4, 5, 6]), places_n=np.array([2, 0]), propensities_n=np.array([1.0, 0.25]),
        logits_KA=logits_KA, probabilities_KA=logits_KA.sigmoid().double(), bundle_id="b",
        prices_micros_n=np.array([100 + request_id, 0]),
    )  # fmt: skip


def _fail(error: LogError) -> None:
    raise error


def _logs(folder: Path, clock: list[int]) -> tuple[ServedLog, ActionLog]:
    served = ServedLog(folder, SCHEMA, worker="w0", seed=1, now_us=lambda: clock[0], segment_bytes=4_000)
    return served, ActionLog(folder, SCHEMA, worker="w0", now_us=lambda: clock[0])


def _feed(folder: Path, **changes: Any) -> FlinkOutcomeFeed:
    settings = {"late_s": 20.0, "on_damage": _fail} | changes
    return FlinkOutcomeFeed(folder, SCHEMA, "click", LAYOUT.segments, folder / "outcomes", **settings)


def _lines(folder: Path) -> list[list[str]]:
    files = sorted((folder / "outcomes").glob("outcomes-*.csv"))
    return [line for file in files for line in csv.reader(file.read_text().splitlines())]


def _clicked(folder: Path) -> list[tuple[int, int]]:
    return sorted((int(request), int(label)) for _, request, segment, _, label, *_ in _lines(folder) if segment == "-3")


def _pane(folder: Path) -> OutcomePane:
    times, request_C, segment_C, p_C, y_C, propensity_C, price_C = zip(*_lines(folder), strict=True)
    return OutcomePane.of(
        "click",
        times_us_C=np.array(times, "datetime64[us]").astype(np.int64),
        request_C=np.array(request_C, np.int64),
        segment_C=np.array(segment_C, np.int64),
        probabilities_C=np.array(p_C, np.float64),
        labels_C=np.array(y_C, np.int64),
        propensity_C=np.array(propensity_C, np.float64),
        price_micros_C=np.array([price or np.nan for price in price_C], np.float64),
    )


class _KilledError(Exception):
    pass


def test_killed_at_any_moment_outcomes_are_those_of_the_embedded_engine(tmp_path: Path, monkeypatch: Any) -> None:
    """It dies before the state is written, between state and file, or after the file; pending ones and repeats too."""
    rng, clock, number, kills = random.Random(0), [BEGIN_US], 0, 0
    served, actions = _logs(tmp_path, clock)
    feed, shown = _feed(tmp_path), []
    while kills < 20:
        clock[0] += rng.randrange(1, 8) * S_US
        for _ in range(rng.randrange(5)):
            answer = _answer(number, clock[0])
            served.append(answer)
            shown.append(answer)
            number += 1
        if shown and rng.random() < 0.3:
            served.append(rng.choice(shown[-3:]))
        for answer in rng.sample(shown, min(5, len(shown))):
            if clock[0] - answer.time_us < 70 * S_US:  # some come after the window
                actions.append([ReportedAction(answer.request_id, rng.choice([4, 5, 6]), "click", clock[0])])
        if rng.random() < 0.4:
            kills += 1
            fatal = rng.choice(["state", "file", "after"])

            def dies(*given: Any, fatal: str = fatal, real: Any = write_flink_outcomes) -> None:
                if fatal == "after":
                    real(*given)
                raise _KilledError

            what = "row_files.AtomicFile" if fatal == "state" else "flink_outcome_feed.write_flink_outcomes"
            with monkeypatch.context() as patch, suppress(_KilledError):  # nothing may be due
                patch.setattr(f"rankwell.mitigation.{what}", dies)
                feed.step(now_us=clock[0])
            feed = _feed(tmp_path)
        else:
            feed.step(now_us=clock[0])
    clock[0] += 100 * S_US
    feed.step(now_us=clock[0])
    served.close()
    actions.close()
    counts = WatchCounts(SCHEMA, LAYOUT, "click", late_s=10_000.0)
    FolderWatch(tmp_path, counts, tmp_path / "watch", on_damage=_fail).step(now_us=clock[0])
    counts.settle(now_us=clock[0] + 10_000 * S_US)
    assert number > 50
    assert [request for request, _ in _clicked(tmp_path)] == list(range(number))
    found, wanted = _pane(tmp_path), counts.outcomes
    assert wanted.observed_N.sum() > 10
    np.testing.assert_array_equal(found.minutes_N, wanted.minutes_N)
    np.testing.assert_array_equal(found.segments_N, wanted.segments_N)
    np.testing.assert_allclose(found.sums_NV6, wanted.sums_NV6, rtol=1e-12)
    np.testing.assert_array_equal(found.spend_micros_N, wanted.spend_micros_N)
    np.testing.assert_allclose(found.grid_NB2, wanted.grid_NB2, rtol=1e-12)
    assert feed.num_rows == _feed(tmp_path).num_rows == 2 * number
    assert _feed(tmp_path).step(now_us=clock[0]) == 0
    times = [time for time, *_ in _lines(tmp_path)]
    assert times == sorted(times), "files follow each other in time"
    assert len(list((tmp_path / "outcomes").glob(".outcomes-*.state"))) == 1


def test_a_label_waits_for_its_window_and_for_late_actions(tmp_path: Path) -> None:
    clock = [BEGIN_US]
    served, actions = _logs(tmp_path, clock)
    feed = _feed(tmp_path)
    for number in range(3):
        served.append(_answer(number, BEGIN_US + number * 10 * S_US))
    clock[0] += 79 * S_US
    actions.append([ReportedAction(0, 6, "click", BEGIN_US + 60 * S_US), ReportedAction(9, 6, "click", BEGIN_US)])
    actions.append([ReportedAction(0, 6, "click", BEGIN_US + 50 * S_US, key="again")])
    actions.append([ReportedAction(1, 6, "click", BEGIN_US + 71 * S_US)])  # its window ended at 70
    assert feed.step(now_us=BEGIN_US + 80 * S_US) == 0
    assert feed.pending.num_pending == 3
    feed = _feed(tmp_path)
    assert feed.step(now_us=BEGIN_US + 81 * S_US) == 2
    feed = _feed(tmp_path)
    assert feed.pending.num_pending == 2
    assert feed.step(now_us=BEGIN_US + 200 * S_US) == 4
    assert _clicked(tmp_path) == [(0, 1), (1, 0), (2, 0)]
    served.close()
    actions.close()


def test_a_request_that_comes_again_after_a_restart_is_known(tmp_path: Path) -> None:
    clock = [BEGIN_US]
    served, actions = _logs(tmp_path, clock)
    served.append(_answer(0, BEGIN_US - 100 * S_US))
    served.append(_answer(1, BEGIN_US))
    feed = _feed(tmp_path, late_s=120.0)
    assert feed.step(now_us=BEGIN_US + 90 * S_US) == 2
    served.append(_answer(1, BEGIN_US))
    feed = _feed(tmp_path, late_s=120.0)
    feed.step(now_us=BEGIN_US + 91 * S_US)
    assert (feed.arrivals.report.num_duplicates, feed.pending.num_pending) == (1, 1)
    served.close()
    actions.close()


def test_logs_may_be_compacted_up_to_what_stands_beside_the_newest_file(tmp_path: Path) -> None:
    clock = [BEGIN_US]
    for number in range(4):  # at 0, 50, 100 and 150 s; each is due when the next but one has come
        served, actions = _logs(tmp_path, clock)
        feed = _feed(tmp_path)
        assert (feed.read_by["actions"] == LogPosition()) == (number < 2)
        served.append(_answer(number, clock[0]))
        actions.append([ReportedAction(number, 6, "click", clock[0] + number * 25 * S_US)])
        served.close()
        actions.close()
        clock[0] += 50 * S_US
        feed.step(now_us=clock[0])
        compact_served(tmp_path, read_by=[feed.read_by["served"]])
        compact_actions(tmp_path, read_by=[feed.read_by["actions"]])
    assert list((tmp_path / "served" / "parquet").iterdir()), "requests that wait are compacted"
    assert _feed(tmp_path).pending.num_pending == 1
    assert _feed(tmp_path).step(now_us=clock[0] + 100 * S_US) == 2
    assert _clicked(tmp_path) == [(0, 1), (1, 1), (2, 1), (3, 0)]


def test_where_reports_are_missing_labels_wait_and_no_longer_than_asked(tmp_path: Path) -> None:
    clock = [BEGIN_US]
    served, actions = _logs(tmp_path, clock)
    for number in range(450):  # three minutes; members click in the first, then no report comes
        at_us = BEGIN_US + number * 400_000
        served.append(_answer(number, at_us))
        if number < 150 and number % 2:
            actions.append([ReportedAction(number, 6, "click", at_us + S_US)])
    served.close()
    actions.close()
    now_us = BEGIN_US + 600 * S_US
    feed = _feed(tmp_path, late_s=1_000.0)
    assert feed.step(now_us=now_us) == 0
    assert feed.step(now_us=now_us + 3_600 * S_US) == 0, "those of the first minute were open when reports ended"
    assert _feed(tmp_path, late_s=1_000.0, keep_s=60.0).step(now_us=now_us + 3_600 * S_US) == 900


def test_what_the_disk_did_not_take_is_written_with_what_comes_next(tmp_path: Path, monkeypatch: Any) -> None:
    clock = [BEGIN_US]
    served, actions = _logs(tmp_path, clock)
    feed = _feed(tmp_path)
    served.append(_answer(0, BEGIN_US))
    served.append(_answer(1, BEGIN_US + 30 * S_US))

    def full(*_: Any) -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr("rankwell.mitigation.flink_outcome_feed.write_flink_outcomes", full)
        with pytest.raises(OSError):
            feed.step(now_us=BEGIN_US + 90 * S_US)
    assert feed.step(now_us=BEGIN_US + 200 * S_US) == feed.num_rows == 4
    served.close()
    actions.close()


def test_no_requests_and_no_actions(tmp_path: Path) -> None:
    ServedLog(tmp_path, SCHEMA, worker="w0", seed=1, now_us=lambda: BEGIN_US).close()
    feed = _feed(tmp_path)
    assert feed.step(now_us=BEGIN_US) == feed.num_rows == 0
    assert list((tmp_path / "outcomes").iterdir()) == []


def test_a_feed_that_does_not_know_where_it_was_is_refused(tmp_path: Path) -> None:
    clock = [BEGIN_US]
    served, actions = _logs(tmp_path, clock)
    served.append(_answer(0, BEGIN_US))
    served.close()
    actions.close()
    assert _feed(tmp_path).step(now_us=BEGIN_US + 100 * S_US) == 2
    (state,) = (tmp_path / "outcomes").glob(".outcomes-*.state")
    whole = state.read_bytes()
    for text in (b"", b"{}", whole[: len(whole) // 2], whole.partition(b"\n")[0], whole.replace(b"settled_us", b"x")):
        state.write_bytes(text)
        with pytest.raises(MonitoringError, match="how far"):
            _feed(tmp_path)
    state.unlink()
    with pytest.raises(MonitoringError, match="how far"):
        _feed(tmp_path)
