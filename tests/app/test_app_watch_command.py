"""`rankwell watch`: once, for ever until SIGTERM, and what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import watch_view_example as example
from rankwell.app import watch_command
from rankwell.app.command_line import app
from rankwell.app.server_latency import ServerLatency
from rankwell.app.watch_command import TableSink
from rankwell.app.watch_loop import WatchLoop
from rankwell.errors import LogError, MitigationError, MonitoringError, RequestError
from rankwell.mitigation.kept_watch import KeptWatch, WatchSettings
from rankwell.mitigation.watch_view import WatchView
from rankwell.monitoring.baseline import Baseline, HeldDays
from rankwell.monitoring.drift_watch import DriftWatch
from rankwell.monitoring.rate_watch import RateWatch
from rankwell.monitoring.reading import Reading
from watched_log import START_US, TICK_US, write_log


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["watch", *map(str, arguments)])


class Told:
    """A sink that remembers when rounds were."""

    def __init__(self) -> None:
        self.views: list[WatchView] = []

    def tell(self, view: WatchView) -> None:
        self.views.append(view)

    def close(self) -> None:
        pass


class Time:
    """A clock that goes on where somebody waits, and things that happen at a time."""

    def __init__(self, start_us: int, end_us: int) -> None:
        self.now_us, self.end_us = start_us, end_us
        self.at: dict[int, Any] = {}

    def wait(self, seconds: float) -> bool:
        self.now_us += round(seconds * 1e6)
        for at_us in [one for one in self.at if one <= self.now_us]:
            self.at.pop(at_us)()
        return self.now_us >= self.end_us


def loop(folder: Path, clock: Time, problems: list[str | None]) -> tuple[WatchLoop, Told]:
    told = Told()
    settings = WatchSettings(folder=folder, segment="level", least_rows=100)
    return WatchLoop(
        settings, [told], now_us=lambda: clock.now_us, wait=clock.wait, on_problem=problems.append
    ), told  # fmt: skip


def test_one_round_is_printed_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_command, "_now_us", lambda: START_US + 9 * TICK_US)
    write_log(tmp_path, num_ticks=8, per_tick=20)
    found = run(tmp_path, "--segment", "level", "--once")
    assert found.exit_code == 0, found.output
    assert "readings until 2026-09-21 16:30 UTC" in found.output
    assert run(tmp_path, "--segment", "level", "--once").output.splitlines()[-1].startswith("0 rows came")


@pytest.mark.parametrize(
    ("arguments", "days_off", "utc_offset_s"),
    [
        ((), (5, 6), 0),
        (("--day-off", "fri", "--day-off", "sat", "--utc-offset-h", "3.5"), (4, 5), 12_600),
        (("--day-off", "none", "--utc-offset-h", "-5"), (), -18_000),
    ],
)
def test_days_off_and_when_a_day_begins_are_options(
    arguments: tuple[str, ...], days_off: tuple[int, ...], utc_offset_s: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    compared_with: list[Baseline] = []

    def readings(watch: DriftWatch | RateWatch, *_: object, **__: object) -> list[Reading]:
        compared_with.append(watch.baseline)
        return []

    for watch in (DriftWatch, RateWatch):
        monkeypatch.setattr(watch, "readings", readings)
    monkeypatch.setattr(watch_command, "_now_us", lambda: START_US + 9 * TICK_US)
    write_log(tmp_path, num_ticks=8, per_tick=20)
    found = run(tmp_path, "--segment", "level", "--once", *arguments)
    assert found.exit_code == 0, found.output
    assert compared_with == 2 * [HeldDays(days_off=days_off, utc_offset_s=utc_offset_s)], "drift and rates"


def test_what_cannot_be_watched_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    for arguments, error in (
        (("--once",), LogError),
        (("--mode", "act"), MitigationError),
        (("--day-off", "fri", "--day-off", "none"), MonitoringError),
        (("--webhook", "http://127.0.0.1:9/"), RequestError),
        (("--webhook", "nowhere", "--webhook-key-file", key), RequestError),
        (("--serve", "--port", "0", "--host", "0.0.0.0"), RequestError),
    ):
        assert isinstance(run(tmp_path, "--segment", "level", *arguments).exception, error), arguments


def test_rounds_follow_the_quarter_hours_once_there_is_a_log(tmp_path: Path) -> None:
    clock, problems = Time(START_US, START_US + 11 * TICK_US), []
    watching, told = loop(tmp_path, clock, problems)
    clock.at[START_US + 7 * TICK_US + 60_000_000] = lambda: write_log(tmp_path, num_ticks=7, per_tick=20)
    watching.run()
    ends = [(view.report.window_end_us - START_US) // TICK_US for view in told.views]
    assert ends == [7, 8, 9, 10], "the first at once, the others soon after their ends"
    assert all((view.now_us - view.report.window_end_us) / 1e6 < 10 for view in told.views[1:])
    assert "no served log" in str(problems[0])
    assert problems[-1] is None


def test_a_clock_that_goes_back_has_another_next_quarter_hour(tmp_path: Path) -> None:
    write_log(tmp_path, num_ticks=7, per_tick=20)
    clock = Time(START_US + 8 * TICK_US, START_US + 12 * TICK_US)
    watching, told = loop(tmp_path, clock, [])

    def back() -> None:
        clock.now_us, clock.end_us = START_US + 2 * TICK_US, START_US + 4 * TICK_US

    clock.at[START_US + 9 * TICK_US + 60_000_000] = back
    watching.run()
    assert [(view.report.window_end_us - START_US) // TICK_US for view in told.views] == [8, 9, 2, 3]


def test_the_kill_switch_does_not_wait_for_the_quarter_hour(tmp_path: Path) -> None:
    write_log(tmp_path / "log", num_ticks=7, per_tick=20)
    root = tmp_path / "root"
    (root / "mitigation").mkdir(parents=True)
    (root / "rollout.json").write_text('{"format_version": 1, "current": "0123456789abcdef"}')
    clock, told = Time(START_US + 8 * TICK_US, START_US + 9 * TICK_US), Told()
    settings = WatchSettings(folder=tmp_path / "log", segment="level", least_rows=100, deployed=root, mode="act")
    clock.at[START_US + 8 * TICK_US + 60_000_000] = (root / "mitigation" / "stop").touch
    WatchLoop(settings, [told], now_us=lambda: clock.now_us, wait=clock.wait).run()
    assert [(view.now_us - START_US - 8 * TICK_US) // 1_000_000 for view in told.views] == [0, 60], "once"


def test_a_round_that_fails_is_said_and_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(tmp_path, num_ticks=7, per_tick=20)
    clock, problems = Time(START_US + 8 * TICK_US, START_US + 8 * TICK_US + 100_000_000), []
    watching, told = loop(tmp_path, clock, problems)
    real, fails = KeptWatch.look, [MonitoringError("no"), OSError(28, "No space left on device")]

    def look(watch: KeptWatch) -> WatchView:
        if fails:
            raise fails.pop(0)
        return real(watch)

    monkeypatch.setattr(KeptWatch, "look", look)
    watching.run()
    assert len(told.views) == 1
    assert ["no" in str(problems[0]), "No space left" in str(problems[1]), problems[2]] == [True, True, None]
    assert told.views[0].now_us == START_US + 8 * TICK_US + 60_000_000


def test_alarms_are_a_table_and_a_quiet_round_is_none() -> None:
    console = Console(width=120, record=True, quiet=False, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    TableSink(console).tell(example.view())
    text = console.export_text()
    console.file.close()
    assert "psi years" in text
    assert "0.31" in text
    assert "over: psi <b>pay</b> in all" in text
    assert "apply: title 7" in text


def test_latency_is_of_the_requests_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    def metrics(*counts: int) -> bytes:
        edges = ("0.005", "0.01", "+Inf")
        return b"".join(
            f'rankwell_stage_seconds_bucket{{le="{edge}",stage="all"}} {count}.0\n'.encode()
            for edge, count in zip(edges, counts, strict=True)
        )

    monkeypatch.setattr(ServerLatency, "_run", lambda self: None)
    now_s, answers = [0.0], [metrics(1000, 1000, 1000), metrics(1050, 1100, 1100), metrics(1050, 1100, 1100), None]

    class Answer:
        def __enter__(self) -> Answer:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def read(self, most: int) -> bytes:
            answer = answers.pop(0)
            if answer is None:
                raise OSError("gone")
            return answer

    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Answer())
    latency = ServerLatency("http://127.0.0.1:8000/", elapsed_s=lambda: now_s[0])
    latency.look()
    now_s[0] = 10.0
    latency.look()
    assert latency.shown() == {"ms, P50 / P95 of requests": "5.0 / 9.5", "requests a second": "10.0"}
    latency.look()
    assert list(latency.shown().values()) == ["0"]
    latency.look()
    assert latency.shown() == {"the server does not say its latency": "–"}
    assert latency.points() == ()
    answers += [metrics(0, 0, 0), metrics(90, 100, 100), metrics(90, 100, 100), None, metrics(5, 10, 10)]
    for now_s[0] in (70.0, 130.0, 190.0, 200.0, 250.0):
        latency.look()
    points = latency.points()
    assert [point.minute for point in points] == [1], "in the next minute nothing was asked"
    assert (points[0].p50_ms, points[0].p95_ms) == (pytest.approx(50 / 18), pytest.approx(7.5))
    with pytest.raises(RequestError):
        ServerLatency("file:///etc/passwd")


@pytest.mark.slow  # a process that is started, asked and ended
def test_the_process_shows_its_page_and_metrics_and_ends_at_sigterm(tmp_path: Path) -> None:
    start_us = (time.time_ns() // 1_000 // TICK_US - 8) * TICK_US
    write_log(tmp_path, num_ticks=8, per_tick=20, start_us=start_us)
    command = [sys.executable, "-c", "from rankwell.app.entry import main; main()", "watch", str(tmp_path),
               "--segment", "level", "--serve", "--port", "0", "--metrics-port", "0"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            metrics, page = (process.stdout.readline().split()[-1] for _ in range(2))
            for _ in range(300):
                with urllib.request.urlopen(f"{page}/content", timeout=10) as answer:
                    if b"alarms in force" in answer.read():
                        break
                time.sleep(0.1)
            with urllib.request.urlopen(metrics, timeout=10) as answer:
                assert b"rankwell_watch_problems 0.0" in answer.read()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
    assert (tmp_path / "watch" / "counts.arrow").exists()
