"""One connection to a server, spoken to in bytes, so that what no client would send can be sent."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from typing import Final, final

__all__ = ["RawConnection", "Reply"]

Reply = tuple[int, bytes]
"""Status and body; 0 where the connection ended without one, -1 where bytes came that nobody had asked for."""

_LONGEST_S: Final = 30.0
_END: Final = b"\r\n\r\n"


@final
class RawConnection:
    """It is opened anew when it was closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._received = b""
        self.num_opened = 0

    def ask(self, content: bytes) -> Reply:
        """Send a request that is as long as it says, and wait for its answer."""
        if self._received:  # nobody asked for it
            return -1, self._received
        is_new = self._socket is None
        reply = self._asked(content)
        if not reply[0] and not is_new:  # an idle connection may be closed at any time
            reply = self._asked(content)
        return reply

    def ask_and_end(self, content: bytes) -> list[Reply]:
        """Send some bytes and no more, on a connection of their own, and take all that comes until its end."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=_LONGEST_S) as alone:
            received = b""
            with suppress(OSError):
                alone.sendall(content)
                alone.shutdown(socket.SHUT_WR)
            with suppress(OSError):
                while piece := alone.recv(1 << 16):
                    received += piece
        replies = []
        while received:
            reply, received = _split(received)
            if reply is None:
                break
            replies.append(reply)
        return replies

    def close(self) -> None:
        """End it."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._received = None, b""

    def _asked(self, content: bytes) -> Reply:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=_LONGEST_S)
            self.num_opened += 1
        with suppress(OSError):  # the answer may be there though the server did not want all of it
            self._socket.sendall(content)
        reply = None
        while reply is None:
            try:
                piece = self._socket.recv(1 << 18)
            except OSError:
                piece = b""
            if not piece:
                self.close()
                return 0, b""
            self._received += piece
            reply, self._received = _split(self._received)
        return reply


def _split(received: bytes) -> tuple[Reply | None, bytes]:
    """The first answer in some bytes, and what follows it; None where it isn't whole."""
    head, end, rest = received.partition(_END)
    if not end or not head.startswith(b"HTTP/1.1 "):
        return None, received
    length = re.search(rb"^content-length: *(\d+)", head, re.IGNORECASE | re.MULTILINE)
    num = int(length[1]) if length else 0
    return (None, received) if len(rest) < num else ((int(head[9:12]), rest[:num]), rest[num:])
