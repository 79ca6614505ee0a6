"""One worker process: loads what it answers with, listens, and ends when it is told to, with nothing half done."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final

import torch
from granian.constants import Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from rankwell.errors import RankwellError
from rankwell.serving.action_log import ActionLog
from rankwell.serving.attended import HeadsOfRequest
from rankwell.serving.bundle import read_bundle
from rankwell.serving.http.application import application
from rankwell.serving.http.front_door import FrontDoor
from rankwell.serving.http.metrics import Metrics
from rankwell.serving.http.readiness import report
from rankwell.serving.http.serve_settings import ServeSettings
from rankwell.serving.http.server_state import ServerState
from rankwell.serving.rank_service import RankService
from rankwell.serving.served_log import ServedLog
from rankwell.serving.server_clock import ServerClock

__all__ = ["CANNOT_START", "run_worker", "server_state"]

CANNOT_START: Final = 3
"""The exit status of a worker that could not be set up: another try would end the same way."""

_LOG: Final = logging.getLogger("rankwell.serving")
_POLL_S: Final = 0.5
_DEATH_OF_PARENT: Final = 1  # PR_SET_PDEATHSIG
_CONNECTIONS: Final = 4096


def server_state(
    settings: ServeSettings, *, worker: str, server: str, clock: ServerClock, logs: ExitStack
) -> ServerState:
    """A worker without its socket: what its routes work with.

    Args:
        settings: Of the server.
        worker: Name of this process in the log: letters, digits and _.
        server: One text for all workers.
        clock: The server's.
        logs: Closes the logs, and the feature stores.

    Raises:
        RankwellError: A bundle, a store, a key or a log cannot be opened.
    """
    live = settings.live_bundles()
    logs.callback(live.close)
    served_log, action_log = None, None
    if settings.log is not None:
        schema = live.state.current.bundle.schema
        served_log = logs.enter_context(
            ServedLog(
                settings.log, schema, worker=worker, server=server, seed=settings.seed, now_us=clock.now_us,
                sync_s=settings.log_sync_s,
            )
        )  # fmt: skip
        action_log = logs.enter_context(
            ActionLog(
                settings.log, schema, worker=worker, server=server, now_us=clock.now_us, sync_s=settings.log_sync_s
            )
        )
    heads = None if settings.heads is None else HeadsOfRequest(read_bundle(settings.heads))
    return ServerState(
        RankService(live, clock=clock, log=served_log), settings.limits, settings.tokens, Metrics(), clock,
        served_log=served_log, action_log=action_log, heads=heads,
    )  # fmt: skip


def run_worker(
    settings: ServeSettings, number: int, server: str, clock: ServerClock, on_ready: Callable[[], None]
) -> None:
    """Serve until SIGTERM; it is what a worker process does from its beginning to its end."""
    with suppress(OSError, AttributeError):  # Linux: no worker outlives the process that watches over it
        ctypes.CDLL(None).prctl(_DEATH_OF_PARENT, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent tells us when to end
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    torch.set_num_threads(settings.num_threads)
    with ExitStack() as logs:
        try:
            state = server_state(settings, worker=f"w{number}", server=server, clock=clock, logs=logs)
        except RankwellError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201
            sys.exit(CANNOT_START)
        gc.collect()
        gc.freeze()  # what was loaded stays; no collection of garbage needs to look at it again
        asyncio.run(_serve(state, settings, on_ready))


async def _serve(state: ServerState, settings: ServeSettings, on_ready: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    told_to_end = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told_to_end.set)
    server = Server(
        FrontDoor(application(state), state),
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGINL,
        websockets=False,
        log_enabled=False,
        backlog=_CONNECTIONS,
        backpressure=2 * _CONNECTIONS,  # connections, idle ones too: a request is refused by the queue, and says so
        http1_settings=HTTP1Settings(header_read_timeout=round(settings.limits.body_timeout_s * 1e3)),
    )
    serving = loop.create_task(server.serve())
    watching = loop.create_task(_watch(state))
    waiting = loop.create_task(told_to_end.wait())
    await asyncio.sleep(0.05)  # granian has no word for "listening"
    on_ready()
    await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
    state.is_draining = True
    await asyncio.sleep(settings.limits.drain_s)  # whoever looks at readiness sends no more
    await state.queue.close()
    server.stop()  # type: ignore[no-untyped-call]
    await serving
    for task in (watching, waiting):
        task.cancel()
    report(state)


async def _watch(state: ServerState) -> None:
    """Twice a second: look for new bundles, corrections and features, beside the requests."""
    while True:
        try:
            if await asyncio.to_thread(state.service.live.poll):
                found = state.live
                _LOG.info("bundle %s answers; problems: %s", found.current.bundle.id, dict(found.problems))
            await asyncio.to_thread(report, state)  # it may seal a segment, and wait for the disk
        except Exception as error:  # whatever it is, requests go on being answered as before
            _LOG.error("looking for what is new failed", exc_info=error)
        await asyncio.sleep(_POLL_S)
