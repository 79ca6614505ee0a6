"""The parent of the worker processes: starts them, starts anew those that die, and ends them all."""

from __future__ import annotations

import logging
import multiprocessing
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any, Final, final

from rankwell.errors import RequestError
from rankwell.serving.http.metrics import forget_process, share_metrics
from rankwell.serving.http.serve_settings import ServeSettings
from rankwell.serving.http.worker import CANNOT_START, run_worker
from rankwell.serving.server_clock import ServerClock

__all__ = ["serve"]

_LOG: Final = logging.getLogger("rankwell.serving")
_YOUNG_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 5.0
_GRACE_S: Final = 30.0


def serve(
    settings: ServeSettings, *, clock: ServerClock | None = None, on_ready: Callable[[str], None] | None = None
) -> int:
    """Serve until SIGTERM or SIGINT. All workers listen at one port; the kernel shares connections out.

    Args:
        settings: Of the server.
        clock: By default the system's.
        on_ready: Told the URL once every worker listens.

    Returns:
        The exit status: 0 where all ended in order, 2 where a worker could not start.

    Raises:
        RequestError: The port is taken, or the host is open to others and there are no tokens.
    """
    return _Supervisor(settings, clock or ServerClock.of_the_system(), on_ready).run()


@final
class _Supervisor:
    def __init__(self, settings: ServeSettings, clock: ServerClock, on_ready: Callable[[str], None] | None) -> None:
        _check_host(settings)
        self._socket = _reserved(settings.host, settings.port)
        self._settings = replace(settings, port=self._socket.getsockname()[1])
        self._clock, self._on_ready = clock, on_ready
        self._server = secrets.token_hex(8)
        self._context = multiprocessing.get_context("fork")  # what is imported here is shared by all
        self._ready_reader, self._ready_writer = self._context.Pipe(duplex=False)
        self._workers: dict[int, Any] = {}
        self._started_s: dict[int, float] = {}
        self._pause_s: dict[int, float] = {}
        self._due_s: dict[int, float] = {}
        self._is_ending = False
        self._status = 0
        self._num_ready = 0

    def run(self) -> int:
        with tempfile.TemporaryDirectory(prefix="rankwell-metrics-") as folder:
            share_metrics(folder)
            for kind in (signal.SIGTERM, signal.SIGINT):
                signal.signal(kind, self._end)
            for number in range(self._settings.num_workers):
                self._start(number)
            while self._workers or (self._due_s and not self._is_ending):
                self._look()
            return self._status

    def _start(self, number: int) -> None:
        worker = self._context.Process(
            target=run_worker,
            args=(self._settings, number, self._server, self._clock, lambda: self._ready_writer.send(number)),
            name=f"rankwell-w{number}",
        )
        told = (signal.SIGTERM, signal.SIGINT)
        signal.pthread_sigmask(signal.SIG_BLOCK, told)  # our handlers are not the worker's, which resets them
        try:
            worker.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, told)
        self._workers[number], self._started_s[number] = worker, time.monotonic()

    def _look(self) -> None:
        pauses = [due_s - time.monotonic() for due_s in self._due_s.values()]
        sentinels = {worker.sentinel: number for number, worker in self._workers.items()}
        found = wait([*sentinels, self._ready_reader], timeout=max(0.0, min([1.0, *pauses])))
        if self._ready_reader in found:
            self._ready_reader.recv()
            self._num_ready += 1
            if self._num_ready == self._settings.num_workers and self._on_ready is not None:
                host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
                self._on_ready(f"http://{host}:{self._settings.port}")
        for sentinel in found:
            if sentinel in sentinels:
                self._ended(sentinels[sentinel])
        if not self._is_ending:
            for number in [n for n, due_s in self._due_s.items() if due_s <= time.monotonic()]:
                del self._due_s[number]
                self._start(number)

    def _ended(self, number: int) -> None:
        worker = self._workers.pop(number)
        worker.join()
        forget_process(worker.pid)
        if self._is_ending:
            in_order = (0, -signal.SIGTERM)  # the second: it had not begun to answer
            self._status = self._status or (0 if worker.exitcode in in_order else 1)
            return
        if worker.exitcode == CANNOT_START and self._num_ready < self._settings.num_workers:
            self._status = 2
            self._end()
            return
        lived_s = time.monotonic() - self._started_s[number]
        pause_s = 0.0 if lived_s > _YOUNG_S else min(_LONGEST_PAUSE_S, 2 * self._pause_s.get(number, 0.0) or 0.1)
        self._pause_s[number], self._due_s[number] = pause_s, time.monotonic() + pause_s
        _LOG.warning("worker %d ended with status %s, and is started anew", number, worker.exitcode)

    def _end(self, *_: object) -> None:
        if self._is_ending:  # told twice: at once
            for worker in list(self._workers.values()):
                worker.kill()
            return
        self._is_ending = True
        for worker in list(self._workers.values()):
            with suppress(OSError):
                worker.terminate()
        signal.signal(signal.SIGALRM, lambda *_: self._end())
        signal.setitimer(signal.ITIMER_REAL, _GRACE_S + self._settings.limits.drain_s)


def _check_host(settings: ServeSettings) -> None:
    if settings.tokens.is_open and settings.host not in ("127.0.0.1", "::1", "localhost"):
        raise RequestError(
            "a server without tokens is for this machine alone", found=settings.host, allowed="127.0.0.1 or ::1",
            do="give --tokens FILE, or leave --host out",
        )  # fmt: skip


def _reserved(host: str, port: int) -> socket.socket:
    """A socket that holds the port, and doesn't listen; workers listen at the same one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if port:
            with socket.socket(family) as alone:  # two servers at one port would share its connections unseen
                alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                alone.bind((host, port))
        held = socket.socket(family)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
    except OSError as error:
        raise RequestError(
            f"the server can't listen at {host}, port {port}", found=error.strerror,
            do="choose another port, or end what listens there",
        ) from None  # fmt: skip
    return held
