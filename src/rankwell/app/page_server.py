"""A few pages over HTTP from a process that does something else: read only, in threads of its own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Self, final

from rankwell.errors import RequestError

__all__ = ["HTML", "Page", "PageServer"]

HTML: Final = "text/html; charset=utf-8"
_LOG: Final = logging.getLogger("rankwell.watching")
_LOCAL: Final = ("127.0.0.1", "localhost")
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_TIMEOUT_S: Final = 10.0


@final
@dataclass(frozen=True, slots=True)
class Page:
    """What is at a path.

    Args:
        content: Called for each request.
        content_type: Of the header.
    """

    content: Callable[[], bytes]
    content_type: str = HTML


@final
class PageServer:
    """Answers GET and HEAD, with 304 where the browser has the same content already.

    Args:
        pages: By path.
        host, port: Where; port 0 is a free one.
        password: That a browser asks for, with any name; None: this machine alone may be the host.

    Raises:
        RequestError: The port is taken; or others could ask, and there is no password.
    """

    def __init__(
        self, pages: Mapping[str, Page], *, host: str = "127.0.0.1", port: int = 0, password: str | None = None
    ) -> None:
        if password is None and host not in _LOCAL:
            raise RequestError(
                "pages without a password are for this machine alone", found=host, allowed="127.0.0.1",
                do="give --password-file, or leave --host out",
            )  # fmt: skip
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(pages, password, host))
        except OSError as error:
            raise RequestError(
                f"pages can't be served at {host}, port {port}", found=error.strerror, do="choose another port"
            ) from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="pages", daemon=True)
        self._thread.start()
        self.url = f"http://{host}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(pages: Mapping[str, Page], password: str | None, host: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S  # of a connection that says nothing
        protocol_version = "HTTP/1.1"
        server_version = "rankwell"
        sys_version = ""

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            _LOG.debug(format, *args)

        def _answer(self, *, with_body: bool) -> None:
            if host in _LOCAL and password is None and not self._is_asked_as_local():
                self._send(421, b"asked for by another name", "text/plain", with_body=with_body)
                return
            if password is not None and not self._knows(password):
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="rankwell", charset="UTF-8"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            page = pages.get(self.path.partition("?")[0])
            if page is None:
                self._send(404, b"there is nothing here", "text/plain", with_body=with_body)
                return
            try:
                content = page.content()
            except Exception as error:  # a page that fails must not end the watch, nor show its inside
                _LOG.error("a page can't be drawn", exc_info=error)
                self._send(500, b"the page can't be drawn; see the log", "text/plain", with_body=with_body)
                return
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            if self.headers.get("If-None-Match") == tag:
                self.send_response(304)
                self.send_header("ETag", tag)
                self.end_headers()
                return
            self._send(200, content, page.content_type, with_body=with_body, tag=tag)

        def _send(self, status: int, body: bytes, kind: str, *, with_body: bool, tag: str | None = None) -> None:
            self.send_response(status)
            headers = {"Content-Type": kind, "Content-Length": str(len(body)), **_HEADERS}
            for name, value in (headers if tag is None else {**headers, "ETag": tag}).items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def _is_asked_as_local(self) -> bool:
            """Another site whose name was made to point here has its own name in the header."""
            return self.headers.get("Host", "").rsplit(":", 1)[0].strip("[]") in _LOCAL

        def _knows(self, secret: str) -> bool:
            kind, _, given = self.headers.get("Authorization", "").partition(" ")
            try:
                _, _, said = base64.b64decode(given, validate=True).partition(b":")
            except ValueError:
                return False
            return kind.lower() == "basic" and hmac.compare_digest(said, secret.encode())

    return Handler
