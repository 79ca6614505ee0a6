"""Following a folder: whenever it is killed, each request and each action is counted once."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rankwell.errors import LogError, MonitoringError
from rankwell.mitigation.folder_watch import FolderWatch
from rankwell.monitoring.pane_layout import CategoricalBins, NumericBins, PaneLayout
from rankwell.monitoring.watch_counts import WatchCounts
from rankwell.schema import Action, Categorical, Exposure, Numeric, Schema
from rankwell.serving.action_log import ActionLog, ReportedAction
from rankwell.serving.served_log import ServedLog
from rankwell.serving.served_request import ServedRequest
from rankwell.types import MISSING_ID, Features

S_US = 1_000_000
SCHEMA = Schema(
    features=(Categorical(name="job"), Categorical(name="level"), Numeric(name="years", on="request")),
    actions=(Action(name="click", window_s=60),),
    item="job",
    exposure=Exposure(position="position", propensity="propensity"),
)
LAYOUT = PaneLayout(
    columns=(
        NumericBins(name="years", edges=(5.0,)),
        NumericBins(name="served_logit_click", edges=(-1.0, 0.0, 1.0)),
        NumericBins(name="served_probability_click", edges=(0.3, 0.5)),
    ),
    segments=CategoricalBins(name="level", top=(0, 1)),
)


def _answer(request_id: int, time_us: int) -> ServedRequest:
    features = Features(
        context={"years": torch.tensor([float(request_id % 9)])},
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
    )  # fmt: skip


def _counts(**changes: Any) -> WatchCounts:
    return WatchCounts(SCHEMA, LAYOUT, "click", **({"late_s": 20.0} | changes))


def _fail(error: LogError) -> None:
    raise error


class _KilledError(Exception):
    pass


def _logs(folder: Path, clock: list[int]) -> tuple[ServedLog, ActionLog]:
    served = ServedLog(folder, SCHEMA, worker="w0", seed=1, now_us=lambda: clock[0], segment_bytes=4_000)
    return served, ActionLog(folder, SCHEMA, worker="w0", now_us=lambda: clock[0])


def _equal(one: WatchCounts, other: WatchCounts) -> None:
    np.testing.assert_array_equal(one.pane.minutes_N, other.pane.minutes_N)
    np.testing.assert_array_equal(one.pane.segments_N, other.pane.segments_N)
    for name, counts in other.pane.counts.items():
        np.testing.assert_array_equal(one.pane.counts[name], counts)
    np.testing.assert_array_equal(one.outcomes.minutes_N, other.outcomes.minutes_N)
    np.testing.assert_allclose(one.outcomes.sums_NV6, other.outcomes.sums_NV6, rtol=1e-12)
    assert one.versions.table.equals(other.versions.table)
    assert list(one.trials) == list(other.trials)
    for trial, pane in other.trials.items():
        np.testing.assert_allclose(one.trials[trial].sums_NV6, pane.sums_NV6, rtol=1e-12)


def test_killed_at_twenty_moments_nothing_is_lost_or_counted_twice(tmp_path: Path, monkeypatch: Any) -> None:
    """It dies between two pieces, after counting and before writing, or after writing."""
    rng, clock = random.Random(0), [10_000 * S_US]
    served, actions = _logs(tmp_path, clock)
    checkpoint = tmp_path / "watch.state"
    watch = FolderWatch(tmp_path, _counts(), checkpoint, on_damage=_fail)
    number, kills, shown = 0, 0, []
    while kills < 20:
        clock[0] += rng.randrange(1, 8) * S_US
        for _ in range(rng.randrange(5)):
            served.append(_answer(number, clock[0]))
            shown.append((number, clock[0]))
            number += 1
        for request_id, at_us in rng.sample(shown, min(3, len(shown))):
            if clock[0] - at_us < 60 * S_US:
                actions.append([ReportedAction(request_id, rng.choice([4, 6]), "click", clock[0])])
        if rng.random() < 0.4:
            kills += 1
            fatal = rng.choice(["see", "see_actions", "settle", "write", "written"])
            real = getattr(watch.counts, "write" if fatal == "written" else fatal)

            def dies(*given: Any, real: Any = real, after: bool = fatal == "written", **named: Any) -> None:
                if after:
                    real(*given, **named)
                raise _KilledError

            monkeypatch.setattr(watch.counts, real.__name__, dies)
            with suppress(_KilledError):  # a step may have nothing of that kind to do
                watch.step(now_us=clock[0])
            watch = FolderWatch(tmp_path, _counts(), checkpoint, on_damage=_fail)
        else:
            watch.step(now_us=clock[0])
    clock[0] += 100 * S_US
    watch.step(now_us=clock[0])
    served.close()
    actions.close()
    plain = FolderWatch(tmp_path, _counts(late_s=10_000.0), tmp_path / "plain", on_damage=_fail)
    plain.step(now_us=clock[0])
    plain.counts.settle(now_us=clock[0] + 10_000 * S_US)
    assert number > 50
    assert int(watch.counts.pane.column("years").counts_B.sum()) == 2 * number
    assert watch.counts.outcomes.sums("served", [0, -3]).observed_G.sum() > 10
    _equal(watch.counts, plain.counts)


def test_counts_of_two_machines_add_up(tmp_path: Path) -> None:
    clock, halves = [10_000 * S_US], []
    for machine in range(3):  # the third has all
        folder = tmp_path / str(machine)
        served, actions = _logs(folder, clock)
        for number in range(30):
            if machine == 2 or number % 2 == machine:
                served.append(_answer(number, clock[0] + number * S_US))
        served.close()
        actions.close()
        watch = FolderWatch(folder, _counts(), folder / "watch", on_damage=_fail)
        watch.step(now_us=clock[0] + 30 * S_US)
        watch.step(now_us=clock[0] + 200 * S_US)
        halves.append(watch.counts)
    halves[0].pane = halves[0].pane + halves[1].pane
    halves[0].outcomes = halves[0].outcomes + halves[1].outcomes
    halves[0].versions = halves[0].versions + halves[1].versions
    _equal(halves[0], halves[2])


def test_duplicates_late_ones_and_clocks_that_are_wrong_are_counted_apart(tmp_path: Path) -> None:
    clock = [10_000 * S_US]
    served, actions = _logs(tmp_path, clock)
    for request_id, shift_s in ((1, 0), (1, 0), (2, -500), (3, 7_200), (4, 0)):
        served.append(_answer(request_id, clock[0] + shift_s * S_US))
    served.close()
    actions.close()
    watch = FolderWatch(tmp_path, _counts(), tmp_path / "watch", on_damage=_fail)
    watch.counts.settle(now_us=clock[0])  # it was there all the time; one that was away looks further back
    watch.step(now_us=clock[0])
    report = watch.counts.arrivals.report
    assert (report.num_counted, report.num_duplicates, report.num_late, report.num_ahead) == (2, 1, 1, 1)


def test_a_clock_that_was_a_day_ahead_for_once_costs_what_was_open_then_and_no_more(tmp_path: Path) -> None:
    clock = [10_000 * S_US]
    served, actions = _logs(tmp_path, clock)
    watch = FolderWatch(tmp_path, _counts(), tmp_path / "watch", on_damage=_fail)
    for number in range(60):
        clock[0] += 10 * S_US
        served.append(_answer(number, clock[0]))
        actions.append([ReportedAction(number, 6, "click", clock[0] + S_US)])
        watch.step(now_us=clock[0] + (86_400 * S_US if number == 30 else 2 * S_US))
    served.close()
    actions.close()
    watch.step(now_us=clock[0] + 200 * S_US)
    sums = watch.counts.outcomes.sums("served", [-3, 0])
    assert watch.counts.arrivals.report.num_counted == 60
    assert sums.num_requests_G.tolist() == [60, 60]
    assert sums.observed_G[0] >= 59, "one click had not come yet when it was settled"


def test_one_that_was_away_for_long_counts_what_came_meanwhile(tmp_path: Path) -> None:
    clock = [10_000 * S_US]
    served, actions = _logs(tmp_path, clock)
    FolderWatch(tmp_path, _counts(), tmp_path / "watch", on_damage=_fail).step(now_us=clock[0])
    for number in range(10):
        served.append(_answer(number, clock[0] + number * 60 * S_US))
    actions.append([ReportedAction(2, 6, "click", clock[0] + 150 * S_US)])
    served.close()
    actions.close()
    watch = FolderWatch(tmp_path, _counts(), tmp_path / "watch", on_damage=_fail)
    watch.step(now_us=clock[0] + 7_200 * S_US)
    assert watch.counts.arrivals.report.num_counted == 10
    sums = watch.counts.outcomes.sums("served", [-3, 0])  # the item of level 2, and that of level 0
    assert (sums.observed_G.tolist(), sums.num_requests_G.tolist()) == ([1.0, 0.0], [10, 10])


def test_a_checkpoint_of_another_watch_or_a_broken_one_is_refused(tmp_path: Path) -> None:
    clock = [10_000 * S_US]
    for log in _logs(tmp_path, clock):
        log.close()
    path = tmp_path / "watch"
    FolderWatch(tmp_path, _counts(), path, on_damage=_fail).step(now_us=clock[0])
    other = WatchCounts(SCHEMA, PaneLayout(columns=(NumericBins(name="years", edges=(7.0,)),)), "click")
    with pytest.raises(MonitoringError, match="another layout"):
        FolderWatch(tmp_path, other, path, on_damage=_fail)
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"{}" + whole):
        path.write_bytes(broken)
        with pytest.raises(MonitoringError, match="no checkpoint"):
            FolderWatch(tmp_path, _counts(), path, on_damage=_fail)


def test_minutes_of_days_before_are_summed_up_to_quarter_hours(tmp_path: Path) -> None:
    clock = [30 * 86_400 * S_US]
    served, actions = _logs(tmp_path, clock)
    for minute in range(45):
        served.append(_answer(minute, clock[0] + minute * 60 * S_US))
    served.close()
    actions.close()
    watch = FolderWatch(tmp_path, _counts(), tmp_path / "watch", on_damage=_fail)
    watch.step(now_us=clock[0] + 3_600 * S_US)
    fine, settled = watch.counts.pane, watch.counts.outcomes
    watch.step(now_us=clock[0] + 40 * 3_600 * S_US)
    coarse = watch.counts.pane
    assert (len(np.unique(fine.minutes_N)), len(np.unique(coarse.minutes_N))) == (45, 3)
    assert coarse.column("years").counts_B.tolist() == fine.column("years").counts_B.tolist()
    assert len(np.unique(watch.counts.outcomes.minutes_N)) == 3
    assert watch.counts.outcomes.sums("served", [0]).num_requests_G >= settled.sums("served", [0]).num_requests_G


def test_what_is_older_than_is_kept_is_forgotten(tmp_path: Path) -> None:
    clock = [10_000 * S_US]
    served, actions = _logs(tmp_path, clock)
    served.append(_answer(1, clock[0]))
    watch = FolderWatch(tmp_path, _counts(keep_s=600.0), tmp_path / "watch", on_damage=_fail)
    watch.step(now_us=clock[0])
    watch.step(now_us=clock[0] + 300 * S_US)
    assert (len(watch.counts.pane), len(watch.counts.outcomes)) == (2, 2)
    watch.step(now_us=clock[0] + 1_000 * S_US)
    assert (len(watch.counts.pane), len(watch.counts.outcomes), len(watch.counts.versions)) == (0, 0, 0)
    served.close()
    actions.close()
