"""What a progress bar shows of steps."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from rankwell.app import progress as progress_module
from rankwell.app.progress import progress_of_simulation, progress_of_training
from rankwell.training.loop import StepReport


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
