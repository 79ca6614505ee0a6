"""Requests spoiled from a seed: in their JSON, in their bytes, in their headers, in how they are framed."""

from __future__ import annotations

import copy
import gzip
import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, final

__all__ = ["Message", "Mutator"]

_ODD: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 0.5, -0.0, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**40, 1e308, -1e308,
    5e-324, float("nan"), float("inf"), -float("inf"), "", "x", "1", "\0", "\ud800", "é" * 300, "../" * 40,
    "/etc/passwd", "x" * 5_000, [], {}, [[]], [None], {"": None}, [0] * 2_001, "NaN", "-1", str(2**64), "1e400",
)  # fmt: skip
_TYPES: Final = (
    "", "text/plain", "application/json; charset=utf-16", "APPLICATION/JSON", "application/jsonp", "application/xml",
    "application/vnd.apache.arrow.stream", "multipart/form-data; boundary=a", "application/json, text/plain", "\x7f",
)  # fmt: skip
_HEADERS: Final = (
    "deadline-ms: 0", "deadline-ms: -1", "deadline-ms: nan", "deadline-ms: inf", "deadline-ms: 1e-9", "deadline-ms: x",
    "deadline-ms: " + "9" * 400, "content-encoding: gzip", "content-encoding: br", "accept: text/html", "expect: 7",
    "authorization: Bearer", "authorization: Bearer x", "authorization: Basic eDp5", "authorization: Bearer \xff\xfe",
    "x: " + "y" * 20_000, "cookie: =;=;\t", "host: b", "upgrade: h2c", "x-forwarded-for: ::1", "accept-encoding: *;q=x",
    "range: bytes=0-1", "if-none-match: *", "te: trailers", "connection: upgrade",
)  # fmt: skip
_MOST_BYTES: Final = 2**19
_MOST_READ: Final = 4 * 2**20
"""The server reads no body that is longer, and may close the connection on what is still coming."""
_METHODS: Final = ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO", "post")
_PATHS: Final = (
    "/", "//", "/v1", "/v1/rank/", "/v1/rank?x=%00", "/v1/%72ank", "/v1/rank%00", "/v2/models/%ff/infer",
    "/v2/models//ready", "/v2/models/rankwell/infer/x", "/v2/models/" + "x" * 3_000, "/metrics?name[]=x",
    "/../../etc/passwd", "/%2e%2e/%2e%2e",
    "/schema/openapi.json", "/v1/rank#x", "/v1/admin/shadow", "/v1/admin/rollback/x", "*", "/v1/rank;x",
)  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Message:
    """A request as bytes.

    Args:
        head: Without the end of the head.
        body: As it is sent.
        is_framed: Whether the body is as long as the head says, so that the connection can be used on.
        may_break: Whether an end of the connection is an answer too.
    """

    head: str
    body: bytes
    is_framed: bool = True
    may_break: bool = False

    @property
    def content(self) -> bytes:
        """All of it."""
        return self.head.encode("latin-1") + b"\r\n\r\n" + self.body


