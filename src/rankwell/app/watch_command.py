"""`rankwell watch FOLDER`: what is served is watched, in a process of its own."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rankwell.app.dashboard import Dashboard
from rankwell.app.page_server import Page, PageServer
from rankwell.app.runbook import RunbookSink
from rankwell.app.server_latency import ServerLatency
from rankwell.app.watch_loop import WatchLoop
from rankwell.errors import MissingExtraError, MitigationError, MonitoringError, RequestError
from rankwell.mitigation.alarm_sinks import AlarmSink, LogSink
from rankwell.mitigation.alarm_webhook import WebhookSink, read_webhook_key
from rankwell.mitigation.kept_watch import WatchSettings
from rankwell.mitigation.watch_view import WatchView, segment_text
from rankwell.monitoring.baseline import HeldDays

if TYPE_CHECKING:
    from rankwell.mitigation.alarm_metrics import MetricsSink

__all__ = ["TableSink", "watch"]

_LEAST_PASSWORD: Final = 8


class DayOff(StrEnum):
    """A day of the week, as `HeldDays` numbers them, or none of them."""

    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"
    NONE = "none"


class Mode(StrEnum):
    """Of mitigation; see `MitigationPlan`."""

    ACT = "act"
    ASK = "ask"
    WATCH = "watch"
    OFF = "off"


def watch(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The folder that a server logs to.")],
    segment: Annotated[str, typer.Option(help="The categorical feature by whose values segments are told apart.")],
    action: Annotated[str | None, typer.Option(help="Whose calibration is watched; by default the first.")] = None,
    deployed: Annotated[Path | None, typer.Option(help="What `rankwell deploy` points at: to correct there.")] = None,
    mode: Annotated[Mode, typer.Option(help="With --deployed: watch is a dry run.")] = Mode.WATCH,
    days_per_false_alarm: Annotated[float, typer.Option(min=0.01, help="One in so many days, of all there is.")] = 7.0,
    day_off: Annotated[
        list[DayOff] | None, typer.Option(help="Compared with days off alone, once or more; by default sat and sun.")
    ] = None,
    utc_offset_h: Annotated[
        float, typer.Option(min=-12, max=14, help="Hours by which members' clocks are ahead of UTC.")
    ] = 0.0,
    once: Annotated[bool, typer.Option("--once", help="One round, and no more.")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="A dashboard over HTTP.")] = False,
    host: Annotated[str, typer.Option(help="Without a password, this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Of the dashboard; 0: a free one.")] = 8050,
    password_file: Annotated[Path | None, typer.Option(exists=True, help="Of the dashboard, for any name.")] = None,
    server: Annotated[str | None, typer.Option(help="URL of `rankwell serve`: its latency is shown.")] = None,
    webhook: Annotated[str | None, typer.Option(help="URL that alarms are posted to, signed.")] = None,
    webhook_key_file: Annotated[Path | None, typer.Option(exists=True, help="The key of the signature.")] = None,
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Prometheus's /metrics here.")] = None,
) -> None:
    """Watch a folder of served requests: alarms, a dashboard, and corrections if wanted, until SIGTERM."""
    if mode is not Mode.WATCH and deployed is None:
        raise MitigationError(
            "there is nothing to mitigate in", found=f"--mode {mode}", do="give --deployed, the folder of the servers"
        )
    if (webhook is None) != (webhook_key_file is None):
        raise RequestError("a webhook's messages are signed", do="give both --webhook and --webhook-key-file")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = WatchSettings(
        folder=folder, segment=segment, action=action, deployed=deployed, mode=mode.value,
        days_per_false_alarm=days_per_false_alarm, baseline=_baseline(day_off, utc_offset_h),
    )  # fmt: skip
    ends = threading.Event()
    with ExitStack() as stack:
        sinks: list[AlarmSink] = [LogSink(), TableSink(Console(), every_round=once)]
        sinks.append(RunbookSink(folder / "watch" / "incidents", deployed=deployed))
        if webhook is not None and webhook_key_file is not None:
            sinks.append(WebhookSink(webhook, read_webhook_key(webhook_key_file), now_us=_now_us))
        latency = None
        if server is not None:
            latency = ServerLatency(server)
            stack.callback(latency.close)
        dashboard = Dashboard(str(folder), now_us=_now_us, latency=latency)
        sinks.append(dashboard)
        for sink in sinks:
            stack.callback(sink.close)
        pages = {"/": Page(dashboard.page), "/content": Page(dashboard.content)}
        if metrics_port is not None:
            metrics, page = _metrics()
            sinks.append(metrics)
            pages["/metrics"] = page
            at = stack.enter_context(PageServer({"/metrics": page}, port=metrics_port))
            print(f"metrics at {at.url}/metrics", flush=True)  # noqa: T201
        if serve:
            password = None if password_file is None else _password(password_file)
            at = stack.enter_context(PageServer(pages, host=host, port=port, password=password))
            print(f"dashboard at {at.url}", flush=True)  # noqa: T201
        loop = WatchLoop(settings, sinks, now_us=_now_us, wait=_waiting(ends), on_problem=dashboard.problem)
        if once:
            loop.once()
            return
        for kind in (signal.SIGTERM, signal.SIGINT):
            signal.signal(kind, lambda *_: ends.set())
        loop.run()


@final
class TableSink:
    """Prints what a round found, where it found something.

    Args:
        console: Where to.
        every_round: Also where nothing is new.
    """

    def __init__(self, console: Console, *, every_round: bool = False) -> None:
        self._console, self._every_round = console, every_round

    def tell(self, view: WatchView) -> None:
        """See `AlarmSink`."""
        report = view.report
        if not (self._every_round or view.is_news):
            return
        until = datetime.fromtimestamp(report.window_end_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M UTC")
        table = Table("alarm", "where", "value", "limit", "rows", "window", title=f"until {until}")
        for reading in report.readings:
            if reading.is_alarm:
                table.add_row(
                    escape(f"{reading.name} {reading.column}"), escape(segment_text(view.feature, reading.segment)),
                    f"{reading.value:.4g}", f"{reading.limit:.4g}", f"{reading.num_rows:,}",
                    f"{reading.window_s / 60:.0f} min",
                )  # fmt: skip
        if table.row_count:
            self._console.print(table)
        for run in view.ended:
            self._console.print(f"over: {run.name} {run.column} in {segment_text(view.feature, run.segment)}")
        for decision in report.decisions:
            self._console.print(f"{decision.kind}: {escape(decision.reason)}", highlight=False)
        self._console.print(
            f"{report.num_rows:,} rows came, {len(report.readings):,} readings until {until}, "
            f"{len(view.standing)} alarms in force", highlight=False,
        )  # fmt: skip

    def close(self) -> None:
        """See `AlarmSink`."""


def _baseline(days_off: list[DayOff] | None, utc_offset_h: float) -> HeldDays:
    utc_offset_s = round(3600 * utc_offset_h)
    if days_off is None:
        return HeldDays(utc_offset_s=utc_offset_s)
    if DayOff.NONE in days_off and len({*days_off}) > 1:
        raise MonitoringError(
            "days are off and none is", found=[day.value for day in days_off], do="leave out --day-off none"
        )
    week = list(DayOff)
    return HeldDays(
        days_off=tuple(week.index(day) for day in days_off if day is not DayOff.NONE), utc_offset_s=utc_offset_s
    )


def _metrics() -> tuple[MetricsSink, Page]:
    try:
        from rankwell.mitigation.alarm_metrics import METRICS_TYPE, MetricsSink
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "metrics need a library that isn't installed", found=error.name, do="pip install 'rankwell[serve]'"
        ) from None
    sink = MetricsSink()
    return sink, Page(sink.text, METRICS_TYPE)


def _password(path: Path) -> str:
    text = path.read_text("utf-8").strip()
    if len(text) < _LEAST_PASSWORD:
        raise RequestError("the password is short", found=f"{len(text)} characters", allowed=f"{_LEAST_PASSWORD}")
    return text


def _waiting(ends: threading.Event) -> Callable[[float], bool]:
    return lambda seconds: ends.wait(seconds)


def _now_us() -> int:
    return time.time_ns() // 1_000
