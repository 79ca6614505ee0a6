"""What a progress bar shows of steps."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from rankwell.app import progress as progress_module
from rankwell.app.progress import progress_of_simulation, progress_of_stream, progress_of_training
from rankwell.training.loop import StepReport
from rankwell.training.stream import StreamReport


class Clock:
    """The time in seconds, which the test sets, and the bars that run by it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.bars: list[Progress] = []

    def bar(self, *columns: object, **settings: object) -> Progress:
        self.bars.append(Progress(*columns, **settings, get_time=lambda: self.now, auto_refresh=False))  # type: ignore[arg-type]
        return self.bars[-1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module, "Progress", clock.bar)
    return clock


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120, record=True, color_system=None)


def last_line(console: Console) -> str:
    return console.export_text().replace("\r", "\n").strip().splitlines()[-1]


def test_steps_show_rate_loss_and_time_left(clock: Clock) -> None:
    console = terminal()
    with progress_of_training(console, max_epochs=3, name="Deep") as on_step:
        for second, num_requests in enumerate((100, 200, 300)):  # 100 requests of 10 candidates a second, of 1,000
            clock.now = float(second)
            on_step(StepReport(1, num_requests, 10 * num_requests, 1_000, 0.5 - 0.1 * second))
        clock.now = 2.05
        on_step(StepReport(1, 305, 3_050, 1_000, 9.9))  # too soon to be shown
        clock.now = 3.0
        on_step(StepReport(1, 400, 4_000, 1_000, 0.1234))
        clock.bars[0].refresh()
        line = last_line(console)
    assert "Deep, epoch 2 of at most 3" in line
    assert "1,000 rows/s  loss 0.1234" in line
    assert "0:00:06" in line


def test_a_step_of_no_requests_and_an_empty_epoch_show_no_rate(clock: Clock) -> None:
    console = terminal()
    with progress_of_training(console, max_epochs=1) as on_step:
        on_step(StepReport(0, 0, 0, 0, float("nan")))
        on_step(StepReport(0, 0, 0, 10, 0.25))
        clock.now = 1.0
        on_step(StepReport(0, 0, 0, 10, 0.25))
        clock.bars[0].refresh()
        line = last_line(console)
    assert "loss 0.2500" in line
    assert "rows/s" not in line.replace("0 rows/s", "")


def test_simulation_counts_requests(clock: Clock) -> None:
    console = terminal()
    with progress_of_simulation(console, 4_000) as on_requests:
        on_requests(2_048)
        clock.bars[0].refresh()
        assert "2,048 requests" in last_line(console)


def test_a_stream_that_goes_on_shows_its_own_speed_and_the_time_left(clock: Clock) -> None:
    """It begins at 600 of 1,000 requests; those were not of this start, so the speed is 100 a second and not 700."""
    console = terminal()
    with progress_of_stream(console, name="Deep") as on_step:
        for second, num_requests in enumerate((600, 700, 800)):
            clock.now = float(second)
            on_step(StreamReport(2, 5, num_requests, 2 * num_requests, 1_000, 0.5))
        clock.now = 2.05
        on_step(StreamReport(2, 5, 805, 1_610, 1_000, 9.9))  # too soon to be shown
        clock.now = 3.0
        on_step(StreamReport(3, 5, 900, 1_800, 1_000, 0.1234))
        clock.bars[0].refresh()
        line = last_line(console)
    assert "Deep, piece 4 of 5" in line
    assert "200 rows/s  held-out loss 0.1234" in line
    assert "0:00:01" in line


def test_a_stream_of_unknown_length_shows_no_time_left(clock: Clock) -> None:
    console = terminal()
    with progress_of_stream(console) as on_step:
        for second in range(4):
            clock.now = float(second)
            on_step(StreamReport(0, 5, 100 * (second + 1), 100 * (second + 1), None, 0.5))
        clock.bars[0].refresh()
        line = last_line(console)
    assert "100 rows/s" in line
    assert line.rstrip().endswith("100 rows/s  held-out loss 0.5000")
