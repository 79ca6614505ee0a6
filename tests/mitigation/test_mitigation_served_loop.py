"""The loop closed for once without a drill: a server over HTTP, its folder, its log, and a watch that may act.

Letters in names: K candidates of one request.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from rankwell.calibration.segment_isotonic import SegmentIsotonic
from rankwell.calibration.segment_levels import halves_of
from rankwell.data.request import batch_from_request
from rankwell.data.statistics import ColumnStatistics, NumericStatistics
from rankwell.mitigation.kept_watch import KeptWatch, WatchSettings
from rankwell.models.wide_deep import Logistic
from rankwell.schema import Action, Categorical, Exposure, Numeric, Schema
from rankwell.serving.action_log import ActionLog, ReportedAction
from rankwell.serving.bundle import Bundle, write_bundle
from rankwell.serving.correction import CORRECTIONS, Correction, read_correction
from rankwell.serving.ranker import Ranker
from rankwell.serving.rollout import RolloutFolder
from rankwell.serving.served_log import ServedLog
from rankwell.serving.served_request import served_request

S_US, TICK_US = 1_000_000, 900_000_000
START_US = 1_790_000_100_000_000 // TICK_US * TICK_US
DAY = 100
"""Quarter-hours of the log before the server is started."""
HURT, FACTOR = 1, 3.0
SCHEMA = Schema(
    features=(Categorical(name="job"), Categorical(name="level"), Numeric(name="pay")),
    actions=(Action(name="click", window_s=300),),
    item="job",
    member_id="member_id",
    exposure=Exposure(position="position", propensity="propensity"),
)


def bundle(odds: float) -> Bundle:
    """One whose odds for jobs of one level are so many times too high."""
    column = ColumnStatistics(
        num_values=9, missing_rate=0.0, mean=0.0, sd=1.0, log_mean=0.0, log_sd=1.0, quantiles=(-2.0, 0.0, 2.0)
    )
    model = Logistic(SCHEMA, NumericStatistics(columns={"pay": column}), seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.6)
    levels = torch.from_numpy(halves_of(np.arange(3)))
    offsets = torch.tensor([0.0, math.log(odds), 0.0], dtype=torch.float64)
    line = torch.tensor([-9.0, 9.0])
    calibrator = SegmentIsotonic(line, line - 1.5, levels, offsets)
    return Bundle(model=model, calibrators={"click": calibrator}, created_us=0, calibrate_by=("level",))


@dataclass
class World:
    """Requests of nine jobs of three levels, and clicks at the chances that the right bundle gives."""

    right: Ranker
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    number: int = 0

    def request(self, time_us: int) -> dict[str, Any]:
        self.number += 1
        level_K = np.arange(9) % 3
        pay_K = self.rng.normal(0.0, 1.0, 9).round(4)
        candidates = {"job": list(range(9)), "level": level_K.tolist(), "pay": pay_K.tolist()}
        return {"request_id": self.number, "member_id": 1, "time_us": time_us, "context": {}, "candidates": candidates}

    def clicks(self, request: dict[str, Any]) -> list[int]:
        p_K = self.right.rank(request).scores.probabilities_CA[:, 0].numpy()
        return [int(job) for job in np.flatnonzero(self.rng.random(9) < p_K)]

    def write_day(self, folder: Path, bundle_id: str) -> None:
        """What the server would have logged in the day before."""
        now_us = START_US
        with (
            ServedLog(folder, SCHEMA, worker="day", seed=0, now_us=lambda: now_us, segment_s=1e9) as log,
            ActionLog(folder, SCHEMA, worker="day", now_us=lambda: now_us, segment_s=1e9) as actions,
        ):
            for now_us in range(START_US, START_US + DAY * TICK_US, 60 * S_US):
                request = self.request(now_us)
                batch = batch_from_request(request, SCHEMA)
                log.append(
                    served_request(batch, self.right.rank_batch(batch), bundle_id=bundle_id, calibrate_by=("level",))
                )
                shown = [ReportedAction(self.number, job, "click", now_us + S_US) for job in self.clicks(request)]
                actions.append(shown)


@dataclass
class Served:
    """A server, and the clock that it and its watch go by."""

    time: Any
    host: str = ""

    def now_us(self) -> int:
        return int(self.time[0])

    def ask(self, connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> Any:
        connection.request(method, path, None if body is None else json.dumps(body).encode(),
                           {"content-type": "application/json"})  # fmt: skip
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return json.loads(content)

    def says(self, **expected: object) -> bool:
        """Whether it comes to say so of itself; of problems, their names."""
        for _ in range(200):
            connection = http.client.HTTPConnection(self.host, timeout=30)
            said = self.ask(connection, "GET", "/v2/health/ready")
            connection.close()
            said["problems"] = [*said["problems"]]
            if all(said[name] == value for name, value in expected.items()):
                return True
            time.sleep(0.05)
        return False

    def quarter_hour(self, world: World, start_us: int, num: int) -> list[dict[str, Any]]:
        """Requests and their clicks, evenly over a quarter-hour; the answers."""
        connection, answers = http.client.HTTPConnection(self.host, timeout=30), []
        for place in range(num):
            self.time[0] = start_us + place * TICK_US // num
            request = world.request(self.now_us())
            answers.append(self.ask(connection, "POST", "/v1/rank", request))
            actions = [
                {"request_id": request["request_id"], "item_id": job, "action": "click", "time_us": self.now_us() + 1}
                for job in world.clicks(request)
            ]
            if actions:
                self.ask(connection, "POST", "/v1/actions", {"actions": actions})
        connection.close()
        self.time[0] = start_us + TICK_US + 5 * S_US
        return answers


@contextmanager
def serving(root: Path, log: Path, clock: Path, now_us: int) -> Iterator[Served]:
    served = Served(np.memmap(clock, np.int64, "w+", shape=(1,)))
    served.time[0] = now_us
    program = Path(__file__).with_name("clocked_server.py")
    command = [sys.executable, str(program), str(root), str(log), str(clock)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("answering at "), line
        served.host = line.removeprefix("answering at http://").strip()
        try:
            yield served
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def ratio(answers: list[dict[str, Any]]) -> float:
    """The odds of jobs of the hurt level as they are served, over those of the other two."""
    odds: dict[bool, list[float]] = {True: [], False: []}
    for answer in answers:
        items = answer["items"]
        for job, p in zip(items["item_id"], items["probability"]["click"], strict=True):
            odds[job % 3 == HURT].append(math.log(p / (1 - p)))
    return math.exp(np.mean(odds[True]) - np.mean(odds[False]))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Of the server and of its log: a right bundle, a day of it, and a wrong one in its place."""
    root = RolloutFolder(tmp_path / "root")
    for name, odds in (("right", 1.0), ("wrong", FACTOR)):
        write_bundle(bundle(odds), tmp_path / name)
        root.deploy(tmp_path / name)
    return tmp_path / "root", tmp_path / "log"


