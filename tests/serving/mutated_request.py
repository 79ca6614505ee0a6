"""Requests that are almost right, and bytes that are almost requests."""

from __future__ import annotations

import json
import random
from typing import Any

import http_example as example

__all__ = ["mutated"]

_ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**40, 0.5, -0.0, 1e39, 1e-320,
    1e308, "", "7", "job", "\x00", "ä", "💥" * 3, "a" * 2_000, [], [[]], [None], {}, {"": 0}, [1, "a"], [[1], [2, 3]],
]  # fmt: skip
_RAW = [
    b"NaN", b"Infinity", b"-0", b"1e999", b"0" * 5_000, b"9" * 400, b'"\\ud800"', b"\xff\xfe", b"\x00", b"{", b"}",
    b",", b"[" * 3_000, b'{"a":' * 900, b"//", b"\n" * 1_000, b'"',
]  # fmt: skip


def mutated(random: random.Random) -> tuple[bytes, int | None, set[int] | None]:
    """A body, and, where it is JSON of a request, its id and its items as they stand in it.

    Up to two values of a request are dropped, doubled, replaced, moved or added to; or its bytes are cut, flipped or
    added to.
    """
    content: Any = example.request(random.choice((0, 1, 2, 7, 20)), request_id=random.randrange(2**53), length=5)
    if random.random() < 0.2:
        content["candidates"]["bid_micros"] = [5] * len(content["candidates"]["job"])
    for _ in range(random.randint(0, 2)):
        content = _changed(content, random)
    body = json.dumps(content).encode("utf-8", "surrogatepass")
    if random.random() < 0.3:
        return _damaged(body, random), None, None
    id_ = content.get("request_id") if isinstance(content, dict) else None
    candidates = content.get("candidates") if isinstance(content, dict) else None
    items = candidates.get("job") if isinstance(candidates, dict) else None
    plain = isinstance(items, list) and all(type(item) is int for item in items)
    return body, id_ if type(id_) is int else None, set(items) if plain and items else None


def _changed(content: Any, random: random.Random) -> Any:
    """One value somewhere in it is another."""
    holders = list(_holders(content))
    if not holders:
        return random.choice(_ODD)
    holder, key = random.choice(holders)
    match random.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.insert(key, holder[key])
        case 2 if isinstance(holder, dict):
            holder[random.choice(("job", "colour", "", "request_id", "__class__", "history"))] = holder.pop(key)
        case 3:
            other, other_key = random.choice(holders)
            holder[key] = json.loads(json.dumps(other[other_key]))
        case _:
            holder[key] = random.choice(_ODD)
    return content


def _holders(content: Any) -> Any:
    if isinstance(content, dict | list):
        for key in list(content) if isinstance(content, dict) else range(len(content)):
            yield content, key
            yield from _holders(content[key])


def _damaged(body: bytes, random: random.Random) -> bytes:
    at = random.randrange(len(body) + 1)
    match random.randrange(4):
        case 0:
            return body[:at]
        case 1:
            return body[:at] + random.choice(_RAW) + body[at:]
        case 2:
            return body[:at] + bytes([random.randrange(256)]) + body[at + 1 :]
        case _:
            return body[:at] + random.choice(_RAW) + body[at + random.randrange(40) :]
