"""Times and spans as a reader sees them."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["clock_text", "span_text"]


def clock_text(time_us: int) -> str:
    """A time of UTC.

    >>> clock_text(1_790_000_000_000_000)
    '21 Sep 14:13 UTC'
    """
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%d %b %H:%M UTC")


def span_text(span_us: int) -> str:
    """A span in whole minutes.

    >>> span_text(59_000_000), span_text(7_260_000_000), span_text(-1)
    ('< 1 min', '2 h 1 min', '< 1 min')
    """
    minutes = span_us // 60_000_000
    if minutes < 1:
        return "< 1 min"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