@pytest.mark.slow  # a day of requests is logged, and a server answers an hour of them
@pytest.mark.parametrize("mode", ["act", "ask"])
def test_a_wrong_segment_is_corrected_at_the_server_and_the_kill_switch_takes_it_back(
    folders: tuple[Path, Path], tmp_path: Path, mode: Literal["act", "ask"]
) -> None:
    root, log = folders
    world = World(Ranker(bundle(1.0)))
    right_id, wrong_id = RolloutFolder(root).read().previous, RolloutFolder(root).read().current
    assert right_id is not None
    world.write_day(log, right_id)
    from_us, num, problems = START_US + DAY * TICK_US, 150, list[str]()
    settings = WatchSettings(folder=log, segment="level", deployed=root, mode=mode)
    with (
        serving(root, log, tmp_path / "clock", from_us) as server,
        KeptWatch(settings, now_us=server.now_us, say=problems.append) as watch,
    ):
        view, tick = watch.look(), 0
        watch.keep()
        assert not view.standing
        while not (root / CORRECTIONS).exists():
            assert tick < 6, "seen by its clicks, and corrected, within an hour and a half"
            assert server.says(bundle_id=wrong_id, correction_id=None)
            answers = server.quarter_hour(world, from_us + tick * TICK_US, num)
            assert abs(ratio(answers) / FACTOR - 1) < 0.2, "the bundle is wrong"
            view, tick = watch.look(), tick + 1
            watch.keep()
            if mode == "ask" and (waiting := list((root / "mitigation" / "proposals").glob("*.json"))):
                assert not (root / CORRECTIONS).exists(), "nobody has approved it"
                waiting[0].with_suffix(".approved").touch()
                view = watch.look()
        first = read_correction(root / CORRECTIONS)
        assert [decision.kind for decision in view.report.decisions][-1] == "apply"
        assert (first.bundle_id, view.bundle_id) == (wrong_id, wrong_id)
        assert {*first.log_odds_offsets["click"]["level"]} == {str(HURT)}, "no healthy segment is moved"
        assert server.says(correction_id=first.id)
        answers = server.quarter_hour(world, from_us + tick * TICK_US, num)
        assert {answer["correction_id"] for answer in answers} == {first.id}
        assert 0.6 < ratio(answers) < 1.6, "after some 60 clicks"
        (root / "mitigation" / "stop").touch()
        view = watch.look()
        assert [decision.kind for decision in view.report.decisions][-1] == "stop"
        assert not (root / CORRECTIONS).exists()
        assert server.says(correction_id=None)
        answers = server.quarter_hour(world, from_us + (tick + 1) * TICK_US, 10)
        assert {answer["correction_id"] for answer in answers} == {None}
        assert not watch.look().report.decisions, "it is off"
    assert problems == []


@pytest.mark.slow  # a server is started
def test_what_is_damaged_or_over_is_in_force_nowhere_and_said(folders: tuple[Path, Path], tmp_path: Path) -> None:
    root, log = folders
    world, from_us = World(Ranker(bundle(1.0))), START_US + DAY * TICK_US
    world.write_day(log, RolloutFolder(root).read().current)
    problems: list[str] = []
    settings = WatchSettings(folder=log, segment="level", deployed=root)
    with (
        serving(root, log, tmp_path / "clock", from_us) as server,
        KeptWatch(settings, now_us=server.now_us, say=problems.append) as watch,
    ):
        correction = Correction(
            id="by-hand", created_us=from_us, expires_us=from_us + 60 * S_US, reason="a test",
            log_odds_offsets={"click": {"level": {"1": -1.0}}},
        )  # fmt: skip
        (root / CORRECTIONS).write_text(correction.to_json())
        assert server.says(correction_id="by-hand", problems=[])
        found = watch.look().correction
        assert found is not None
        assert found.id == "by-hand"
        server.time[0] += 60 * S_US  # it is over
        assert server.says(correction_id=None, problems=[])
        assert watch.look().correction is None
        (root / CORRECTIONS).write_text(correction.to_json()[:-9])
        assert server.says(correction_id=None, problems=["correction"])
        view = watch.look()
        assert view.correction is None
        assert any("no correction is in force" in text for text in view.problems)
        assert server.quarter_hour(world, from_us, 1)[0]["correction_id"] is None
