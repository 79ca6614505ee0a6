"""`rankwell compact FOLDER` and `rankwell label FOLDER`: what a server logged becomes a log to train on."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from rankwell.app.json_file import Json, write_json
from rankwell.mitigation.watch_progress import WatchProgress, watch_progress, without_watch
from rankwell.serving.action_log import compact_actions
from rankwell.serving.log_compaction import compact_served
from rankwell.serving.served_training import label_served

__all__ = ["compact", "label"]

_console: Final = Console()
LogFolderArgument = Annotated[
    Path, typer.Argument(exists=True, file_okay=False, help="The folder that a server logs to.")
]


def compact(
    folder: LogFolderArgument,
    ignore_watch: Annotated[
        bool, typer.Option("--ignore-watch", help="Take what a watch that is gone for good has still to read.")
    ] = False,
    json_file: Json = None,
) -> None:
    """Move a server's finished segments into Parquet, each answer and each action once; the server may be running.

    What `rankwell watch` has still to read of the folder is left.
    """
    numbers: dict[str, float] = {}
    table = Table("", "new rows", "repeated", "refused", "segments", "left", "files")
    watch, num_held = watch_progress(folder), 0
    with ExitStack() as stack:
        if watch is not None and ignore_watch:
            stack.enter_context(without_watch(folder))
            watch = None
        for kind, compaction in (("served", compact_served), ("actions", compact_actions)):
            if kind == "actions" and not (folder / kind).is_dir():
                continue
            report = compaction(folder, read_by=() if watch is None else (watch.of(kind),))
            num_held += report.num_held
            table.add_row(
                kind, f"{report.num_rows:,}", f"{report.num_duplicates:,}", f"{report.num_refused:,}",
                f"{report.num_segments:,}", f"{report.num_held:,}", f"{len(report.parts):,}",
            )  # fmt: skip
            for error in report.errors:
                _console.print(f"[yellow]{kind}[/]: {error}", highlight=False)
            numbers |= {
                f"{kind}_num_rows": report.num_rows,
                f"{kind}_num_duplicates": report.num_duplicates,
                f"{kind}_num_refused": report.num_refused,
                f"{kind}_num_segments": report.num_segments,
                f"{kind}_num_held": report.num_held,
                f"{kind}_num_errors": len(report.errors),
            }
    _console.print(table)
    if watch is not None and num_held:
        _console.print(_held(watch, num_held), highlight=False)
    write_json(json_file, numbers)


def _held(watch: WatchProgress, num_held: int) -> str:
    since = "no round is put down"
    if watch.kept_us is not None:
        since = f"its last round was at {datetime.fromtimestamp(watch.kept_us / 1e6, UTC):%Y-%m-%d %H:%M UTC}"
    return (
        f"left for the watch of the folder: {num_held:,} segments; {since}. They go with a compaction after its next "
        "round; if it is gone for good, with --ignore-watch."
    )


def label(
    folder: LogFolderArgument,
    out: Annotated[Path, typer.Option(help="The folder of the labelled log.")],
    now_us: Annotated[
        int | None, typer.Option(min=0, help="What is known at this time, in UTC microseconds; by default, now.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Join compacted actions to compacted answers: a log that `rankwell train` reads."""
    report = label_served(folder, out, now_us=time.time_ns() // 1_000 if now_us is None else now_us)
    numbers = {name: float(count) for name, count in asdict(report).items()}
    table = Table("actions", "")
    for name, count in numbers.items():
        table.add_row(name.removeprefix("num_").replace("_", " "), f"{count:,.0f}")
    _console.print(table)
    _console.print(f"log: {out}")
    write_json(json_file, numbers)