@final
class Mutator:
    """Makes requests, and spoils them.

    Args:
        seed: The same requests for the same seed.
        token: Of a client who may everything.
    """

    def __init__(self, seed: int, token: str) -> None:
        self._random, self._token = random.Random(seed), token
        in_json: tuple[Callable[[Any], Any], ...] = (
            self._odd_value,
            self._odd_value,
            self._odd_value,
            self._other_key,
            self._swapped,
            self._sized,
            self._deep,
        )
        self._in_json = in_json
        self._in_bytes: tuple[Callable[[bytes], bytes], ...] = (
            self._flipped, self._cut, self._random_bytes, self._encoded, self._twice, self._huge_number, self._spliced,
        )  # fmt: skip

    def message(
        self, path: str, body: bytes, *, kind: str = "application/json", method: str = "POST", more: str = ""
    ) -> Message:
        """A request as it should be."""
        head = f"{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-type: {kind}\r\nauthorization: Bearer {self._token}"
        return Message(f"{head}{more}\r\ncontent-length: {len(body)}", body, may_break=len(body) > _MOST_READ)

    def mutated(self, path: str, content: Any, kind: str = "application/json") -> Message:
        """A request spoiled somehow.

        Args:
            path: Where it goes.
            content: JSON, or bytes of another kind.
            kind: Content type.
        """
        drawn = self._random.random()
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        if drawn < 0.5 and not isinstance(content, bytes):
            spoiled = json.loads(body)
            for _ in range(self._random.choice((1, 1, 1, 2, 3))):
                spoiled = self._random.choice(self._in_json)(spoiled)
            return self.message(
                path,
                json.dumps(spoiled, ensure_ascii=self._random.random() < 0.5).encode("utf-8", "surrogatepass"),
                kind=kind,
            )
        if drawn < 0.8:
            return self.message(path, self._random.choice(self._in_bytes)(body), kind=kind)
        if drawn < 0.93:
            return self._odd_head(path, body, kind)
        return self._misframed(path, body, kind)

    # --- in JSON

    def _places(self, content: Any) -> list[tuple[Any, Any]]:
        found: list[tuple[Any, Any]] = []
        waiting = [content]
        while waiting:
            at = waiting.pop()
            keys = list(at) if isinstance(at, dict) else list(range(min(len(at), 3))) if isinstance(at, list) else []
            found += [(at, key) for key in keys]
            waiting += [at[key] for key in keys]
        return found

    def _odd_value(self, content: Any) -> Any:
        places = self._places(content)
        if not places:
            return copy.deepcopy(self._random.choice(_ODD))
        at, key = self._random.choice(places)
        at[key] = copy.deepcopy(self._random.choice(_ODD))
        return content

    def _other_key(self, content: Any) -> Any:
        inside = [(at, key) for at, key in self._places(content) if isinstance(at, dict)]
        if inside:
            at, key = self._random.choice(inside)
            value = at.pop(key)
            if self._random.random() < 0.6:
                at[
                    self._random.choice(
                        (key.upper(), key + " ", "", "x", "__proto__", "\0", "member_id", "length", "id")
                    )
                ] = value
        return content

    def _swapped(self, content: Any) -> Any:
        places = self._places(content)
        if len(places) > 1:
            (a, i), (b, j) = self._random.sample(places, 2)
            first, second = json.dumps(a[i]), json.dumps(b[j])  # copies: a list must not come to hold itself
            a[i], b[j] = json.loads(second), json.loads(first)
        return content

    def _sized(self, content: Any) -> Any:
        lists = [(at, key) for at, key in self._places(content) if isinstance(at[key], list)]
        if lists:
            at, key = self._random.choice(lists)
            num = self._random.choice((0, 1, 2, 7, 300, 2_000, 2_001, 9_000))
            most = _MOST_BYTES * (1 + len(at[key])) // (1 + len(json.dumps(at[key])))  # an entry may be long itself
            at[key] = list(itertools.islice(itertools.cycle(at[key]), min(num, most)))
        return content

    def _deep(self, content: Any) -> Any:
        places = self._places(content)
        if places:
            at, key = self._random.choice(places)
            for _ in range(self._random.choice((1, 3, 200))):
                at[key] = [at[key]] if self._random.random() < 0.5 else {"x": at[key]}
        return content

    # --- in bytes

    def _flipped(self, body: bytes) -> bytes:
        found = bytearray(body)
        for _ in range(self._random.randint(1, 8)):
            found[self._random.randrange(len(found))] ^= 1 << self._random.randrange(8)
        return bytes(found)

    def _cut(self, body: bytes) -> bytes:
        return body[: self._random.randrange(len(body))]

    def _random_bytes(self, body: bytes) -> bytes:
        return self._random.randbytes(self._random.choice((0, 1, 10, len(body))))

    def _encoded(self, body: bytes) -> bytes:
        text = body.decode("latin-1")
        ways = (
            lambda: text.encode("utf-16"), lambda: text.encode("utf-32-be"), lambda: b"\xef\xbb\xbf" + body,
            lambda: gzip.compress(body, 1), lambda: body.replace(b"e", b"\xc1\xa5"), lambda: body.replace(b'"', b"'"),
            lambda: body + b"\0", lambda: body + body,
        )  # fmt: skip
        return self._random.choice(ways)()

    def _twice(self, body: bytes) -> bytes:
        key = self._random.choice(
            (b'"request_id":%d', b'"member_id":%d', b'"time_us":%d', b'"candidates":{"job":[%d]}', b'"id":"%d"')
        )
        return body[:-1] + b"," + key % self._random.randrange(2**40) + b"}"

    def _huge_number(self, body: bytes) -> bytes:
        digits = self._random.choice(
            (
                b"9" * 30,
                b"9" * 5_000,
                b"1e999",
                b"-1e999",
                b"1" + b"0" * 400 + b".5",
                b"0x1",
                b"01",
                b"+1",
                b"1.",
                b"NaN",
                b"-Infinity",
            )
        )
        at = [place for place in range(len(body)) if body[place : place + 1].isdigit()]
        place = self._random.choice(at) if at else 0
        return body[:place] + digits + body[place + 1 :]

    def _spliced(self, body: bytes) -> bytes:
        deep = self._random.choice((b"[" * 100_000, b'{"x":' * 50_000, b"[" * 900 + b"]" * 900))
        i, j = sorted((self._random.randrange(len(body)), self._random.randrange(len(body))))
        return self._random.choice((deep, body[:i] + deep + body[i:], body[j:] + body[:i], body[:i] + body[j:]))

    # --- in the head

    def _odd_head(self, path: str, body: bytes, kind: str) -> Message:
        match self._random.randrange(4):
            case 0:
                return self.message(path, body, kind=self._random.choice(_TYPES))
            case 1:
                return self.message(path, body, kind=kind, more="\r\n" + self._random.choice(_HEADERS))
            case 2:
                return self.message(path, body, kind=kind, method=self._random.choice(_METHODS))
            case _:
                return self.message(self._random.choice(_PATHS), body, kind=kind)

    def _misframed(self, path: str, body: bytes, kind: str) -> Message:
        whole = self.message(path, body, kind=kind)
        head = whole.head.rpartition("\r\n")[0]
        sizes = (
            "0",
            "-1",
            "x",
            "1, 2",
            str(len(body) // 2),
            str(len(body) + 10),
            "9" * 25,
            f"{len(body)}\r\ncontent-length: 3",
        )
        chunked = head + "\r\ntransfer-encoding: chunked"
        chunks = (
            b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), b"%x\r\n%s" % (len(body) + 5, body),
            b"-1\r\n" + body, b"zz\r\n" + body, b"f" * 17 + b"\r\n" + body,
            b"%x;%s\r\n%s\r\n0\r\nx: y\r\n\r\n" % (len(body), b"e" * 9_000, body),
        )  # fmt: skip
        match self._random.randrange(4):
            case 0:
                return Message(f"{head}\r\ncontent-length: {self._random.choice(sizes)}", body, False, True)
            case 1:
                return Message(chunked, self._random.choice(chunks), False, True)
            case 2:
                return Message(self._random.randbytes(self._random.randrange(200)).decode("latin-1"), body, False, True)
            case _:
                cut = whole.content[: self._random.randrange(len(whole.content))]
                return Message(cut.decode("latin-1"), b"", False, True)
