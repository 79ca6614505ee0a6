"""Progress bars of long work: what is under way, how fast, with what loss, and how long it still takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rankwell.training.loop import StepReport
from rankwell.training.stream import StreamReport

__all__ = ["progress_of_simulation", "progress_of_stream", "progress_of_training"]


@contextmanager
def progress_of_training(
    console: Console, max_epochs: int, name: str = "train"
) -> Iterator[Callable[[StepReport], None]]:
    """A bar over the requests of an epoch; the yielded function is `fit`'s ``on_step``."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rate]}  loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as progress:
        task = progress.add_task(name, total=None, rate="", loss=float("nan"))
        told_at = -math.inf

        def on_step(report: StepReport) -> None:
            # a bar that is told of every step costs more than the step; ten times a second is what an eye can use
            nonlocal told_at
            now = progress.get_time()
            if report.num_requests >= report.num_requests_total or now - told_at >= 0.1:
                told_at = now
                speed = progress.tasks[0].speed
                a_request = report.num_candidates / report.num_requests if report.num_requests else 0.0
                progress.update(
                    task,
                    description=f"{name}, epoch {report.epoch + 1} of at most {max_epochs}",
                    total=report.num_requests_total,
                    completed=report.num_requests,
                    rate=f"{speed * a_request:,.0f} rows/s" if speed else "",
                    loss=report.loss,
                )

        yield on_step


@contextmanager
def progress_of_stream(console: Console, name: str = "train") -> Iterator[Callable[[StreamReport], None]]:
    """A bar over the requests of all pieces; the yielded function is `fit_stream`'s ``on_step``.

    The time left is known where all pieces say how many requests they hold; after a restart it is that of what is left.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rate]}  held-out loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as progress:
        task: TaskID | None = None
        told_at = -math.inf

        def on_step(report: StreamReport) -> None:
            nonlocal task, told_at
            now = progress.get_time()
            if task is None:  # what was done before this start must not count as its speed
                task = progress.add_task(
                    name, total=report.num_requests_total, completed=report.num_requests, rate="", loss=float("nan")
                )
            if report.num_requests == report.num_requests_total or now - told_at >= 0.1:
                told_at = now
                speed = progress.tasks[0].speed
                progress.update(
                    task,
                    description=f"{name}, piece {report.piece + 1} of {report.num_pieces}",
                    completed=report.num_requests,
                    rate=f"{speed * report.num_candidates / report.num_requests:,.0f} rows/s" if speed else "",
                    loss=report.log_loss,
                )

        yield on_step


@contextmanager
def progress_of_simulation(console: Console, num_requests: int) -> Iterator[Callable[[int], None]]:
    """A bar over the requests simulated."""
    columns = (TextColumn("simulate"), BarColumn(), TextColumn("{task.completed:,.0f} requests"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("simulate", total=num_requests)
        yield lambda done: progress.update(task, completed=done)
